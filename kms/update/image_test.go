package update_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/update"
)

// TestStatement states the signed bytes and that every field is among them.
func TestStatement(t *testing.T) {
	im := sampleManifest().Image
	want := append([]byte("cardkms image statement v1\x00"), unhex("E8"+"64"+
		"8310C3F0E8B06B1D5B7E9A7D2F7C5E1A4B60"+"8508A000000151000000"+"86080100000000000000"+"87080101000000000000"+
		"880400000003"+"8904000009C4"+"8A20823156B2A0362F65EE5302513F7EE7EC8B44F5E3370AFF115494267AE0EF10F2"+"8B044F52AAF4")...)
	if got := im.Statement(); !bytes.Equal(got, want) {
		t.Errorf("the statement is %q, want %q", got, want)
	}
	seen := map[string]string{string(want): "as it is"}
	for name, change := range changes {
		other := im
		other.Component = bytes.Clone(im.Component)
		change(&other)
		s := string(other.Statement())
		if same, ok := seen[s]; ok {
			t.Errorf("%s and %s have one statement", name, same)
		}
		seen[s] = name
	}
}

var changes = map[string]func(*update.Image){
	"class":              func(im *update.Image) { im.Class[0]++ },
	"component":          func(im *update.Image) { im.Component[7]++ },
	"component's length": func(im *update.Image) { im.Component = append(im.Component, 0) },
	"from":               func(im *update.Image) { im.From[7]++ },
	"to":                 func(im *update.Image) { im.To[7]++ },
	"counter":            func(im *update.Image) { im.Counter++ },
	"size":               func(im *update.Image) { im.Size++ },
	"sha-256":            func(im *update.Image) { im.SHA256[31]++ },
	"crc-32":             func(im *update.Image) { im.CRC32++ },
}

// TestSignature signs with Ed25519 and ECDSA P-256. Every change of the image or
// of a bit of the signature, another key, and a key of a kind that release keys
// do not have, are refused alike.
func TestSignature(t *testing.T) {
	im := sampleManifest().Image
	edPublic, edPrivate, _ := ed25519.GenerateKey(rand.Reader)
	otherEd, _, _ := ed25519.GenerateKey(rand.Reader)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherEC, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	sum := sha256.Sum256(im.Statement())
	ecSig, err := ecdsa.SignASN1(rand.Reader, ec, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig384, _ := ecdsa.SignASN1(rand.Reader, p384, sum[:])
	edSig := ed25519.Sign(edPrivate, im.Statement())
	for _, k := range []struct {
		name   string
		public any
		sig    []byte
	}{{"ed25519", edPublic, edSig}, {"ecdsa", &ec.PublicKey, ecSig}} {
		if err := im.VerifySignature(k.public, k.sig); err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
		for name, change := range changes {
			other := im
			other.Component = bytes.Clone(im.Component)
			change(&other)
			refused(t, k.name+" with another "+name, other.VerifySignature(k.public, k.sig))
		}
		for bit := range 8 * len(k.sig) {
			bad := bytes.Clone(k.sig)
			bad[bit/8] ^= 1 << (bit % 8)
			refused(t, k.name+" with a flipped bit", im.VerifySignature(k.public, bad))
		}
		for _, n := range []int{0, 1, len(k.sig) - 1} {
			refused(t, k.name+" cut", im.VerifySignature(k.public, k.sig[:n]))
		}
	}
	for name, c := range map[string]struct {
		public any
		sig    []byte
	}{
		"another Ed25519 key":        {otherEd, edSig},
		"another P-256 key":          {&otherEC.PublicKey, ecSig},
		"Ed25519 under ECDSA":        {&ec.PublicKey, edSig},
		"ECDSA under Ed25519":        {edPublic, ecSig},
		"P-384, which is not listed": {&p384.PublicKey, sig384},
		"no key":                     {nil, edSig},
		"an Ed25519 key of 31 bytes": {edPublic[:31], edSig},
		"an empty Ed25519 key":       {ed25519.PublicKey{}, edSig},
		"an ECDSA key without curve": {&ecdsa.PublicKey{}, ecSig},
		"a nil ECDSA key":            {(*ecdsa.PublicKey)(nil), ecSig},
		"a key's bytes":              {[]byte(edPublic), edSig},
	} {
		refused(t, name, im.VerifySignature(c.public, c.sig))
	}
	// The signature is over the statement and not over the content's digest.
	refused(t, "a bare digest", im.VerifySignature(edPublic, ed25519.Sign(edPrivate, im.SHA256[:])))
}

func refused(t *testing.T, what string, err error) {
	t.Helper()
	if fault.CodeOf(err) != fault.ImageUnverified {
		t.Errorf("%s: %v", what, err)
	}
}

// TestContent streams a content in pieces and compares it with the image's own
// words, each of which is then changed.
func TestContent(t *testing.T) {
	im := sampleManifest().Image
	stream := func(data []byte) *update.Content {
		c := update.NewContent()
		for len(data) > 0 {
			n := min(999, len(data))
			if w, err := c.Write(data[:n]); w != n || err != nil {
				t.Fatal(w, err)
			}
			data = data[n:]
		}
		return c
	}
	c := stream(content(2500))
	if err := c.Check(im); err != nil || c.Size() != 2500 {
		t.Errorf("%d bytes: %v", c.Size(), err)
	}
	var filled update.Image
	c.Fill(&filled)
	if filled.Size != im.Size || filled.SHA256 != im.SHA256 || filled.CRC32 != im.CRC32 {
		t.Errorf("filled: %+v", filled)
	}
	for _, name := range []string{"size", "sha-256", "crc-32"} {
		other := im
		changes[name](&other)
		refused(t, "another "+name, c.Check(other))
	}
	bad := content(2500)
	bad[1234] ^= 1
	refused(t, "an altered byte", stream(bad).Check(im))
	refused(t, "a byte less", stream(content(2499)).Check(im))
	refused(t, "a byte more", stream(append(content(2500), 0)).Check(im))
	refused(t, "nothing", update.NewContent().Check(im))
}

// TestManifestCarriesTheImage: the manifest repeats the statement's fields, so
// that what was signed is what the card is told.
func TestManifestCarriesTheImage(t *testing.T) {
	_, p := samplePackage(t, plain)
	objs, err := apdu.ParseTLVs(p.Encoded)
	if err != nil {
		t.Fatal(err)
	}
	var fields []byte
	all, _ := apdu.ParseTLVs(objs[0].Value)
	for _, f := range all {
		if f.Tag >= 0x83 && f.Tag <= 0x8B && f.Tag != 0x84 {
			fields = apdu.AppendTLV(fields, f.Tag, f.Value)
		}
	}
	want := apdu.AppendTLV([]byte("cardkms image statement v1\x00"), 0xE8, fields)
	if !bytes.Equal(p.Manifest.Image.Statement(), want) {
		t.Error("the manifest's fields are not those of the statement")
	}
}
