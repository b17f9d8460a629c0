package profile_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cardkms/derive/diversify"
	"cardkms/derive/scp03"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/profile"
)

const examples = "../../deploy/profiles/"

func example(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(examples + name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestExamples: each file in deploy/profiles is a profile of its file's name.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob(examples + "*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".yaml")
		p, err := profile.Parse([]byte(example(t, name)))
		if err != nil || p.Name != name || len(p.Answers) == 0 {
			t.Errorf("%s: %v", f, err)
		}
	}
}

func TestParse(t *testing.T) {
	p, err := profile.Parse([]byte(example(t, "scp03-s16")))
	if err != nil {
		t.Fatal(err)
	}
	if p.I != 0x71 || p.Mode != scp03.S16 || p.Level != 0x03 || p.PutKey != scp03.NoLength || p.ChunkSize != 2048 || p.ShortOnly ||
		p.Attempts != 3 || p.Usage() != key.GPSCP03 || p.Keys != (profile.Keys{Algorithm: key.AES128, Diversification: diversify.KDF3, From: 0x30, To: 0x3F}) {
		t.Errorf("%+v", p)
	}
	old, err := profile.Parse([]byte(example(t, "scp02")))
	if err != nil || old.SCP02 != 0x55 || old.Mode != scp03.S8 || !old.PadEmpty || !old.ShortOnly || old.Usage() != key.GPSCP02 {
		t.Errorf("%+v, %v", old, err)
	}
}

// change is a document in which one thing is another.
type change struct{ in, from, to string }

// contradictions are documents of which each one thing is wrong, and a word of what is
// said about it.
var contradictions = map[string]struct {
	change
	want string
}{
	"a name that is none":             {change{"scp03-s8", "name: scp03-s8", "name: Visa"}, "name has"},
	"a protocol that is none":         {change{"scp03-s8", "protocol: scp03", "protocol: scp01"}, "protocol is"},
	"no attempts":                     {change{"scp03-s8", "attempts: 3", "attempts: 0"}, "attempts is"},
	"too many attempts":               {change{"scp03-s8", "attempts: 3", "attempts: 11"}, "attempts is"},
	"an AID too short":                {change{"template", "A000000151000000", "A0"}, "aid has"},
	"an AID of no digits":             {change{"template", "A000000151000000", "A0000001510000XX"}, "aid is in hex"},
	"an i without a meaning":          {change{"template", `i: "70"`, `i: "78"`}, "i of scp03"},
	"R-ENCRYPTION without R-MAC":      {change{"template", `i: "70"`, `i: "50"`}, "i of scp03"},
	"two bytes of i":                  {change{"template", `i: "70"`, `i: "7070"`}, "i is one byte"},
	"a level that is none":            {change{"template", `level: "33"`, `level: "02"`}, "level is"},
	"a level that i does not have":    {change{"template", `i: "70"`, `i: "30"`}, "level is"},
	"two quirks that exclude":         {change{"template", "keys:", "quirks: {padEmptyCommands: true, skipEmptyCommands: true}\nkeys:"}, "exclude each other"},
	"a format that is none":           {change{"scp03-s8", "putKey: with-length", "putKey: short"}, "putKey is"},
	"a suite that is none":            {change{"scp03-s8", `suite: "01"`, `suite: "02"`}, "suite is"},
	"suite 00 in clear":               {change{"template", `level: "33"`, "level: \"11\"\nsuite: \"00\""}, "suite 00 needs"},
	"a chunk too large":               {change{"scp03-s8", "chunkSize: 1024", "chunkSize: 5000"}, "chunkSize is"},
	"3DES under SCP03":                {change{"template", "aes-256\n", "tdea-2key\n"}, "keys.algorithm"},
	"AES under SCP02":                 {change{"scp02", "algorithm: tdea-2key, div", "algorithm: aes-128, div"}, "keys.algorithm"},
	"a method of 3DES for AES-256":    {change{"template", "cmac:00.00.00.t.00.k0.k1.k2.k3.k4.k5.k6.k7.k8.k9", "visa2"}, "derives no aes-256"},
	"a template without the purpose":  {change{"template", "cmac:00.00.00.t.", "cmac:00.00.00.01."}, "derives no"},
	"a template of nothing":           {change{"template", "cmac:00", "code:00"}, "derives no"},
	"KVNs out of order":               {change{"template", `from: "30"`, `from: "40"`}, "keys.kvn"},
	"a KVN that is none":              {change{"template", `to: "3F"`, `to: "80"`}, "keys.kvn"},
	"a suite under SCP02":             {change{"scp02", "attempts", "suite: \"01\"\nattempts"}, "no packages"},
	"chunks under SCP02":              {change{"scp02", "attempts", "chunkSize: 1024\nattempts"}, "no packages"},
	"extended length under SCP02":     {change{"scp02", "attempts", "extendedLength: true\nattempts"}, "extendedLength"},
	"a PUT KEY format under SCP02":    {change{"scp02", "attempts", "putKey: with-length\nattempts"}, "putKey is of scp03"},
	"a counter under SCP02":           {change{"scp02", "padEmptyCommands", "skipEmptyCommands"}, "skipEmptyCommands is of"},
	"an i of no card of SCP02":        {change{"scp02", `i: "55"`, `i: "16"`}, "i of scp02"},
	"implicit initiation, encrypted":  {change{"scp02", `i: "55"`, `i: "1A"`}, "implicit initiation"},
	"a session without initiation":    {change{"scp02", "i: \"55\"\naid: \"A000000151000000\"\nlevel: \"03\"", "i: \"1A\"\naid: \"A000000151000000\"\nlevel: \"01\""}, "INITIALIZE UPDATE"},
	"R-MAC on a card without":         {change{"scp02", `level: "03"`, `level: "13"`}, "level of scp02"},
	"R-ENCRYPTION under SCP02":        {change{"scp02", `level: "03"`, `level: "33"`}, "level of scp02"},
	"CMAC under 3DES":                 {change{"scp02", "visa2, kvn", "an10922, kvn"}, "an10922"},
	"a template nobody answers for":   {change{"template", "    checkValues", "    # checkValues"}, "needs a known answer"},
	"an answer without a source":      {change{"template", "    source: Global", "    # source: Global"}, "a source"},
	"a master of another length":      {change{"template", "testMaster: {algorithm: aes-256", "testMaster: {algorithm: aes-128"}, "testMaster has"},
	"a master of another kind":        {change{"scp03-s8", "testMaster: {algorithm: aes-128", "testMaster: {algorithm: tdea-2key"}, "testMaster: "},
	"no KDD":                          {change{"template", "    kdd: ", "    # kdd: "}, "needs a kdd"},
	"check values in lower case":      {change{"template", `enc: "0C790A"`, `enc: "0c790a"`}, "checkValues are"},
	"a card key too short":            {change{"scp03-s8", `enc: "0B5AC8F3592ADB5FACBDF85D2A447DCF"`, `enc: "0B"`}, "testKeys are"},
	"a challenge of another length":   {change{"scp03-s8", `hostChallenge: "6BD9371FDDBDA9A8"`, `hostChallenge: "6BD9"`}, "hostChallenge has"},
	"a command that is none":          {change{"scp03-s8", `plain: "80E40000"`, `plain: "80"`}, "a command APDU"},
	"a field twice":                   {change{"template", `level: "33"`, "level: \"33\"\nlevel: \"33\""}, "level"},
	"SCP11 at another level":          {change{"scp11b", `level: "33"`, `level: "13"`}, "level of scp11"},
	"SCP11 with an i":                 {change{"scp11b", "protocol:", "i: \"70\"\nprotocol:"}, "i and aid are"},
	"SCP11 with packages":             {change{"scp11b", "protocol:", "suite: \"01\"\nprotocol:"}, "no packages"},
	"SCP11 with two quirks":           {change{"scp11b", "padEmptyCommands: true", "padEmptyCommands: true, skipEmptyCommands: true"}, "exclude each other"},
	"SCP11 with masters":              {change{"scp11b", "algorithm: ec-p256", "algorithm: ec-p256, diversification: kdf3"}, "no diversification"},
	"SCP11 under AES":                 {change{"scp11b", "algorithm: ec-p256", "algorithm: aes-128"}, "keys.algorithm is ec-p256"},
	"a KVN that is none under SCP11":  {change{"scp11b", `from: "01"`, `from: "00"`}, "keys.kvn"},
	"SCP03 with certificates":         {change{"scp03-s8", "protocol:", "certificates: {authority: {kvn: \"01\", kid: \"10\"}}\nprotocol:"}, "certificates are of scp11"},
	"SCP11 without anchors":           {change{"scp11b", "trusted: |", "trusted: \"\"\nnowhere: |"}, "nowhere"},
	"SCP11b with a host":              {change{"scp11b", "certificates:\n", "certificates:\n  authority: {kvn: \"01\", kid: \"10\"}\n"}, "does not prove the host"},
	"a session under SCP11":           {change{"scp11b", "    agreement:", "    kdd: \"00\"\n    agreement:"}, "has an agreement, and nothing else"},
	"an agreement under SCP03":        {change{"scp03-s8", "    session:", "    agreement: {card: \"04\"}\n    session:"}, "has an agreement, and nothing else"},
	"a test key of zero":              {change{"scp11b", `testEphemeral: "CB82C30DA5AE19200A96DCA130E5580C02FCDFC0FD44B0388CC539D6C7FF0CB4"`, `testEphemeral: "0000000000000000000000000000000000000000000000000000000000000000"`}, "private keys on P-256"},
	"SCP11b with a static key":        {change{"scp11b", "testEphemeral:", "testStatic: \"01\"\n      testEphemeral:"}, "testStatic is of"},
	"a card that is not on the curve": {change{"scp11b", `card: "04E8`, `card: "04E9`}, "a point of P-256"},
	"SCP11a without an authority":     {change{"scp11a", "authority: {kvn: \"03\", kid: \"10\"}", "# no authority"}, "names the key of the cards"},
	"an authority of no number":       {change{"scp11a", `kvn: "03", kid`, `kvn: "00", kid`}, "01 to 7F"},
	"something beside certificates":   {change{"scp11a", "  host: |\n", "  host: |\n    a word\n"}, "in PEM and nothing else"},
	"an unknown field":                {change{"template", `level: "33"`, "level: \"33\"\ncode: rm"}, "code"},
	"a second document":               {change{"template", "knownAnswers:", "---\nknownAnswers:"}, "more than one"},
	"no YAML":                         {change{"template", "keys:", "keys: [}"}, ""},
}

// TestContradictions: each is named, and nothing else is said.
func TestContradictions(t *testing.T) {
	for name, c := range contradictions {
		good := example(t, c.in)
		text := strings.Replace(good, c.from, c.to, 1)
		if text == good {
			t.Fatalf("%s: the example does not hold what this case changes", name)
		}
		_, err := profile.Parse([]byte(text))
		var all profile.Problems
		if fault.CodeOf(err) != fault.InvalidInput || !errors.As(err, &all) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.ContainsFunc(all, func(p string) bool { return strings.Contains(p, c.want) }) {
			t.Errorf("%s: %q, want %q", name, all, c.want)
		}
	}
}

// TestAllAtOnce: who mends a document sees all that is wrong with it, in one order.
func TestAllAtOnce(t *testing.T) {
	const text = `name: X
protocol: scp02
i: "1A"
aid: "A0"
level: "33"
keys: {algorithm: aes-192, diversification: visa2, kvn: {from: "30", to: "20"}}
putKey: without-length
suite: "00"
extendedLength: true
quirks: {skipEmptyCommands: true}
attempts: 99
knownAnswers:
  - {name: one, source: mine}
`
	want := []string{"name", "attempts", "aid", "suite", "putKey", "skipEmpty", "implicit", "keys.kvn", "keys.algorithm", "one: its keys", "one: it answers nothing"}
	for range 5 {
		_, err := profile.Parse([]byte(text))
		var all profile.Problems
		if !errors.As(err, &all) || len(all) != len(want) {
			t.Fatalf("%d problems, want %d: %v", len(all), len(want), err)
		}
		for i, w := range want {
			if !strings.Contains(all[i], w) {
				t.Errorf("problem %d is %q, want %q", i+1, all[i], w)
			}
		}
	}
}

func TestTooLarge(t *testing.T) {
	text := example(t, "template") + strings.Repeat("#", profile.DocumentBytesMax)
	if _, err := profile.Parse([]byte(text)); fault.CodeOf(err) != fault.TooLarge {
		t.Error(err)
	}
}

// TestAgrees: a key version that the cards cannot have is refused.
func TestAgrees(t *testing.T) {
	p, err := profile.Parse([]byte(example(t, "template")))
	if err != nil {
		t.Fatal(err)
	}
	good := key.Version{Usage: key.GPSCP03, Algorithm: key.AES128, CardAlgorithm: key.AES256, Diversification: string(p.Keys.Diversification), KVN: 0x3F}
	if err := p.Agrees(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*key.Version){
		"usage":           func(v *key.Version) { v.Usage = key.GPSCP02 },
		"card keys":       func(v *key.Version) { v.CardAlgorithm = key.AES128 },
		"diversification": func(v *key.Version) { v.Diversification = "kdf3" },
		"KVN below":       func(v *key.Version) { v.KVN = 0x2F },
		"KVN above":       func(v *key.Version) { v.KVN = 0x40 },
	} {
		v := good
		change(&v)
		if err := p.Agrees(v); fault.CodeOf(err) != fault.ProfileMismatch {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"scp03-s8", "scp03-s16", "scp02", "template", "scp11a", "scp11b"} {
		b, err := os.ReadFile(examples + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := profile.Parse(b)
		if err == nil && (p.Mode != scp03.S8 && p.Mode != scp03.S16 || !key.ValidName(p.Name)) {
			t.Errorf("%+v", p)
		}
	})
}
