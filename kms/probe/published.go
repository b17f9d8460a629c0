package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/key"
)

// unserved says why vectors of these kinds are not run: there is no code that serves
// cards which would run in them.
var unserved = map[string]string{
	"tr31":           tr31Reason,
	"interop-tr31-1": tr31Reason,
	"cmac_des3":      "no protocol here computes CMAC under 3DES",
	"bsp_kdf":        "the bound profile package of SGP.22 is no protocol here",
	"bsp_segments":   "the bound profile package of SGP.22 is no protocol here",
	"crc_param":      "no protocol here uses this checksum",
}

const tr31Reason = "opening a TR-31 block shows its key to whoever checks the MAC, so no token does it inside; \"cardkms tr31\" does it offline"

// unservedReason returns why there is nothing to run.
func unservedReason(kind string) error {
	if why, ok := unserved[kind]; ok {
		return skip(why)
	}
	return skip(kind + " is not supported yet")
}

// kdfCase is one of NIST's CAVP answers for SP 800-108 in counter mode.
type kdfCase struct {
	PRF, CtrLocation string
	RLen             int `json:"rlen_bits"`
	Key, Output      octets
	Fixed            octets `json:"fixed_input"`
	Before           octets `json:"data_before"`
	After            octets `json:"data_after"`
}

// UnmarshalJSON implements json.Unmarshaler: "ctr_location" has an underscore.
func (c *kdfCase) UnmarshalJSON(b []byte) error {
	type plain kdfCase
	var more struct {
		Location string `json:"ctr_location"`
	}
	err := errors.Join(json.Unmarshal(b, (*plain)(c)), json.Unmarshal(b, &more))
	c.CtrLocation = more.Location
	return err
}

// runKDF derives as SCP03 does, with the counter in one byte: [SP 800-108], Section
// 4.1.
func runKDF(ctx context.Context, t derive.VectorToken, raw json.RawMessage) error {
	var c kdfCase
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("reading the case: %w", err)
	}
	s := derive.Step{Function: derive.CMACCounter, Class: derive.Static}
	switch c.CtrLocation {
	case "BEFORE_FIXED":
		s.After = c.Fixed
	case "AFTER_FIXED":
		s.Before = c.Fixed
	case "MIDDLE_FIXED":
		s.Before, s.After = c.Before, c.After
	default:
		return errors.New("the counter stands before, after or in the middle of the fixed input")
	}
	switch {
	case c.RLen != 8:
		return skip("the protocols here count in one byte")
	case c.PRF != "CMAC_AES128" && c.PRF != "CMAC_AES192" && c.PRF != "CMAC_AES256":
		return skip("the protocols here derive by CMAC under AES")
	case len(c.Output) > key.AES256.Size():
		return skip("no key here has as many bytes")
	}
	return runDerivation(ctx, t, c.Key, s, c.Output)
}

// runConstant derives with SCP03's label, whose length field says how many bits there
// are: [AmdD] Secure Channel Protocol '03', Section 4.1.5.
func runConstant(ctx context.Context, t derive.VectorToken, raw json.RawMessage) error {
	var c struct{ Key, Constant, Context, Output octets }
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("reading the case: %w", err)
	}
	if len(c.Constant) != 1 {
		return errors.New("a derivation constant is one byte")
	}
	bits := 8 * len(c.Output)
	before := append(make([]byte, 11), c.Constant[0], 0, byte(bits>>8), byte(bits))
	return runDerivation(ctx, t, c.Key, derive.Step{Function: derive.CMACCounter, Class: derive.Static, Before: before, After: c.Context}, c.Output)
}

// runDerivation compares what a step derives inside the token with a known value.
func runDerivation(ctx context.Context, t derive.VectorToken, base []byte, s derive.Step, want []byte) error {
	if len(want) == 0 {
		return errNoAnswer
	}
	b := &bench{ctx: ctx, token: t}
	defer b.close()
	k, err := b.aes(derive.Static, base)
	if err != nil {
		return err
	}
	s.Algorithm = key.AES256 // two blocks, of which the value is the beginning
	if len(want) <= key.AES128.Size() {
		s.Algorithm = key.AES128
	}
	ok, err := t.Matches(ctx, k, s, want)
	if err == nil && !ok {
		err = errors.New("the token derives another value")
	}
	return err
}

// cmacFile is the file of CMAC's own answers: NIST SP 800-38B and RFC 4493.
type cmacFile struct {
	SP  []cmacCase `json:"sp800_38b"`
	RFC struct {
		Key   octets
		Cases []cmacCase
	} `json:"rfc4493"`
}

type cmacCase struct {
	Algorithm         string
	Key, Message, MAC octets
}

func (f cmacFile) run(ctx context.Context, t derive.VectorToken) (out []Result) {
	for i, c := range f.SP {
		out = append(out, Judge(fmt.Sprintf("sp800-38b-%s-%d", c.Algorithm, i), c.run(ctx, t)))
	}
	for i, c := range f.RFC.Cases {
		c.Algorithm, c.Key = "aes128", f.RFC.Key
		out = append(out, Judge(fmt.Sprintf("rfc4493-%d", i), c.run(ctx, t)))
	}
	return out
}

func (c cmacCase) run(ctx context.Context, t derive.VectorToken) error {
	if c.Algorithm == "3des" {
		return unservedReason("cmac_des3")
	}
	b := &bench{ctx: ctx, token: t}
	defer b.close()
	return b.cmac(c.Key, c.Message, c.MAC)
}
