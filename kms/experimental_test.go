package kms_test

import (
	"crypto/aes"
	"encoding/binary"
	"testing"

	"cardkms/derive/derivetest"
	"cardkms/derive/emv"
	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// cryptogramC is option C from its formulas: AES(IMK)[PAN | PSN] is the ICC master key,
// AES of that over ATC | 00…00 the session key, and its AES-CMAC the cryptogram.
func cryptogramC(imk []byte, number string, atc uint16, data []byte) []byte {
	encrypt := func(k, block []byte) []byte {
		c, err := aes.NewCipher(k)
		if err != nil {
			panic(err)
		}
		out := make([]byte, 16)
		c.Encrypt(out, block)
		return out
	}
	y := make([]byte, 16)
	copy(y[16-len(number)/2:], unhex(number))
	session := encrypt(encrypt(imk, y), append(binary.BigEndian.AppendUint16(nil, atc), make([]byte, 14)...))
	return derivetest.CMAC(derivetest.Cipher(key.AES128, session), data, 1)[:8]
}

// TestExperimental: option C is refused, key and cryptogram, until the configuration asks
// for it; then cryptograms are verified as every other, and nothing else is made.
func TestExperimental(t *testing.T) {
	h := newHarness(t)
	before := h.token.LiveObjects() // of other tests
	imk := random(16)
	load := func() error {
		_, err := h.service.LoadKey(h.ctx, "test", kms.NewKey{
			Issuer: h.issuer, Name: "aes", Usage: key.EMVAC, Algorithm: key.AES128, CardAlgorithm: key.AES128, Diversification: "emv-option-c", KVN: 1,
		}, known{h.token, imk})
		return err
	}
	in := kms.Transaction{
		Issuer: h.issuer, Profile: "aes-c", Key: "aes", DKI: 1, Card: emv.Card{PAN: "1234567890123456", PSN: "01"},
		Input: emv.Input{ATC: 0x1C}, Data: []byte("what the terminal and the card agreed upon"),
	}
	in.ARQC = cryptogramC(imk, "123456789012345601", in.ATC, in.Data)
	h.want("a key while it is off", load(), fault.NotFound)
	h.want("a cryptogram while it is off", h.service.VerifyARQC(h.ctx, h.req(), in), fault.NotFound)

	h.stop()
	h.experimental = true
	h.start()
	h.must(load())
	wrong := in
	wrong.ARQC = append([]byte{in.ARQC[0] ^ 1}, in.ARQC[1:]...)
	h.want("a wrong cryptogram", h.service.VerifyARQC(h.ctx, h.req(), wrong), fault.ProofFailed)
	h.must(h.service.VerifyARQC(h.ctx, h.req(), in))
	h.want("the same again", h.service.VerifyARQC(h.ctx, h.req(), in), fault.CardCounter)
	_, err := h.service.ARPC(h.ctx, h.req(), kms.ARPCInput{Transaction: in, Code: unhex("0010")})
	h.want("an answer", err, fault.InvalidInput)
	if n := h.token.LiveObjects() - before; n > 0 {
		t.Errorf("%d objects are left", n)
	}

	h.stop()
	h.experimental = false
	h.start()
	in.ATC++
	in.ARQC = cryptogramC(imk, "123456789012345601", in.ATC, in.Data)
	h.want("a key that is there, after it was turned off", h.service.VerifyARQC(h.ctx, h.req(), in), fault.NotFound)
}
