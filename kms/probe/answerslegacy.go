package probe

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"cardkms/derive"
	"cardkms/derive/scp02"
	"cardkms/kms/apdu"
	"cardkms/kms/key"
)

// retailKey imports a key of the retail MAC as its two objects.
func (b *bench) retailKey(value []byte) (derive.RetailKey, error) {
	whole, err := b.tdeaOf(derive.SessionRetail, value)
	if err != nil {
		return derive.RetailKey{}, err
	}
	left, err := b.add(key.TDEA3, derive.SessionRetailLeft, bytes.Repeat(value[:8], 3))
	return derive.RetailFromRoots(whole, left), err
}

// messagingOf returns the messaging that a vector asks for, without keys.
func (in input) messagingOf() (scp02.Messaging, error) {
	if len(in.I) != 1 {
		return scp02.Messaging{}, errors.New("the case has no i parameter")
	}
	return scp02.Messaging{Level: scp02.Level(in.Level), I: in.I[0]}, nil
}

// runLegacySession runs a session. A vector that was recorded at the card's side gives
// only the first plain commands: those are wrapped and compared.
func runLegacySession(b *bench, in input) error {
	cmd, err := apdu.ParseCommand(in.InitCmd)
	if err != nil {
		return err
	}
	m, err := in.messagingOf()
	if err != nil {
		return err
	}
	s, ext, err := b.authenticateLegacy(in.gpKeys, cmd.Data, in.InitRsp, m, in.AID)
	if err != nil {
		return err
	}
	if got := ext.Bytes(); !bytes.Equal(got, in.Out.ExtAuth) {
		return mismatch("EXTERNAL AUTHENTICATE", got, in.Out.ExtAuth)
	}
	plain, want := in.Plain, in.Out.Wrapped
	for i, data := range in.Out.First {
		if i >= len(in.InWrapped) {
			return errors.New("the case has more plain commands than wrapped ones")
		}
		c, err := apdu.ParseCommand(in.InWrapped[i])
		if err != nil {
			return err
		}
		if len(data) > apdu.ShortDataMax {
			return errors.New("a plain command of the case is longer than SCP02 knows")
		}
		c.CLA, c.Data = c.CLA&^0x04, data
		plain, want = append(plain, c.Bytes()), append(want, in.InWrapped[i])
	}
	return s.script(b, plain, want, in)
}

// script wraps plain commands as they are, and unwraps responses that get their R-MACs
// here, because these vectors give the two apart.
func (s *legacy) script(b *bench, plain, want []octets, in input) error {
	if len(want) == 0 {
		return errNoAnswer
	}
	for i, p := range plain {
		c, err := apdu.ParseCommand(p)
		if err != nil {
			return err
		}
		w, err := s.wrap(b, c)
		if err != nil {
			return err
		}
		if i < len(want) && !bytes.Equal(w.Bytes(), want[i]) {
			return mismatch(fmt.Sprintf("command %d", i+1), w.Bytes(), want[i])
		}
		if i >= len(in.Rsp) {
			continue
		}
		n := len(in.Rsp[i]) - 2
		if i >= len(in.Out.RMAC) || n < 0 {
			return fmt.Errorf("response %d has no known answer", i+1)
		}
		protected := append(append(bytes.Clone(in.Rsp[i][:n]), in.Out.RMAC[i]...), in.Rsp[i][n:]...)
		if err := s.unwrap(b, c, protected, in.Rsp[i]); err != nil {
			return fmt.Errorf("response %d: %w", i+1, err)
		}
	}
	return nil
}

func (in input) counter() (uint16, error) {
	if len(in.Seq) != 2 {
		return 0, errors.New("a sequence counter has 2 bytes")
	}
	return binary.BigEndian.Uint16(in.Seq), nil
}

func runLegacyKeys(b *bench, in input) error {
	n, err := in.counter()
	if err != nil {
		return err
	}
	keys, err := b.sessionKeys(in.gpKeys, n)
	if err != nil {
		return err
	}
	var kcv struct{ SENC, CMAC, RMAC, DEK string }
	if in.Out.KCV != nil {
		if err := json.Unmarshal(in.Out.KCV, &kcv); err != nil {
			return err
		}
	}
	compared := 0
	for _, k := range []struct {
		what string
		key  *derive.Key
		want string
	}{{"S-ENC", keys.ENC, kcv.SENC}, {"S-MAC", keys.MAC.Whole(), kcv.CMAC}, {"S-RMAC", keys.RMAC.Whole(), kcv.RMAC}, {"the session DEK", keys.DEK, kcv.DEK}} {
		if k.want == "" || k.key == nil {
			continue
		}
		got, err := b.token.KCV(b.ctx, k.key)
		if err != nil {
			return err
		}
		if err := equalKCV(k.what, got, k.want); err != nil {
			return err
		}
		compared++
	}
	want := sessionKeys{ENC: in.Out.SENC, MAC: in.Out.CMAC, RMAC: in.Out.SRMAC, DEK: in.Out.DEK}
	if compared == 0 && len(want.ENC)+len(want.MAC)+len(want.RMAC)+len(want.DEK) == 0 {
		return errNoAnswer
	}
	return want.checkLegacy(b, keys)
}

func runLegacyDEK(b *bench, in input) error {
	n, err := in.counter()
	if err != nil {
		return err
	}
	keys, err := b.sessionKeys(gpKeys{ENC: in.DEK, MAC: in.DEK, DEK: in.DEK}, n)
	if err != nil {
		return err
	}
	k, err := b.tdeaOf(derive.Transport, in.Key)
	if err != nil {
		return err
	}
	m := scp02.Messaging{Keys: keys, I: scp02.IExplicit}
	block, err := m.KeyBlock(b.ctx, b.token, k)
	if err != nil || bytes.Equal(block[2:18], in.Out.ENC) {
		return err
	}
	return b.otherBlocks(m, mismatch("the wrapped key", block[2:18], in.Out.ENC))
}

// otherBlocks returns why key blocks are not those of a vector: a token that gives 3DES
// keys odd parity wraps another value of the same key, which is no failure. It is told
// by wrapping two values that differ in a parity bit.
func (b *bench) otherBlocks(m scp02.Messaging, failure error) error {
	var blocks [2][]byte
	for i := range blocks {
		value := bytes.Repeat([]byte{0x4A, 0x4C}, 8)
		value[0] ^= byte(i)
		k, err := b.tdeaOf(derive.Transport, value)
		if err != nil {
			return err
		}
		if blocks[i], err = m.KeyBlock(b.ctx, b.token, k); err != nil {
			return err
		}
	}
	if bytes.Equal(blocks[0], blocks[1]) {
		return skip("the token gives 3DES keys odd parity, so it wraps another value of the same key")
	}
	return failure
}

// rawLegacy imports session keys that a vector gives themselves.
func (b *bench) rawLegacy(m scp02.Messaging, enc, mac []byte) (*legacy, error) {
	var err error
	m.Token = b.token
	if len(enc) > 0 {
		if m.Keys.ENC, err = b.tdeaOf(derive.SessionENC, enc); err != nil {
			return nil, err
		}
	}
	m.Keys.MAC, err = b.retailKey(mac)
	return &legacy{messaging: m}, err
}

func runLegacyRawKeys(b *bench, in input) error {
	m, err := in.messagingOf()
	if err != nil {
		return err
	}
	if m.Level&scp02.CDecryption != 0 && len(in.SENC) == 0 {
		return errors.New("the case has no S-ENC")
	}
	s, err := b.rawLegacy(m, in.SENC, in.CMAC)
	if err != nil {
		return err
	}
	return s.script(b, in.Plain, in.Out.Wrapped, in)
}

// runLegacyKeycard compares EXTERNAL AUTHENTICATE with the host cryptogram that the
// vector gives, and one command after it.
func runLegacyKeycard(b *bench, in input) error {
	if len(in.HostCrypt) != 8 {
		return errors.New("a host cryptogram has 8 bytes")
	}
	s, err := b.rawLegacy(scp02.Messaging{Level: scp02.CMAC, I: 0x55}, nil, in.CMAC)
	if err != nil {
		return err
	}
	ext := apdu.Command{CLA: 0x80, INS: 0x82, P1: byte(scp02.CMAC), Data: in.HostCrypt}
	plain := append(octetList{ext.Bytes()}, in.Plain...)
	return s.script(b, plain, append(octetList{in.Out.ExtAuth}, in.Out.Wrapped...), in)
}

func runLegacyCard(b *bench, in input) error {
	a, err := scp02.ParseAnswer(in.InitRsp)
	if err != nil {
		return err
	}
	keys, err := b.sessionKeys(in.gpKeys, a.Counter)
	if err != nil {
		return err
	}
	if err := scp02.VerifyCard(b.ctx, b.token, keys, in.Host, a); err != nil {
		return err
	}
	if len(in.Out.Card) == 0 {
		return errNoAnswer
	}
	return equalStated("the card cryptogram", a.CardCryptogram, in.Out.Card)
}

func runLegacyChallenge(b *bench, in input) error {
	n, err := in.counter()
	if err != nil {
		return err
	}
	if len(in.Out.Chal) != 6 {
		return errNoAnswer
	}
	keys, err := b.sessionKeys(gpKeys{ENC: in.MAC, MAC: in.MAC}, n)
	if err != nil {
		return err
	}
	return scp02.VerifyChallenge(b.ctx, b.token, keys, scp02.Answer{CardChallenge: in.Out.Chal}, in.AID)
}

// runRetailMAC pads as the vector says: [9797-1] ISO/IEC 9797-1:2011, Section 6.3.
func runRetailMAC(b *bench, in input) error {
	want := in.Out.MACKey
	if len(want) == 0 || len(want) > 8 {
		return errNoAnswer
	}
	k, err := b.retailKey(in.Key)
	if err != nil {
		return err
	}
	message := bytes.Clone(in.Data)
	switch in.Pad {
	case 1:
		message = append(message, make([]byte, (8-len(message)%8)%8)...)
	case 2:
		message = derive.Pad2(message, 8)
	default:
		return fmt.Errorf("there is no padding method %d here", in.Pad)
	}
	got, err := b.token.RetailMAC(b.ctx, k, message)
	if err == nil && !bytes.Equal(got[:len(want)], want) {
		err = mismatch("the MAC", got[:len(want)], want)
	}
	return err
}
