package ceremony

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/secret"
)

const head = "ceremony: x\nconfiguration: c\npresent: [ada, bob]\n"

const twoComponents = `{kcv: "gp-aes:000000", components: [{custodian: a, kcv: "gp-aes:000001"}, {custodian: b, kcv: "gp-aes:000002"}]}`

func TestParse(t *testing.T) {
	f, err := Parse([]byte(head + "keks: [{label: kek, algorithm: aes-256, " + twoComponents[1:] + "]\nkeys: [{issuer: demo, key: isd, kvn: \"30\", master: " + twoComponents + "}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.Keys[0].Describe()
	if err != nil || n.Algorithm != key.AES256 || n.CardAlgorithm != key.AES128 || n.Usage != key.GPSCP03 || n.KVN != 0x30 {
		t.Errorf("%+v, %v", n, err)
	}
	for name, text := range map[string]string{
		"an unknown field":         head + "nonsense: 1\n",
		"a field twice":            head + "ceremony: y\n",
		"no configuration":         "ceremony: x\npresent: [ada, bob]\n",
		"one person":               strings.Replace(head, "ada, bob", "ada", 1),
		"one person twice":         strings.Replace(head, "ada", "bob", 1),
		"one person in capitals":   strings.Replace(head, "ada, bob", "ada, Ada", 1),
		"two documents":            head + "keks: [{label: k, algorithm: aes-256, " + twoComponents[1:] + "]\n---\nkeys: []\n",
		"a name with a space":      strings.Replace(head, "ada", "a da", 1),
		"a token without a PIN":    head + "token: {module: m, label: l}\n",
		"service keys, no token":   head + "serviceKeys: {origin: o, log: l, pseudonym: p, state: s}\n",
		"a KEK that is generated":  head + "keks: [{label: k, algorithm: aes-256, generate: true}]\n",
		"an RSA KEK of components": head + "keks: [{label: k, algorithm: rsa-3072, public: f, " + twoComponents[1:] + "]\n",
		"a KEK of 128 bits":        head + "keks: [{label: k, algorithm: aes-128, " + twoComponents[1:] + "]\n",
		"a KEK twice":              head + "keks: [{label: k, algorithm: aes-256, " + twoComponents[1:] + ", {label: k, algorithm: aes-256, " + twoComponents[1:] + "]\n",
		"a KEK made and destroyed": head + "destroy: [k]\nkeks: [{label: k, algorithm: aes-256, " + twoComponents[1:] + "]\n",
		"a key twice":              head + "keys: [" + strings.Repeat(`{issuer: demo, key: isd, kvn: "30", master: {generate: true}}, `, 2) + "]\n",
		"no value":                 head + `keys: [{issuer: demo, key: isd, kvn: "30"}]` + "\n",
		"a value too many":         head + `keys: [{issuer: demo, key: isd, kvn: "30", master: {generate: true}, dek: {generate: true}}]` + "\n",
		"a wrong part":             head + `keys: [{issuer: demo, key: isd, kvn: "30", enc: {generate: true}}]` + "\n",
		"a KVN too high":           head + `keys: [{issuer: demo, key: isd, kvn: "80", master: {generate: true}}]` + "\n",
		"an impossible pair":       head + `keys: [{issuer: demo, key: isd, kvn: "30", diversification: visa2, master: {generate: true}}]` + "\n",
		"equal check values":       head + `keys: [{issuer: demo, key: isd, kvn: "30", master: ` + strings.Replace(twoComponents, "000002", "000001", 1) + "}]\n",
		"wrapped without a blob":   head + `keys: [{issuer: demo, key: isd, kvn: "30", master: {kcv: "gp-aes:000000", wrapped: {kek: k, method: aes-kwp}}}]` + "\n",
		"too long":                 head + strings.Repeat("#", fileBytesMax),
	} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// TestProfiles: a file carries documents of card profiles, and each is judged with it.
func TestProfiles(t *testing.T) {
	document := func(level string) string {
		return "\n    document: |\n      name: default\n      protocol: scp03\n      i: \"70\"\n      level: \"" + level +
			"\"\n      keys: {algorithm: aes-128, diversification: kdf3, kvn: {from: \"30\", to: \"3F\"}}\n"
	}
	f, err := Parse([]byte(head + "profiles:\n  - issuer: demo" + document("33") + "  - issuer: other" + document("33")))
	if err != nil || len(f.Profiles) != 2 || f.Profiles[0].String() != "issuers/demo/profiles/default" || f.Profiles[1].Name() != "default" {
		t.Fatalf("%+v, %v", f, err)
	}
	for name, profiles := range map[string]string{
		"a contradiction":     "  - issuer: demo" + document("02"),
		"one twice":           "  - issuer: demo" + document("33") + "  - issuer: demo" + document("01"),
		"an issuer of none":   "  - issuer: Demo" + document("33"),
		"no document":         "  - issuer: demo\n",
		"a document that is":  "  - issuer: demo\n    document: {name: default}\n",
		"an unknown property": "  - issuer: demo\n    name: default" + document("33"),
	} {
		if _, err := Parse([]byte(head + "profiles:\n" + profiles)); err == nil {
			t.Errorf("%s passed", name)
		}
	}
}

// TestDocumentedFile: the file of deploy/CEREMONY.md is one.
func TestDocumentedFile(t *testing.T) {
	b, err := os.ReadFile("../../deploy/CEREMONY.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "```yaml\n")
	text, _, _ := strings.Cut(rest, "```")
	f, err := Parse([]byte(text))
	if err != nil || len(f.Keys) != 2 || len(f.KEKs) != 2 || len(f.Profiles) != 1 || f.Token == nil || f.Officers == nil {
		t.Errorf("%+v, %v", f, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(head + "keys: [{issuer: demo, key: isd, kvn: \"30\", master: " + twoComponents + "}]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := Parse(b); err == nil {
			for _, k := range c.Keys {
				if _, err := k.Describe(); err != nil {
					t.Errorf("a key that no token could make: %v", err)
				}
			}
		}
	})
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadComponent(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		a    key.Algorithm
		ok   bool
	}{
		"AES":                    {"00112233445566778899aabbccddeeff", key.AES128, true},
		"in groups":              {"0011 2233 4455 6677 8899 AABB CCDD EEFF", key.AES128, true},
		"one digit short":        {"00112233445566778899aabbccddeef", key.AES128, false},
		"one byte short":         {"00112233445566778899aabbccddee", key.AES128, false},
		"one digit too many":     {"00112233445566778899aabbccddeeff0", key.AES128, false},
		"not hexadecimal":        {"0011223344556677x899aabbccddeeff", key.AES128, false},
		"empty":                  {"", key.AES128, false},
		"3DES with odd parity":   {"0123456789ABCDEF FEDCBA9876543210", key.TDEA2, true},
		"3DES with a wrong byte": {"0123456789ABCDEE FEDCBA9876543210", key.TDEA2, false},
		"two of three parts":     {"0123456789ABCDEF FEDCBA9876543210", key.TDEA3, false},
	} {
		room := secret.New(make([]byte, c.a.Size()))
		err := ReadComponent([]byte(c.line), c.a, room)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && (!bytes.Equal(room.Reveal(), make([]byte, c.a.Size())) || c.line != "" && strings.Contains(err.Error(), c.line[:4])) {
			t.Errorf("%s: something is left or said: %v", name, err)
		}
	}
}

func TestCombine(t *testing.T) {
	const k1, k2, k3 = "0123456789ABCDEF", "FEDCBA9876543210", "89ABCDEF01234567"
	for name, c := range map[string]struct {
		a          key.Algorithm
		components []string
		want       string // empty: refused
	}{
		"AES of two":          {key.AES128, []string{k1 + k2, k2 + k1}, "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"},
		"AES of three":        {key.AES128, []string{k1 + k2, k2 + k1, k3 + k3}, "76543210FEDCBA98 76543210FEDCBA98"},
		"AES, zeros":          {key.AES128, []string{k1 + k2, k1 + k2}, ""},
		"3DES of three":       {key.TDEA2, []string{k1 + k2, k2 + k3, k3 + k3}, "odd parity"},
		"3DES, equal halves":  {key.TDEA2, []string{k1 + k1, k2 + k2}, ""},
		"3DES, zeros":         {key.TDEA2, []string{k1 + k2, k1 + k2}, ""},
		"3DES, a weak half":   {key.TDEA2, []string{k1 + k2, k1 + k3}, ""}, // the first half becomes 01…01
		"3-key, first = last": {key.TDEA3, []string{k1 + k2 + k1, k2 + k3 + k2}, ""},
	} {
		var components []secret.Bytes
		for _, s := range c.components {
			components = append(components, secret.New(unhex(t, s)))
		}
		sum := secret.New(make([]byte, c.a.Size()))
		err := Combine(c.a, sum, components...)
		if (err == nil) != (c.want != "") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err != nil {
			if !bytes.Equal(sum.Reveal(), make([]byte, c.a.Size())) {
				t.Errorf("%s: the sum is left", name)
			}
			continue
		}
		if got := sum.Reveal(); !c.a.TDEA() && !bytes.Equal(got, unhex(t, c.want)) || c.a.TDEA() && !oddParity(got) {
			t.Errorf("%s: the sum is %X", name, got)
		}
	}
}

// TestWeakDES: every weak and semi-weak key, in every place of a 3DES key.
func TestWeakDES(t *testing.T) {
	if len(weakDES) != 16 {
		t.Fatalf("%d weak keys", len(weakDES))
	}
	good := unhex(t, "0123456789ABCDEF FEDCBA9876543210 89ABCDEF01234567")
	if why := weakness(key.TDEA3, good); why != "" {
		t.Fatal(why)
	}
	for w := range weakDES {
		if !oddParity(w[:]) {
			t.Errorf("%X has even parity", w)
		}
		for at := 0; at < 24; at += 8 {
			k := bytes.Clone(good)
			copy(k[at:], w[:])
			if weakness(key.TDEA3, k) == "" {
				t.Errorf("%X was taken", k)
			}
		}
	}
}

// software is the private half of a pair, for tests.
type software struct{ k *ecdh.PrivateKey }

func (s software) Exchange(peer *ecdh.PublicKey) (secret.Bytes, error) {
	z, err := s.k.ECDH(peer)
	return secret.New(z), err
}

func newPair(t *testing.T) Pair {
	t.Helper()
	k, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{k.PublicKey(), software{k}}
}

// TestKeeper: a component opens in its place, under its pair, unchanged, and not
// otherwise.
func TestKeeper(t *testing.T) {
	k, p := Keeper{t.TempDir()}, newPair(t)
	at := Place{"digest", "issuers/demo/keys/isd/kvn/30#master", 1, "alice"}
	component := secret.New([]byte("0123456789abcdef"))
	if has, err := k.Has(at); has || err != nil {
		t.Fatal(has, err)
	}
	if err := k.Keep(p, at, component); err != nil {
		t.Fatal(err)
	}
	room := func() secret.Bytes { return secret.New(make([]byte, 16)) }
	got := room()
	if err := k.Open(p, at, got); err != nil || !got.Equal(component) {
		t.Fatal(err)
	}
	b, err := os.ReadFile(k.path(at))
	if err != nil || bytes.Contains(b, component.Reveal()) || bytes.Contains(b, []byte(hex.EncodeToString(component.Reveal()))) {
		t.Fatalf("%v\n%s", err, b)
	}
	sealed, err := p.seal(at, component)
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if fault.CodeOf(p.open(at, bad, room())) != fault.ProofFailed {
			t.Errorf("byte %d changed opens", i)
		}
	}
	for name, other := range map[string]Place{
		"ceremony": {"other", at.Value, 1, "alice"}, "value": {at.Ceremony, "other", 1, "alice"},
		"number": {at.Ceremony, at.Value, 2, "alice"}, "custodian": {at.Ceremony, at.Value, 1, "bert"},
	} {
		if fault.CodeOf(p.open(other, sealed, room())) != fault.ProofFailed {
			t.Errorf("another %s opens", name)
		}
	}
	if fault.CodeOf(newPair(t).open(at, sealed, room())) != fault.ProofFailed {
		t.Error("another pair opens")
	}
	if fault.CodeOf(p.open(at, sealed, secret.New(make([]byte, 32)))) != fault.ProofFailed {
		t.Error("a component of another length")
	}
	if all, err := k.Ceremonies(); err != nil || len(all) != 0 {
		t.Errorf("no digest is one of a ceremony: %v, %v", all, err)
	}
	edited := at
	edited.Ceremony, edited.Value = strings.Repeat("0a", 32), "other"
	if err := k.Keep(p, edited, component); err != nil {
		t.Fatal(err)
	}
	if all, err := k.Ceremonies(); err != nil || len(all) != 1 || all[0] != edited.Ceremony || PairLabel(all[0]) != "cardkms-component/0a0a0a0a0a0a0a0a" {
		t.Errorf("the ceremonies of what is kept: %v, %v", all, err)
	}
	for range 2 {
		if err := k.Drop(at); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRecord(t *testing.T) {
	f := &File{Title: "x", Present: []string{"a", "b"}}
	path := t.TempDir() + "/journal"
	r, err := OpenRecord(path, f)
	if err != nil || r.Has(TokenStep) {
		t.Fatal(r, err)
	}
	// Somebody wrote into the journal what no token showed.
	r.Steps = append(r.Steps, Step{Step: TokenStep, By: "os-user:x", Facts: map[string]string{"kcv": "gp-aes:000000"}}, Step{Step: TokenStep}, Step{Step: "kek k"})
	r.Officers, r.Token = []string{"eve"}, "a token"
	if err := r.Save(path); err != nil {
		t.Fatal(err)
	}
	again, err := OpenRecord(path, f)
	if err != nil || len(again.Steps) != 1 || again.Steps[0].By != "os-user:x" || again.Steps[0].Facts != nil || again.Officers != nil || again.Token != "" {
		t.Errorf("%+v, %v", again, err)
	}
	f.Digest[0] = 1
	if _, err := OpenRecord(path, f); fault.CodeOf(err) != fault.InvalidInput {
		t.Errorf("the journal of another file: %v", err)
	}
}
