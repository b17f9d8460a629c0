package explain

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"cardkms/derive"
	"cardkms/derive/emv"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// cryptogram is an application cryptogram with the transaction that it is of.
type cryptogram struct {
	profile emv.Profile
	key     string
	dki     byte // derivation key index
	card    emv.Card
	in      emv.Input
	data    []byte // what the cryptogram covers
}

// Cryptogram reads a question about an application cryptogram of the card whose PAN this
// is, padded with F to 20 digits, in the place of key diversification data. What is no such
// question is fault.InvalidInput, and an unknown profile fault.NotFound.
func Cryptogram(params map[string]string, pan []byte) (Question, error) {
	profile, err := emv.ProfileOf(params["profile"])
	bad := fault.New(fault.InvalidInput, "a cryptogram is explained by profile, key, dki, atc, data and arqc, and maybe psn and un; the card is the PAN with F up to 20 digits")
	switch {
	case !only(params, "profile", "key", "dki", "psn", "atc", "un", "data", "arqc"):
		return nil, bad
	case err != nil:
		return nil, err
	case profile.Experimental():
		return nil, fault.New(fault.InvalidInput, "cryptograms of this profile are not explained")
	}
	card := emv.Card{PAN: strings.TrimRight(fmt.Sprintf("%X", pan), "F"), PSN: params["psn"]}
	if err := card.Check(); err != nil {
		return nil, err
	}
	value, ok := values(params)
	if !ok {
		return nil, bad
	}
	return cryptogram{
		profile: profile, key: params["key"], dki: value["dki"][0], card: card, data: value["data"],
		in: emv.Input{ATC: binary.BigEndian.Uint16(value["atc"]), UN: value["un"], ARQC: value["arqc"]},
	}, nil
}

// values reads the parameters of a cryptogram that are bytes, and reports whether all of
// them have a length that they may have.
func values(params map[string]string) (value map[string][]byte, ok bool) {
	value = map[string][]byte{}
	for _, name := range []string{"dki", "atc", "arqc", "data", "un"} {
		b, err := hex.DecodeString(params[name])
		if err != nil {
			return nil, false
		}
		value[name] = b
	}
	un := len(value["un"])
	return value, len(value["dki"]) == 1 && len(value["atc"]) == 2 && len(value["arqc"]) == 8 && len(value["data"]) > 0 && (un == 0 || un == 4)
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
func (q cryptogram) hypotheses(versions []key.Version) (out []emvHypothesis) {
	sequences := []string{q.card.PSN}
	if q.card.PSN != "" && q.card.PSN != "00" {
		sequences = append(sequences, "00")
	}
	for _, v := range versions {
		if !v.Usage.EMV() || !v.Algorithm.TDEA() || !searchable(v) {
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
func (q cryptogram) ways(h emvHypothesis) (out []emvHypothesis) {
	for _, h.option = range []emv.Option{emv.OptionA, emv.OptionB} {
		for _, h.derivation = range []emv.Derivation{emv.MasterItself, emv.CSK, emv.SKD} {
			for _, h.padding = range []emv.Padding{emv.Padding1, emv.Padding2} {
				for _, h.atc = range []int{0, 1, -1} {
					needless := h.option == emv.OptionB && len(q.card.PAN) <= 16 && q.profile.Option != emv.OptionB ||
						h.derivation == emv.SKD && len(q.in.UN) != 4 || h.derivation == emv.MasterItself && h.atc != 0
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
func (q cryptogram) differences(h emvHypothesis) (out []string) {
	add := func(differs bool, word string) {
		if differs {
			out = append(out, word)
		}
	}
	add(h.version.ID.Name != q.key || h.version.Usage != key.EMVAC, "key:"+h.version.ID.Name)
	add(h.version.KVN != q.dki, fmt.Sprintf("dki:%02X", h.version.KVN))
	add(h.option != q.profile.Option && len(q.card.PAN) > 16, "option:"+string(h.option))
	add(h.psn != q.card.PSN, "psn:00")
	add(h.derivation != q.profile.Cryptogram, "session-key:"+string(h.derivation))
	add(h.padding != q.profile.Padding, fmt.Sprintf("padding:%d", h.padding))
	add(h.atc == 1, "atc:one-more")
	add(h.atc == -1, "atc:one-less")
	return out
}

// Search implements Question.
func (q cryptogram) Search(ctx context.Context, token derive.Token, versions []key.Version) (Explanation, error) {
	t, err := tdea(token)
	if err != nil {
		return "", err
	}
	return first(q.hypotheses(versions), func(h emvHypothesis) (bool, []string, error) {
		found, err := q.try(ctx, t, h)
		return found, q.differences(h), err
	})
}

// try reports whether a hypothesis explains the cryptogram.
func (q cryptogram) try(ctx context.Context, t derive.TDEAToken, h emvHypothesis) (bool, error) {
	m, err := cardkey.EMV(h.version, h.option, emv.Card{PAN: q.card.PAN, PSN: h.psn})
	if err != nil {
		return false, err
	}
	in := q.in
	in.ATC = uint16(int(in.ATC) + h.atc) // around 0000 and FFFF too, where no card counts on
	k, err := m.MAC(h.derivation, in, false)
	if err != nil {
		return false, err
	}
	defer t.Release(append(k.Keys(), m.Key())...)
	return verified(emv.Verify(ctx, t, k, h.padding, q.data, q.in.ARQC))
}
