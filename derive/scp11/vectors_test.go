package scp11_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/x509"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp03"
	"cardkms/derive/scp11"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

var ctx = context.Background()

type octets = derivetest.Octets

func private(t testing.TB, scalar []byte) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.P256().NewPrivateKey(scalar)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestStandards runs self-scp11a, b and c: receipt, and the keys.
func TestStandards(t *testing.T) {
	var file struct {
		Vectors []struct {
			ID string
			In struct {
				ESKOCE octets `json:"esk_oce"`
				SKOCE  octets `json:"sk_oce"`
				ESKSD  octets `json:"esk_sd"`
				SKSD   octets `json:"sk_sd"`
				Data   octets `json:"receipt_data"`
			}
			Out struct{ SENC, SMAC, SRMAC, Receipt octets }
		}
	}
	derivetest.ReadVectors(t, "standards.json", &file)
	if len(file.Vectors) != 3 {
		t.Fatalf("%d vectors", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		tok := new(derivetest.Token)
		ephemeral := private(t, v.In.ESKOCE)
		h := scp11.Host{Ephemeral: tok.AddPair(ephemeral)}
		if !bytes.Equal(v.In.SKOCE, v.In.ESKOCE) {
			h.Static = tok.AddPair(private(t, v.In.SKOCE))
		}
		a := scp11.Answer{Ephemeral: private(t, v.In.ESKSD).PublicKey(), Receipt: [16]byte(v.Out.Receipt)}
		z, err := h.Secret(ctx, tok, private(t, v.In.SKSD).PublicKey(), a)
		if err != nil {
			t.Fatal(err)
		}
		receipt, s := scp11.Keys(z)
		for name, k := range map[string]struct {
			key  *derive.Key
			want octets
		}{"S-ENC": {s.ENC, v.Out.SENC}, "S-MAC": {s.MAC, v.Out.SMAC}, "S-RMAC": {s.RMAC, v.Out.SRMAC}} {
			if got := tok.Value(k.key); !bytes.Equal(got, k.want) {
				t.Errorf("%s: %s is %X", v.ID, name, got)
			}
		}
		cmd := scp11.Variant(v.ID[len(v.ID)-1]).Authenticate(1, ephemeral.PublicKey())
		if !bytes.HasPrefix(v.In.Data, cmd.Data) {
			t.Errorf("%s: the command data are %X", v.ID, cmd.Data)
		}
		state, err := scp11.Verify(ctx, tok, receipt, cmd, a)
		if err != nil || state != (scp03.State{Chaining: a.Receipt}) {
			t.Errorf("%s: %v, %v", v.ID, state, err)
		}
	}
}

// recording is what yubikit and the simulated card said to each other.
type recording struct {
	Variant                 string
	KVN, Authority          octets
	Card, Ephemeral, Static octets
	Chain, Certify          []octets
	Authenticate, Answer    octets
	Commands                []exchange
}

type exchange struct{ Header, Data, Secured, Answer, Plain, SW octets }

func recordings(t testing.TB) (out []recording) {
	var file struct{ Vectors []recording }
	derivetest.ReadVectors(t, "recorded_scp11_yubikit.json", &file)
	if len(file.Vectors) != 3 {
		t.Fatalf("%d recordings", len(file.Vectors))
	}
	return file.Vectors
}

// same compares commands as they are sent, but for Le and the form of Lc: yubikit sends all
// of them in extended form before the session.
func same(t *testing.T, what string, got apdu.Command, sent []byte) {
	t.Helper()
	want, err := apdu.ParseCommand(sent)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Header(), want.Header()) || !bytes.Equal(got.Data, want.Data) {
		t.Errorf("%s: %X, yubikit sent %X", what, got.Bytes(), sent)
	}
}

// open authenticates as yubikit did, with its ephemeral key.
func (r recording) open(t *testing.T, tok *derivetest.Token) (scp03.Messaging, scp03.State) {
	t.Helper()
	ephemeral := private(t, r.Ephemeral)
	h := scp11.Host{Ephemeral: tok.AddPair(ephemeral)}
	if len(r.Static) > 0 {
		h.Static = tok.AddPair(private(t, r.Static))
	}
	cmd := scp11.Variant(r.Variant[0]).Authenticate(r.KVN[0], ephemeral.PublicKey())
	same(t, "the authentication", cmd, r.Authenticate)
	response, err := apdu.ParseResponse(r.Answer)
	if err != nil || response.SW != apdu.Success {
		t.Fatalf("%X", r.Answer)
	}
	a, err := scp11.ParseAnswer(response.Data)
	if err != nil {
		t.Fatal(err)
	}
	card, err := scp11.Point(r.Card)
	if err != nil {
		t.Fatal(err)
	}
	z, err := h.Secret(ctx, tok, card, a)
	if err != nil {
		t.Fatal(err)
	}
	receipt, keys := scp11.Keys(z)
	state, err := scp11.Verify(ctx, tok, receipt, cmd, a)
	if err != nil {
		t.Fatalf("variant %s: %v", r.Variant, err)
	}
	for bit := range 128 {
		wrong := a
		wrong.Receipt[bit/8] ^= 1 << (bit % 8)
		if _, err := scp11.Verify(ctx, tok, receipt, cmd, wrong); fault.CodeOf(err) != fault.ProofFailed {
			t.Fatalf("a receipt with another bit %d: %v", bit, err)
		}
	}
	return scp03.Messaging{Token: tok, Keys: keys, Level: scp11.Level, Mode: scp03.S8, Options: scp03.Options{PadEmpty: true}}, state
}

// TestRecorded: with yubikit's ephemeral key we send what it sent, byte by byte, and take
// what the card answered.
func TestRecorded(t *testing.T) {
	for _, r := range recordings(t) {
		var chain [][]byte
		for _, der := range r.Chain {
			if _, err := x509.ParseCertificate(der); err != nil {
				t.Fatal(err)
			}
			chain = append(chain, der)
		}
		if scp11.Variant(r.Variant[0]).HostProven() != (len(chain) == 2) {
			t.Fatalf("variant %s: %d certificates", r.Variant, len(chain))
		}
		if len(chain) > 0 {
			for i, c := range scp11.Certify(scp11.Reference{KVN: r.Authority[0], KID: r.Authority[1]}, chain, true) {
				same(t, "a certificate", c, r.Certify[i])
			}
		}
		m, s := r.open(t, new(derivetest.Token))
		for _, c := range r.Commands {
			plain := apdu.Command{CLA: c.Header[0], INS: c.Header[1], P1: c.Header[2], P2: c.Header[3], Data: c.Data, Extended: true}
			secured, next, err := m.Wrap(ctx, s, plain)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "a command", secured, c.Secured)
			s = next
			answer, err := apdu.ParseResponse(c.Answer)
			if err != nil {
				t.Fatal(err)
			}
			got, err := m.Unwrap(ctx, s, answer)
			if err != nil || !bytes.Equal(got.Data, c.Plain) || !bytes.Equal([]byte{byte(got.SW >> 8), byte(got.SW)}, c.SW) {
				t.Errorf("variant %s: %X %v (%v), want %X %X", r.Variant, got.Data, got.SW, err, c.Plain, c.SW)
			}
		}
	}
}
