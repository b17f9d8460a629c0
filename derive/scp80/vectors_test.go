package scp80_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp80"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

var ctx = context.Background()

type octets = derivetest.Octets

// vector is a known answer.
type vector struct {
	ID, Alg string
	In      struct {
		SPI, TAR, CNTR, Data, KIc, KID, Packet octets
		KIcByte                                byte `json:"kic_b"`
		KIDByte                                byte `json:"kid_b"`
	}
	Out struct{ Packet, CNTR, RSC, Data, CRC octets }
}

func readVectors(t *testing.T, name string) []vector {
	t.Helper()
	var f struct {
		Source, Spec string
		Vectors      []vector
	}
	if derivetest.ReadVectors(t, name, &f); f.Source == "" || f.Spec == "" || len(f.Vectors) == 0 {
		t.Fatalf("%s has no vectors, source or specification", name)
	}
	return f.Vectors
}

func algorithmOf(named byte, value []byte) key.Algorithm {
	switch {
	case named&0x0F == 2 && len(value) == 32:
		return key.AES256
	case named&0x0F == 2 && len(value) == 24:
		return key.AES192
	case named&0x0F == 2:
		return key.AES128
	case len(value) == 24:
		return key.TDEA3
	}
	return key.TDEA2
}

// keysOf makes the keys that KIc and KID name.
func keysOf(tok *derivetest.Token, h scp80.Header, kic, kid []byte) (k scp80.Keys) {
	if kic != nil {
		k.KIc = tok.Add("kic", algorithmOf(h.KIc, kic), derive.SessionENC, kic)
	}
	if kid != nil {
		a, class := algorithmOf(h.KID, kid), derive.SessionMAC
		if a.TDEA() {
			class = derive.SessionENC
		}
		k.KID = tok.Add("kid", a, class, kid)
	}
	return k
}

func (v vector) header() scp80.Header {
	return scp80.Header{SPI: scp80.SPI(v.In.SPI), KIc: v.In.KIcByte, KID: v.In.KIDByte, TAR: [3]byte(v.In.TAR)}
}

func number(b []byte) uint64 {
	return binary.BigEndian.Uint64(append(make([]byte, 8-len(b)), b...))
}

func (v vector) run(t *testing.T) {
	var tok derivetest.Token
	switch v.Alg {
	case "crc16_x25":
		equal(t, binary.BigEndian.AppendUint16(nil, scp80.CRC16(v.In.Data)), v.Out.CRC)
	case "crc32":
		equal(t, binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(v.In.Data)), v.Out.CRC)
	case "scp80_cmd":
		h := v.header()
		got, err := scp80.Command(ctx, &tok, keysOf(&tok, h, v.In.KIc, v.In.KID), h, number(v.In.CNTR), v.In.Data)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, got, v.Out.Packet)
	case "scp80_por":
		v.runPoR(t, &tok)
	default:
		t.Errorf("nothing runs %s", v.Alg)
	}
}

func (v vector) runPoR(t *testing.T, tok *derivetest.Token) {
	h := v.header()
	k := keysOf(tok, h, v.In.KIc, v.In.KID)
	a, err := scp80.ParseAnswer(v.In.Packet)
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.Open(ctx, tok, k, h)
	if h.SPI.AnswerCiphered() && k.KIc.Algorithm().TDEA() {
		if fault.CodeOf(err) != fault.TokenUnable {
			t.Errorf("%v, want token_unable", err)
		}
		return
	}
	if err != nil || r.Counter != number(v.Out.CNTR) || r.Status != scp80.Status(v.Out.RSC[0]) || !r.Proved {
		t.Fatalf("%+v, %v", r, err)
	}
	equal(t, r.Data, v.Out.Data)
}

func equal(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%X, want %X", got, want)
	}
}

// TestVectors runs the published answers.
func TestVectors(t *testing.T) {
	for _, file := range []string{"standards.json", "pysim.json"} {
		for _, v := range readVectors(t, file) {
			t.Run(v.ID, v.run)
		}
	}
}

// Example is the worked example of the package comment: a packet of asterix.
func Example() {
	var tok derivetest.Token
	kid, err := hex.DecodeString("456789ABCDEF012356789ABCDEF01234")
	if err != nil {
		panic(err)
	}
	k := scp80.Keys{KID: tok.Add("kid", key.TDEA2, derive.SessionENC, kid)}
	h := scp80.Header{SPI: scp80.SPI{0x12, 0x01}, KIc: 0x25, KID: 0x25, TAR: [3]byte{0xC0}}
	packet, err := scp80.Command(ctx, &tok, k, h, 1, []byte{0xA0, 0xA4, 0x00, 0x00, 0x02, 0x3F, 0x00})
	fmt.Printf("%X %v\n", packet, err)
	// Output: 001D1512012525C000000000000001004FBDB3740E950C28A0A40000023F00 <nil>
}
