package probe

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/key"
	"cardkms/kms/secret"
)

func runSession(b *bench, in input) error {
	cmd, err := apdu.ParseCommand(in.InitCmd)
	if err != nil {
		return err
	}
	s, ext, err := b.authenticate(in.gpKeys, cmd.Data, apdu.Response{Data: in.InitRsp, SW: apdu.Success}, byte(in.Level), in.AID)
	if err != nil {
		return err
	}
	if got := ext.Bytes(); !bytes.Equal(got, in.Out.ExtAuth) {
		return mismatch("EXTERNAL AUTHENTICATE", got, in.Out.ExtAuth)
	}
	if err := (sessionKeys{ENC: in.Out.SENC, MAC: in.Out.SMAC, RMAC: in.Out.SRMAC}).check(b, s); err != nil {
		return err
	}
	return s.script(b, in)
}

// protectedLength returns the length of n bytes of response data as the card
// sends them, without a status word.
func (s *session) protectedLength(n int) int {
	l := s.messaging.Level
	if l&scp03.REncryption != 0 && n > 0 {
		n = n/16*16 + 16
	}
	if l&scp03.RMAC != 0 {
		n += int(s.messaging.Mode)
	}
	return n
}

// script wraps plain commands as they are, Le included, and unwraps responses,
// which some of these vectors give without their status word 9000.
func (s *session) script(b *bench, in input) error {
	for i, p := range in.Plain {
		plain, err := apdu.ParseCommand(p)
		if err != nil {
			return err
		}
		w, next, err := s.messaging.Wrap(b.ctx, s.state, plain)
		if err != nil {
			return err
		}
		s.state = next
		if i < len(in.Out.Wrapped) && in.Out.Wrapped[i] != nil && !bytes.Equal(w.Bytes(), in.Out.Wrapped[i]) {
			return mismatch(fmt.Sprintf("command %d", i+1), w.Bytes(), in.Out.Wrapped[i])
		}
		if i >= len(in.Rsp) || in.Rsp[i] == nil {
			continue
		}
		ok := []byte{0x90, 0x00}
		if i >= len(in.Out.RspPlain) {
			return fmt.Errorf("response %d has no known answer", i+1)
		}
		r, want := bytes.Clone(in.Rsp[i]), append(bytes.Clone(in.Out.RspPlain[i]), ok...)
		if len(r) == s.protectedLength(len(in.Out.RspPlain[i])) {
			r = append(r, ok...)
		}
		if err := s.unwrap(b, r, want); err != nil {
			return fmt.Errorf("response %d: %w", i+1, err)
		}
	}
	return nil
}

func runSessionKeys(b *bench, in input) error {
	var st scp03.Static
	var err error
	if st.ENC, err = b.aes(derive.Static, in.ENC); err != nil {
		return err
	}
	if st.MAC, err = b.aes(derive.Static, in.MAC); err != nil {
		return err
	}
	host, card := []byte(in.Host), []byte(in.Card)
	if in.Ctx != nil {
		host, card = in.Ctx, nil
	}
	keys := scp03.SessionKeys(st, host, card)
	var kcv struct{ SENC, SMAC, SRMAC string }
	if in.Out.KCV != nil {
		if err := json.Unmarshal(in.Out.KCV, &kcv); err != nil {
			return err
		}
	}
	for _, k := range []struct {
		what string
		key  *derive.Key
		want []byte
		kcv  string
	}{{"S-ENC", keys.ENC, in.Out.SENC, kcv.SENC}, {"S-MAC", keys.MAC, in.Out.SMAC, kcv.SMAC}, {"S-RMAC", keys.RMAC, in.Out.SRMAC, kcv.SRMAC}} {
		if k.want != nil {
			err = b.equalKey(k.what, k.key, k.want)
		} else {
			var got key.KCV
			if got, err = b.token.KCV(b.ctx, k.key); err == nil {
				err = equalKCV(k.what, got, k.kcv)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func runRawKeys(b *bench, in input) error {
	if len(in.Out.Wrapped) == 0 {
		return errNoAnswer
	}
	s := &session{messaging: scp03.Messaging{Token: b.token, Level: scp03.Level(in.Level), Mode: scp03.S8}}
	var err error
	if s.keys.ENC, err = b.aes(derive.SessionENC, in.SENC); err != nil {
		return err
	}
	if s.keys.MAC, err = b.aes(derive.SessionMAC, in.SMAC); err != nil {
		return err
	}
	if s.keys.RMAC, err = b.aes(derive.SessionMAC, in.SRMAC); err != nil {
		return err
	}
	s.messaging.Keys = s.keys
	return s.script(b, in)
}

func runKeyBlocks(b *bench, in input) error {
	if in.Out.WithLen == nil && in.Out.NoLen == nil {
		return errNoAnswer
	}
	dek, err := b.aes(derive.DataEncryption, in.DEK)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		format scp03.PutKeyFormat
		want   []byte
	}{{scp03.WithLength, in.Out.WithLen}, {scp03.NoLength, in.Out.NoLen}} {
		if f.want == nil {
			continue
		}
		k, err := b.aes(derive.Transport, in.Key)
		if err != nil {
			return err
		}
		got, err := scp03.KeyBlock(b.ctx, b.token, dek, k, f.format)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, f.want) {
			return mismatch("the key block", got, f.want)
		}
	}
	return nil
}

func (in input) kcvs() ([]string, error) {
	var out []string
	if in.Out.KCV == nil {
		return nil, nil
	}
	err := json.Unmarshal(in.Out.KCV, &out)
	return out, err
}

func runDivTDES(b *bench, in input) error {
	m, err := method(in.Method)
	if err != nil {
		return err
	}
	kcvs, err := in.kcvs()
	if err != nil {
		return err
	}
	var want [][]byte
	for _, k := range in.Out.Keys {
		want = append(want, k)
	}
	return b.cardKeys(m, in.MK, in.KDD, want, kcvs)
}

func runDivKDF3(b *bench, in input) error {
	kcvs, err := in.kcvs()
	if err != nil {
		return err
	}
	return b.cardKeys(diversify.KDF3, in.MK, in.KDD, [][]byte{in.Out.ENC, in.Out.MACKey, in.Out.DEK}, kcvs)
}

func runAN10922(b *bench, in input) error {
	want := in.Out.Key
	if want == nil {
		want = in.Out.Masked
	}
	return b.an10922(strings.Contains(in.Kind, "tdea"), in.MK, in.Div, want)
}

func runCounterKDF(b *bench, in input) error {
	k, err := b.aes(derive.Static, in.Key)
	if err != nil {
		return err
	}
	if n := len(in.Out.KO); n == 0 || n > key.AES256.Size() {
		return fmt.Errorf("a known answer of %d bytes is not one derived key", n)
	}
	s := derive.Step{Function: derive.CMACCounter, After: in.Fixed, Algorithm: key.AES256, Class: derive.Static}
	if len(in.Out.KO) <= 16 {
		s.Algorithm = key.AES128
	}
	ok, err := b.token.Matches(b.ctx, k, s, in.Out.KO)
	if err == nil && !ok {
		err = errors.New("the token derives another value")
	}
	return err
}

func (b *bench) cmac(k, data, want []byte) error {
	if len(want) == 0 {
		return errNoAnswer
	}
	mk, err := b.aes(derive.SessionMAC, k)
	if err != nil {
		return err
	}
	got, err := b.token.MAC(b.ctx, mk, data)
	if err == nil && (len(got) < len(want) || !bytes.Equal(got[:len(want)], want)) {
		err = mismatch("the MAC", got, want)
	}
	return err
}

func runCMAC(b *bench, in input) error { return b.cmac(in.Key, in.Data, in.Out.MACKey) }

func runKCVCMAC(b *bench, in input) error {
	var want octets
	if err := json.Unmarshal(in.Out.KCV, &want); err != nil {
		return err
	}
	return b.cmac(in.Key, make([]byte, 16), want)
}

// checkValue imports a key and computes its check value inside the token.
func (b *bench) checkValue(des bool, value []byte) (key.KCV, error) {
	k, err := b.aes(derive.Static, value)
	if des {
		k, err = b.tdea(value)
	}
	if err != nil {
		return key.KCV{}, err
	}
	return b.token.KCV(b.ctx, k)
}

func runKCV(b *bench, in input) error {
	var want string
	if err := json.Unmarshal(in.Out.KCV, &want); err != nil {
		return err
	}
	got, err := b.checkValue(in.des, in.Key)
	if err != nil {
		return err
	}
	return equalKCV("the key", got, want)
}

func runXOR(b *bench, in input) error {
	if len(in.Components) == 0 || len(in.Components) != len(in.Out.PartKCV) {
		return errors.New("the case has not one check value for each component")
	}
	var parts []secret.Bytes
	for i, c := range in.Components {
		if len(c) != len(in.Out.Key) {
			return fmt.Errorf("component %d has another length than the key", i+1)
		}
		got, err := b.checkValue(in.des, c)
		if err != nil {
			return err
		}
		if err := equalKCV(fmt.Sprintf("component %d", i+1), got, in.Out.PartKCV[i]); err != nil {
			return err
		}
		parts = append(parts, secret.New(c))
	}
	sum := secret.XOR(parts...)
	if !sum.Equal(secret.New(in.Out.Key)) {
		return errors.New("the components combine to another key")
	}
	in.Key = sum.Reveal()
	if err := runKCV(b, in); err != nil || in.Out.KCVCMAC == nil {
		return err
	}
	return b.cmac(in.Key, make([]byte, 16), in.Out.KCVCMAC)
}

func runCRC32(_ *bench, in input) error {
	got := binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(in.Data))
	if !bytes.Equal(got, in.Out.CRC) {
		return mismatch("the CRC-32", got, in.Out.CRC)
	}
	return nil
}
