package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/kms/key"
)

type divCase struct {
	Method    string   `json:"method"`
	Algorithm string   `json:"algorithm"`
	Master    octets   `json:"master"`
	KDD       octets   `json:"kdd"`
	Input     octets   `json:"input"`
	ENC       octets   `json:"enc"`
	MAC       octets   `json:"mac"`
	DEK       octets   `json:"dek"`
	KCVTDEA   []string `json:"kcv_3des"`
	KCVAES    []string `json:"kcv_aes"`
	Output    octets   `json:"output"`
}

// method maps the names of the field to ours by their first word.
func method(name string) (diversify.Method, error) {
	switch strings.ToLower(strings.Fields(name + " ?")[0]) {
	case "visa2":
		return diversify.VISA2, nil
	case "emv":
		return diversify.EMV, nil
	case "visa":
		return diversify.VISA, nil
	case "kdf3":
		return diversify.KDF3, nil
	case "an10922":
		return diversify.AN10922, nil
	}
	return "", skip("the diversification " + name + " is not supported")
}

func runDiversification(ctx context.Context, t derive.VectorToken, raw json.RawMessage) error {
	var c divCase
	if err := json.Unmarshal(raw, &c); err != nil {
		return err
	}
	m, err := method(c.Method)
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx, token: t}
	defer b.close()
	if m == diversify.AN10922 {
		return b.an10922(strings.Contains(c.Algorithm, "DES"), c.Master, c.Input, c.Output)
	}
	return b.cardKeys(m, c.Master, c.KDD, [][]byte{c.ENC, c.MAC, c.DEK}, append(c.KCVTDEA, c.KCVAES...))
}

// cardKeys derives K-ENC, K-MAC and K-DEK and compares values and check values,
// as far as they are given.
func (b *bench) cardKeys(m diversify.Method, master, kdd []byte, want [][]byte, kcvs []string) error {
	if len(bytes.Join(want, nil)) == 0 && len(kcvs) == 0 {
		return errNoAnswer
	}
	mk, a, err := b.master(m, master)
	if err != nil {
		return err
	}
	for i, p := range []diversify.Purpose{diversify.ENC, diversify.MAC, diversify.DEK} {
		k, err := diversify.Card(m, mk, kdd, diversify.Target{Purpose: p, Class: derive.Static, Algorithm: a})
		if err != nil {
			return err
		}
		what := fmt.Sprintf("key %d", p)
		if i < len(want) && len(want[i]) > 0 {
			if err := b.equalKey(what, k, want[i]); err != nil {
				return err
			}
		}
		if i < len(kcvs) {
			kcv, err := b.token.KCV(b.ctx, k)
			if err != nil {
				return err
			}
			if err := equalKCV(what, kcv, kcvs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) master(m diversify.Method, value []byte) (*derive.Key, key.Algorithm, error) {
	if m == diversify.KDF3 {
		k, err := b.aes(derive.Static, value)
		if err != nil {
			return nil, "", err
		}
		return k, k.Algorithm(), nil
	}
	k, err := b.tdea(value)
	return k, key.TDEA2, err
}

func (b *bench) an10922(tdea bool, master, input, want []byte) error {
	mk, err := b.aes(derive.Static, master)
	if tdea {
		mk, err = b.tdea(master)
	}
	if err != nil {
		return err
	}
	k, err := diversify.FromInput(mk, input, diversify.Target{Class: derive.Static, Algorithm: mk.Algorithm()})
	if err != nil {
		return err
	}
	return b.equalKey("the key", k, want)
}
