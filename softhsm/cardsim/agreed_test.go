package cardsim

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
)

// agreedWorld is a card of SCP11, its authority and a host that it certified.
type agreedWorld struct {
	card *Card
	pair *ecdh.PrivateKey
	ca   *ecdsa.PrivateKey
	host *ecdh.PrivateKey
	cert []byte
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func certificate(t *testing.T, public crypto.PublicKey, by *ecdsa.PrivateKey, ca bool) []byte {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, BasicConstraintsValid: true, IsCA: ca}
	der, err := x509.CreateCertificate(rand.Reader, c, &x509.Certificate{Subject: c.Subject}, public, by)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newAgreed(t *testing.T) *agreedWorld {
	t.Helper()
	w := &agreedWorld{ca: ecKey(t)}
	cardKey, hostKey := ecKey(t), ecKey(t)
	w.pair, _ = cardKey.ECDH()
	w.host, _ = hostKey.ECDH()
	w.cert = certificate(t, hostKey.Public(), w.ca, false)
	aes := bytes.Repeat([]byte{1}, 16)
	c, err := New(Config{
		ISD: bytes.Repeat([]byte{0xA0}, 8), KeySets: []KeySet{{KVN: 0x30, ENC: aes, MAC: aes, DEK: aes}}, I: 0x70,
		Agreed: AgreedKeys{KVN: 1, Private: w.pair, HostCA: &w.ca.PublicKey, HostKVN: 3, HostKID: 0x10},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.PowerOn()
	w.card = c
	return w
}

func (w *agreedWorld) send(t *testing.T, cmd command) ([]byte, word) {
	t.Helper()
	h := &host{card: w.card}
	data, sw, err := h.plain(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return data, sw
}

// certify sends a certificate in parts.
func (w *agreedWorld) certify(t *testing.T, der []byte, more byte) (sw word) {
	t.Helper()
	for len(der) > 200 {
		if _, sw = w.send(t, command{cla: 0x90, ins: insPerformSecurityOperation, p1: 3, p2: 0x10 | more, data: der[:200]}); sw != swOK {
			return sw
		}
		der = der[200:]
	}
	_, sw = w.send(t, command{cla: 0x80, ins: insPerformSecurityOperation, p1: 3, p2: 0x10 | more, data: der})
	return sw
}

func agreeCommand(kid byte, public []byte) command {
	ins := byte(insExternalAuthenticate)
	if kid == kidInternal {
		ins = insInternalAuthenticate
	}
	data := []byte{0xA6, 0x0D, 0x90, 0x02, 0x11, agreedParameter[kid], 0x95, 0x01, 0x3C, 0x80, 0x01, 0x88, 0x81, 0x01, 0x10, 0x5F, 0x49, 0x41}
	return command{cla: 0x80, ins: ins, p1: 1, p2: kid, data: append(data, public...), le: 256}
}

// open agrees with the card and returns the host's half of the session.
func (w *agreedWorld) open(t *testing.T, kid byte) *host {
	t.Helper()
	ephemeral, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	static := w.host
	if kid == kidInternal {
		static = ephemeral
	}
	cmd := agreeCommand(kid, ephemeral.PublicKey().Bytes())
	answer, sw := w.send(t, cmd)
	if sw != swOK || len(answer) != 86 {
		t.Fatalf("%04X, %d bytes", sw, len(answer))
	}
	theirs, err := ecdh.P256().NewPublicKey(answer[3:68])
	if err != nil {
		t.Fatal(err)
	}
	if equals := theirs.Equal(w.pair.PublicKey()); equals != (kid == kidStatic) {
		t.Errorf("identifier %02X: the card used its static key: %t", kid, equals)
	}
	z, err := twoSecrets(ephemeral, theirs, static, w.pair.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	keys := x963(z, []byte{0x3C, 0x88, 0x10})
	receipt := cmac(keys[0], cmd.data, answer[:68])
	if !bytes.Equal(receipt, answer[70:]) {
		t.Fatal("another receipt")
	}
	return &host{card: w.card, session: &session{level: 0x33, macLen: 8, sENC: keys[1], sMAC: keys[2], sRMAC: keys[3], mcv: [16]byte(receipt)}}
}

// TestAgreed opens a session of each variant, reads in it, and is refused what such a session
// does not carry. derive/scp11 has the recording of an independent host.
func TestAgreed(t *testing.T) {
	w := newAgreed(t)
	for _, kid := range []byte{kidMutual, kidInternal, kidStatic} {
		if kid != kidInternal {
			if sw := w.certify(t, w.cert, 0); sw != swOK {
				t.Fatalf("the certificate: %04X", sw)
			}
		}
		h := w.open(t, kid)
		data, sw, err := h.send(command{cla: 0x80, ins: insGetData, p1: 0x9F, p2: 0x7F, le: 256})
		if err != nil || sw != swOK || !bytes.Equal(data, cplc) {
			t.Errorf("identifier %02X: %X %04X %v", kid, data, sw, err)
		}
		for _, ins := range []byte{insPutKey, insStoreData, insDeleteKey} {
			if _, sw, err := h.send(command{cla: 0x80, ins: ins, data: []byte{1}}); err != nil || sw != swConditions {
				t.Errorf("instruction %02X: %04X %v", ins, sw, err)
			}
		}
	}
}

// TestAgreedChain: an authority between the card's and the host's is taken, if it is one.
func TestAgreedChain(t *testing.T) {
	w := newAgreed(t)
	middle := ecKey(t)
	below := certificate(t, must(w.host.PublicKey()), middle, false)
	for ca, want := range map[bool]word{true: swOK, false: swSecurity} {
		if sw := w.certify(t, certificate(t, middle.Public(), w.ca, ca), 0x80); sw != swOK {
			t.Fatalf("the one between: %04X", sw)
		}
		if sw := w.certify(t, below, 0); sw != want {
			t.Errorf("behind an authority (%t): %04X", ca, sw)
		}
	}
}

func must(k *ecdh.PublicKey) *ecdsa.PublicKey {
	p, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k.Bytes())
	if err != nil {
		panic(err)
	}
	return p
}

// TestAgreedRefused: nothing of it opens a session, and each refusal ends one that was open.
func TestAgreedRefused(t *testing.T) {
	w := newAgreed(t)
	point := w.host.PublicKey().Bytes()
	off := bytes.Clone(point)
	off[64] ^= 1
	other := agreeCommand(kidInternal, point)
	other.data[5] = 0x01
	crossed := agreeCommand(kidInternal, point)
	crossed.p2 = kidMutual
	kvn := agreeCommand(kidInternal, point)
	kvn.p1 = 2
	for name, c := range map[string]struct {
		cmd  command
		want word
	}{
		"a host that nobody certified":   {agreeCommand(kidMutual, point), swConditions},
		"a point that is not on it":      {agreeCommand(kidInternal, off), swData},
		"a point that is too short":      {agreeCommand(kidInternal, point[:64]), swData},
		"another parameter":              {other, swData},
		"the command of another variant": {crossed, swReference},
		"another key version":            {kvn, swReference},
	} {
		h := w.open(t, kidInternal)
		if _, sw := w.send(t, c.cmd); sw != c.want {
			t.Errorf("%s: %04X, want %04X", name, sw, c.want)
		}
		if _, sw, _ := h.send(command{cla: 0x80, ins: insGetData, p1: 0x9F, p2: 0x7F, le: 256}); sw != swConditions {
			t.Errorf("%s: the session before goes on (%04X)", name, sw)
		}
	}
	if sw := w.certify(t, certificate(t, must(w.host.PublicKey()), ecKey(t), false), 0); sw != swSecurity {
		t.Errorf("a forged certificate: %04X", sw)
	}
	if _, sw := w.send(t, command{cla: 0x80, ins: insPerformSecurityOperation, p1: 4, p2: 0x10, data: w.cert[:9]}); sw != swReference {
		t.Errorf("another authority: %04X", sw)
	}
	if _, sw := w.send(t, agreeCommand(kidMutual, point)); sw != swConditions {
		t.Errorf("after refused certificates: %04X", sw)
	}
}
