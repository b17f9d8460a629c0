package kms

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"cardkms/derive"
	"cardkms/derive/emv"
	"cardkms/kms/approval"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// emvQuestion is an application cryptogram.
type emvQuestion struct {
	Transaction
	profile emv.Profile
}

// emvQuestionOf reads profile, key, dki, psn, atc, un, data and arqc of a transaction, as
// emv.verify has them, in hexadecimal but for the names. The card is named by its PAN,
// padded with F to 20 digits, in the place of key diversification data.
func (s *Service) emvQuestionOf(p approval.Proposal, card []byte) (q emvQuestion, err error) {
	bad := fault.New(fault.InvalidInput, "a cryptogram is explained by profile, key, dki, atc, data and arqc, and maybe psn and un; the card is the PAN with F up to 20 digits")
	if !onlyParams(p, "profile", "key", "dki", "psn", "atc", "un", "data", "arqc") {
		return q, bad
	}
	if q.profile, err = emv.ProfileOf(p.Params["profile"]); err != nil {
		return q, err
	}
	if q.profile.Experimental() {
		return q, fault.New(fault.InvalidInput, "cryptograms of this profile are not explained")
	}
	q.Issuer, q.Key, q.Profile = p.Issuer, p.Params["key"], p.Params["profile"]
	q.Card = emv.Card{PAN: strings.TrimRight(fmt.Sprintf("%X", card), "F"), PSN: p.Params["psn"]}
	if err := q.Card.Check(); err != nil {
		return q, err
	}
	fixed := map[string]int{"dki": 1, "atc": 2, "arqc": 8}
	value := map[string][]byte{}
	for _, name := range []string{"dki", "atc", "arqc", "data", "un"} {
		b, err := hex.DecodeString(p.Params[name])
		if n, ok := fixed[name]; err != nil || ok && len(b) != n {
			return q, bad
		}
		value[name] = b
	}
	if len(value["data"]) == 0 || len(value["un"]) != 0 && len(value["un"]) != 4 {
		return q, bad
	}
	q.DKI, q.Data = value["dki"][0], value["data"]
	q.Input = emv.Input{ATC: uint16(value["atc"][0])<<8 | uint16(value["atc"][1]), UN: value["un"], ARQC: value["arqc"]}
	return q, nil
}

// emvHypothesis is one way in which a card might have computed its cryptogram.
type emvHypothesis struct {
	version    key.Version
	option     emv.Option
	psn        string
	derivation emv.Derivation
	padding    emv.Padding
	atc        int // more than the transaction says
}

// hypotheses returns all that are tried, the nearest to what the service expects first:
// under every 3DES key of the issuer for EMV, because keys are mistaken for each other.
func (q emvQuestion) hypotheses(versions []key.Version) (out []emvHypothesis) {
	sequences := []string{q.Card.PSN}
	if q.Card.PSN != "" && q.Card.PSN != "00" {
		sequences = append(sequences, "00")
	}
	for _, v := range versions {
		if !slices.Contains(emvUsages, v.Usage) || !v.Algorithm.TDEA() || !searchable(v) {
			continue
		}
		for _, psn := range sequences {
			out = append(out, q.ways(emvHypothesis{version: v, psn: psn})...)
		}
	}
	slices.SortStableFunc(out, func(a, b emvHypothesis) int { return cmp.Compare(len(q.differences(a)), len(q.differences(b))) })
	return out
}

// ways returns a hypothesis about a key and a card with every way of computing.
func (q emvQuestion) ways(h emvHypothesis) (out []emvHypothesis) {
	for _, h.option = range []emv.Option{emv.OptionA, emv.OptionB} {
		for _, h.derivation = range []emv.Derivation{emv.MasterItself, emv.CSK, emv.SKD} {
			for _, h.padding = range []emv.Padding{emv.Padding1, emv.Padding2} {
				for _, h.atc = range []int{0, 1, -1} {
					needless := h.option == emv.OptionB && len(q.Card.PAN) <= 16 && q.profile.Option != emv.OptionB ||
						h.derivation == emv.SKD && len(q.UN) != 4 || h.derivation == emv.MasterItself && h.atc != 0
					if !needless {
						out = append(out, h)
					}
				}
			}
		}
	}
	return out
}

// differences names in what a hypothesis differs from what the service expects.
func (q emvQuestion) differences(h emvHypothesis) (out []string) {
	add := func(differs bool, word string) {
		if differs {
			out = append(out, word)
		}
	}
	add(h.version.ID.Name != q.Key || h.version.Usage != key.EMVAC, "key:"+h.version.ID.Name)
	add(h.version.KVN != q.DKI, fmt.Sprintf("dki:%02X", h.version.KVN))
	add(h.option != q.profile.Option && len(q.Card.PAN) > 16, "option:"+string(h.option))
	add(h.psn != q.Card.PSN, "psn:00")
	add(h.derivation != q.profile.Cryptogram, "session-key:"+string(h.derivation))
	add(h.padding != q.profile.Padding, fmt.Sprintf("padding:%d", h.padding))
	add(h.atc == 1, "atc:one-more")
	add(h.atc == -1, "atc:one-less")
	return out
}

func (q emvQuestion) search(ctx context.Context, s *Service) (explanation, error) {
	t, ok := s.cfg.Token.(derive.TDEAToken)
	if !ok {
		return "", errNoRetail
	}
	all, err := s.versions(ctx, q.Issuer)
	if err != nil {
		return "", err
	}
	return explain(q.hypotheses(all), func(h emvHypothesis) (bool, []string, error) {
		found, err := q.try(ctx, t, h)
		return found, q.differences(h), err
	})
}

// try reports whether a hypothesis explains the cryptogram.
func (q emvQuestion) try(ctx context.Context, t derive.TDEAToken, h emvHypothesis) (bool, error) {
	m, err := cardkey.EMV(h.version, h.option, emv.Card{PAN: q.Card.PAN, PSN: h.psn})
	if err != nil {
		return false, err
	}
	in := q.Input
	in.ATC = uint16(int(in.ATC) + h.atc) // around 0000 and FFFF too, where no card counts on
	k, err := m.MAC(h.derivation, in, false)
	if err != nil {
		return false, err
	}
	defer t.Release(append(k.Keys(), m.Key())...)
	return verified(emv.Verify(ctx, t, k, h.padding, q.Data, q.ARQC))
}
