package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"cardkms/audit"
	"cardkms/kms/approval"
	"cardkms/kms/approval/officerkey"
	"cardkms/kms/ceremony"
	"cardkms/kms/hsm"
	"cardkms/kms/keywrap"
	"cardkms/kms/kmstest"
	"cardkms/kms/secret"
	"cardkms/kms/store"
	"cardkms/kms/store/sqlite"
	"cardkms/softhsm"
)

// crashVariable names the point where a child process dies.
const crashVariable = "CARDKMSD_TEST_CRASH"

func init() {
	at := os.Getenv(crashVariable)
	if at == "" {
		return
	}
	crashAt = func(point string) {
		if point == at {
			fmt.Fprintln(os.Stderr, "crash at "+point)
			os.Exit(9)
		}
	}
}

// kcvOf is the check value of an AES key, computed outside the token.
func kcvOf(k []byte) string {
	b, err := aes.NewCipher(k)
	if err != nil {
		panic(err)
	}
	out := make([]byte, 16)
	b.Encrypt(out, bytes.Repeat([]byte{1}, 16))
	return fmt.Sprintf("gp-aes:%X", out[:3])
}

// split divides a value into n XOR components.
func split(value []byte, n int) (out [][]byte) {
	last := bytes.Clone(value)
	for range n - 1 {
		c := random(len(value))
		for i := range last {
			last[i] ^= c[i]
		}
		out = append(out, c)
	}
	return append(out, last)
}

// yamlKeys collects keys from components, and what their custodians type.
type yamlKeys struct{ text, stdin string }

var custodians = []string{"alice", "bert", "carol"}

func (y *yamlKeys) value(value []byte, parts [][]byte) string {
	var list []string
	for i, c := range parts {
		list = append(list, fmt.Sprintf("{custodian: %s, kcv: %q}", custodians[i], kcvOf(c)))
		y.stdin += hex.EncodeToString(c) + "\n"
	}
	return fmt.Sprintf("{kcv: %q, components: [%s]}", kcvOf(value), strings.Join(list, ", "))
}

func (y *yamlKeys) components(name, usage, kvn string, value []byte) {
	y.text += fmt.Sprintf("  - {issuer: demo, key: %s, usage: %s, kvn: %q, algorithm: aes-%d, master: %s}\n",
		name, usage, kvn, 8*len(value), y.value(value, split(value, 2)))
}

// ceremony writes a ceremony's file that two officers of the set-up signed.
func (s *site) ceremony(name, body string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name+".yaml")
	s.must("", os.WriteFile(path, []byte("ceremony: "+name+"\nconfiguration: cardkms.yaml\npresent: [ada, bob]\n"+body), 0o600))
	s.signCeremony(path, "ada", "bob")
	return path
}

func (s *site) signCeremony(path string, officers ...string) {
	s.t.Helper()
	b, err := os.ReadFile(path)
	s.must("", err)
	f := &ceremony.File{}
	if parsed, err := ceremony.Parse(b); err == nil {
		f = parsed
	}
	s.sign(path, approval.CeremonyStatement(f.Digest), officers...)
}

// sign puts officers' signatures over a statement beside a file.
func (s *site) sign(path string, statement []byte, officers ...string) {
	s.t.Helper()
	passphrase, err := os.ReadFile(filepath.Join(s.dir, "officers", "passphrase"))
	s.must("", err)
	signatures := approval.Signatures{}
	for _, o := range officers {
		private, err := os.ReadFile(filepath.Join(s.dir, "officers", o))
		s.must("", err)
		k, err := officerkey.Open(private, passphrase)
		s.must("", err)
		signatures[o] = ed25519.Sign(k, statement)
	}
	s.must("", os.WriteFile(path+".approvals", signatures.Encode(), 0o600))
}

// entries returns what the log of a set-up without a server holds.
func (s *site) entries() (all []audit.Entry) {
	s.t.Helper()
	db, err := sqlite.Open(context.Background(), filepath.Join(s.dir, "data", "cardkms.db"))
	s.must("", err)
	defer db.Close()
	s.must("", db.View(context.Background(), func(tx store.Tx) error {
		size, err := tx.Size()
		if err != nil {
			return err
		}
		leaves, err := tx.Leaves(0, int(size))
		for _, l := range leaves {
			e, err := audit.ParseEntry(l.Content)
			if err != nil {
				return err
			}
			all = append(all, e)
		}
		return err
	}))
	return all
}

// last returns the last entry of an operation.
func (s *site) last(operation string) (e audit.Entry) {
	s.t.Helper()
	for _, one := range s.entries() {
		if one.Operation == operation {
			e = one
		}
	}
	if e.Operation == "" {
		s.t.Errorf("the log has no entry %s", operation)
	}
	return e
}

// proven replays the log as an auditor does.
func (s *site) proven(signed int) {
	s.t.Helper()
	var h history
	for _, e := range s.entries() {
		encoding, err := e.Encode()
		s.must("", err)
		h.add(encoding, 1<<40)
	}
	if h.err != nil || len(h.replay.Unproven) > 0 || h.replay.Signed != signed {
		s.t.Errorf("%d ceremonies and restorations are signed, want %d; unproven: %v, %v", h.replay.Signed, signed, h.replay.Unproven, h.err)
	}
}

// newEmptySite makes a set-up without masters and without a server.
func newEmptySite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: filepath.Join(t.TempDir(), "kms"), log: new(kmstest.Log)}
	s.must(s.cardkmsd("", "init", s.dir, "--listen", "127.0.0.1:0"))
	return s
}

// refused runs a ceremony that must fail and say why.
func (s *site) refused(what, file, stdin, want string) string {
	s.t.Helper()
	out, err := s.cardkmsd(stdin, "ceremony", "run", "--yes", file)
	if err == nil || !strings.Contains(out, want) {
		s.t.Errorf("%s: %v, want %q in\n%s", what, err, want, out)
	}
	return out
}

// TestCeremonyFileFromInit: the file that init makes is one, and a dry run changes
// nothing.
func TestCeremonyFileFromInit(t *testing.T) {
	s := newEmptySite(t)
	file := filepath.Join(s.dir, "keys.yaml")
	s.refused("nobody signed", file, "", "0 officers signed")
	if out := s.must(s.cardkmsd("", "ceremony", "run", "--dry-run", file)); !strings.Contains(out, "Officers: approval_required") {
		t.Errorf("a dry run before anybody signed:\n%s", out)
	}
	s.signCeremony(file, "ada")
	s.refused("one officer", file, "", "1 officers signed")
	s.signCeremony(file, "ada", "bob")
	for range 2 {
		out := s.must(s.cardkmsd("", "ceremony", "run", "--dry-run", file))
		if !strings.Contains(out, "would be done") || strings.Contains(out, "done already") {
			t.Errorf("the dry run:\n%s", out)
		}
	}
	s.must(s.cardkmsd("", "ceremony", "run", "--yes", file))
	out := s.must(s.cardkmsd("", "ceremony", "run", "--dry-run", file))
	if strings.Count(out, "done already") != 3 {
		t.Errorf("the dry run afterwards:\n%s", out)
	}
	out = s.must(s.cardkmsd("", "ceremony", "run", "--yes", file))
	if strings.Count(out, "done already") != 3 || !strings.Contains(out, "ended before") {
		t.Errorf("a second run:\n%s", out)
	}
	b, err := os.ReadFile(file)
	s.must("", err)
	s.must("", os.WriteFile(file, append(b, '\n'), 0o600))
	s.refused("a file that was changed after signing", file, "", "proof_failed")
}

// TestCeremonyRecord: the record names everything, and the log's key signed it.
func TestCeremonyRecord(t *testing.T) {
	s := newEmptySite(t)
	file := filepath.Join(s.dir, "keys.yaml")
	s.signCeremony(file, "ada", "cyd")
	s.must(s.cardkmsd("", "ceremony", "run", "--yes", file))
	b, err := os.ReadFile(file + ".record")
	s.must("", err)
	vkey, err := os.ReadFile(filepath.Join(s.dir, "log.vkey"))
	s.must("", err)
	v, err := audit.NewVerifier(strings.TrimSpace(string(vkey)))
	s.must("", err)
	n, err := note.Open(b, note.VerifierList(v))
	if err != nil {
		t.Fatalf("the record's signature: %v\n%s", err, b)
	}
	var r ceremony.Record
	s.must("", json.Unmarshal([]byte(n.Text), &r))
	if r.Record != ceremony.RecordFormat || len(r.Steps) != 3 || fmt.Sprint(r.Officers) != "[ada cyd]" || !strings.Contains(r.Token, "serial") ||
		!strings.HasPrefix(r.Steps[0].Facts["kcv_master"], "gp-aes:") || r.Steps[0].By == "" || r.Steps[0].At.IsZero() || len(r.File) != 64 {
		t.Errorf("%+v", r)
	}
	for _, left := range []string{".journal", ".components"} {
		if _, err := os.Stat(file + left); err == nil {
			t.Errorf("%s is left", left)
		}
	}
}

// TestComponentsOnDifferentDays: one custodian comes before, the last one to the
// ceremony; between the two, no file of the set-up holds a component.
func TestComponentsOnDifferentDays(t *testing.T) {
	s := newEmptySite(t)
	value := random(32)
	parts := split(value, 3)
	var y yamlKeys
	file := s.ceremony("days", fmt.Sprintf("keys:\n  - {issuer: demo, key: isd, kvn: \"30\", master: %s}\n", y.value(value, parts)))
	enter := func(i int, component []byte) (string, error) {
		return s.cardkmsd(hex.EncodeToString(component)+"\n", "component", "enter", "--ceremony", file, "--custodian", custodians[i])
	}
	s.refused("nobody came", file, y.stdin, "3 components are not there")
	if out, err := enter(0, random(32)); err == nil || !strings.Contains(out, "not the check value of the component") {
		t.Errorf("another component: %v\n%s", err, out)
	}
	if out, err := enter(0, parts[0][:31]); err == nil || !strings.Contains(out, "64 hexadecimal digits") {
		t.Errorf("a short component: %v\n%s", err, out)
	}
	// The program dies before and after the component is kept: it is entered again, or
	// is there.
	typed := hex.EncodeToString(parts[0]) + "\n"
	for _, at := range []string{"before keeping"} {
		if out, _ := s.crashing(at, typed, "component", "enter", "--ceremony", file, "--custodian", "alice"); !strings.Contains(out, "crash at "+at) {
			t.Errorf("no crash %s:\n%s", at, out)
		}
	}
	if out := s.must(enter(0, parts[0])); !strings.Contains(out, "KCV "+strings.TrimPrefix(kcvOf(parts[0]), "gp-aes:")) || strings.Contains(out, kcvOf(value)) {
		t.Error(out)
	}
	if out, err := enter(0, parts[0]); err == nil || !strings.Contains(out, "entered already") {
		t.Errorf("twice: %v\n%s", err, out)
	}
	s.refused("two are missing", file, y.stdin, "2 components are not there")
	if out, _ := s.crashing("after keeping", hex.EncodeToString(parts[2])+"\n", "component", "enter", "--ceremony", file, "--custodian", "carol"); !strings.Contains(out, "crash at") {
		t.Errorf("no crash:\n%s", out)
	}
	if out, err := enter(2, parts[2]); err == nil || !strings.Contains(out, "entered already") {
		t.Errorf("after a crash: %v\n%s", err, out)
	}
	if out, err := enter(1, parts[1]); err == nil || !strings.Contains(out, "the last component") {
		t.Errorf("the last one was kept: %v\n%s", err, out)
	}
	secrets := map[string][]byte{"component 1": parts[0], "component 3": parts[2], "component 2": parts[1], "the key": value}
	s.searchFiles(secrets)
	out := s.must(s.cardkmsd(hex.EncodeToString(parts[1])+"\n", "ceremony", "run", "--yes", file))
	if !strings.Contains(out, "kcv master "+kcvOf(value)) {
		t.Error(out)
	}
	look(t, "the ceremony's output", []byte(out), secrets)
	s.searchFiles(secrets)
	b, err := os.ReadFile(file + ".record")
	s.must("", err)
	for _, want := range []string{"alice " + kcvOf(parts[0]), "bert " + kcvOf(parts[1]), "carol " + kcvOf(parts[2]), "component 1 of "} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("the record lacks %s:\n%s", want, b)
		}
	}
	again := s.must(s.cardkmsd("", "ceremony", "run", "--yes", file))
	if !strings.Contains(again, "done already") {
		t.Error(again)
	}
}

func (s *site) searchFiles(secrets map[string][]byte) {
	s.t.Helper()
	s.must("", filepath.Walk(s.dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		look(s.t.(*testing.T), path, b, secrets)
		return err
	}))
}

// TestKeptComponentsAreBound: a sealed component opens in its own place only, and not
// when a byte of it is another.
func TestKeptComponentsAreBound(t *testing.T) {
	s := newEmptySite(t)
	value := random(16)
	parts := split(value, 2)
	var y yamlKeys
	file := s.ceremony("bound", fmt.Sprintf("keys:\n  - {issuer: demo, key: isd, kvn: \"30\", algorithm: aes-128, master: %s}\n", y.value(value, parts)))
	s.must(s.cardkmsd(hex.EncodeToString(parts[0])+"\n", "component", "enter", "--ceremony", file, "--custodian", "alice"))
	kept, err := filepath.Glob(filepath.Join(file+".components", "*"))
	if err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}
	b, err := os.ReadFile(kept[0])
	s.must("", err)
	at := bytes.Index(b, []byte(`"sealed": "`)) + len(`"sealed": "`) + 140 // in the ciphertext
	changed := bytes.Clone(b)
	changed[at] = 'f'
	if b[at] == 'f' {
		changed[at] = '0'
	}
	s.must("", os.WriteFile(kept[0], changed, 0o600))
	s.refused("a changed component", file, hex.EncodeToString(parts[1])+"\n", "does not open")
	s.must("", os.WriteFile(kept[0], b, 0o600))
	moved := strings.Replace(kept[0], ".1.json", ".2.json", 1)
	s.must("", os.Rename(kept[0], moved))
	s.refused("a component in another's place", file, hex.EncodeToString(parts[0])+"\n", "does not open")
	s.must("", os.Rename(moved, kept[0]))
	s.must(s.cardkmsd(hex.EncodeToString(parts[1])+"\n", "ceremony", "run", "--yes", file))
}

// TestCeremonyRefusesBadComponents: what custodians enter wrongly.
func TestCeremonyRefusesBadComponents(t *testing.T) {
	s := newEmptySite(t)
	value := random(32)
	parts := split(value, 2)
	line := func(b []byte) string { return hex.EncodeToString(b) + "\n" }
	var y yamlKeys
	good := y.value(value, parts)
	n := 0
	for name, c := range map[string]struct{ value, stdin, want string }{
		"a wrong sum":        {strings.Replace(good, kcvOf(value), "gp-aes:000000", 1), y.stdin, "check value of the sum"},
		"a short component":  {good, line(parts[0]) + line(parts[1][1:]), "64 hexadecimal digits"},
		"a long component":   {good, line(parts[0]) + line(append(parts[1], 1)), "64 hexadecimal digits"},
		"not hexadecimal":    {good, line(parts[0]) + "xy" + line(parts[1][1:]), "64 hexadecimal digits"},
		"no second one":      {good, line(parts[0]), "reading bert"},
		"another's":          {good, line(parts[1]) + line(parts[0]), "not the check value of the component"},
		"one component":      {fmt.Sprintf("{kcv: %q, components: [{custodian: alice, kcv: %q}]}", kcvOf(value), kcvOf(value)), y.stdin, "2 or 3 components"},
		"one custodian":      {strings.Replace(good, "bert", "alice", 1), y.stdin, "custodian of its own"},
		"no check value":     {strings.Replace(good, "kcv: \""+kcvOf(value)+"\", ", "", 1), y.stdin, "METHOD:VALUE"},
		"a method of others": {strings.Replace(good, kcvOf(value), "tdea-zero:000000", 1), y.stdin, "gp-aes:XXXXXX"},
		"an unknown field":   {strings.Replace(good, "kcv:", "kvc:", 1), y.stdin, "unknown field"},
		"two sources":        {strings.Replace(good, "{kcv", "{generate: true, kcv", 1), y.stdin, "one of generate, components, wrapped"},
	} {
		n++
		file := s.ceremony(fmt.Sprintf("bad%d", n), fmt.Sprintf("together: true\nkeys:\n  - {issuer: demo, key: k, kvn: \"32\", master: %s}\n", c.value))
		out := s.refused(name, file, c.stdin, c.want)
		look(t, name, []byte(out), map[string][]byte{"component 1": parts[0], "component 2": parts[1], "the key": value})
	}
	// None of the refused attempts took the KVN.
	file := s.ceremony("good", fmt.Sprintf("together: true\nkeys:\n  - {issuer: demo, key: k, kvn: \"32\", master: %s}\n", good))
	s.must(s.cardkmsd(y.stdin, "ceremony", "run", "--yes", file))
}

// TestWrappedKeys: a key-encryption key from components, and a master under it.
func TestWrappedKeys(t *testing.T) {
	s := newEmptySite(t)
	kek, value := random(32), random(32)
	var y yamlKeys
	head := fmt.Sprintf("together: true\nkeks:\n  - {label: kek-vendor, algorithm: aes-256, %s\n", strings.TrimPrefix(y.value(kek, split(kek, 3)), "{"))
	blob, err := keywrap.WrapPad(secret.New(kek), secret.New(value))
	s.must("", err)
	master := func(blob []byte, kcv string) string {
		return fmt.Sprintf("keys:\n  - {issuer: demo, key: isd, kvn: \"30\", master: {kcv: %q, wrapped: {kek: kek-vendor, method: aes-kwp, blob: %X}}}\n", kcv, blob)
	}
	bad := bytes.Clone(blob)
	bad[9] ^= 1
	s.refused("a changed blob", s.ceremony("tampered", head+master(bad, kcvOf(value))), y.stdin, "does not open")
	s.refused("a wrong check value", s.ceremony("kcv", master(blob, kcvOf(kek))), "", "does not open")
	s.refused("a KEK that is weaker", s.ceremony("weak", strings.Replace(master(blob, kcvOf(value)), "aes-kwp", "rsa-oaep-sha256", 1)), "", "weaker")
	s.refused("a KEK that is not there", s.ceremony("none", strings.Replace(master(blob, kcvOf(value)), "kek-vendor", "kek-other", 1)), "", "0 objects")
	out := s.must(s.cardkmsd("", "ceremony", "run", "--yes", s.ceremony("wrapped", master(blob, kcvOf(value)))))
	if !strings.Contains(out, "kcv master "+kcvOf(value)) {
		t.Error(out)
	}
	var again yamlKeys
	short := s.ceremony("short", fmt.Sprintf("together: true\nkeks:\n  - {label: kek-short, algorithm: aes-256, %s\n", strings.TrimPrefix(again.value(kek, split(kek, 2)), "{")))
	s.must(s.cardkmsd(again.stdin, "ceremony", "run", "--yes", short))
	s.must(s.cardkmsd("", "ceremony", "run", "--yes", s.ceremony("gone", "destroy: [kek-short]\n")))
	s.refused("a ceremony that ended, once more", short, again.stdin, "needs a new file")
	done := s.ceremony("done", "destroy: [kek-vendor]\n")
	s.must(s.cardkmsd("", "ceremony", "run", "--yes", done))
	s.must(s.cardkmsd("", "ceremony", "run", "--yes", done))
	s.refused("a KEK that never was", s.ceremony("never", "destroy: [kek-other]\n"), "", "there never was")
	s.refused("a KEK that was destroyed", s.ceremony("late", strings.Replace(master(blob, kcvOf(value)), "\"30\"", "\"31\"", 1)), "", "0 objects")
	s.refused("a master as a KEK", s.ceremony("trick", "destroy: ["+pseudoLabel+"]\n"), "", "checking "+pseudoLabel+": hsm: the token keeps attribute")
	s.serve()
}

// TestRSAKEKOnSoftHSM says why it cannot be made.
func TestRSAKEKOnSoftHSM(t *testing.T) {
	s := newEmptySite(t)
	file := s.ceremony("rsa", "keks:\n  - {label: kek-rsa, algorithm: rsa-3072, generate: true, public: kek.pem}\n")
	s.refused("RSA-OAEP with SHA-256", file, "", "SHA-1 is not used instead")
}

// TestBootstrap begins with no token at all, and dies before and after every step: the
// next run finishes, and nothing is there twice. A second file then brings a key in under
// the key-encryption key and destroys that. The short run has the steps whose effect is
// there and not written down. The PIN comes from the environment, which gives it once.
func TestBootstrap(t *testing.T) {
	points := []string{"", "log key made", "after officers", "made kek kek-vendor", "after kek kek-vendor", "made master of issuers/demo/keys/isd/kvn/30", "ended",
		"made master of issuers/demo/keys/upd/kvn/5A", "dropped kek-vendor"}
	if os.Getenv("CARDKMS_LONG") != "" {
		points = append(points, "before token", "after token", "before service keys", "after service keys", "before officers", "before kek kek-vendor",
			"before issuers/demo/keys/isd/kvn/30", "after issuers/demo/keys/isd/kvn/30", "before end", "after end",
			"before issuers/demo/keys/upd/kvn/5A", "after issuers/demo/keys/upd/kvn/5A", "before destroy kek-vendor", "after destroy kek-vendor")
	}
	for _, at := range points {
		t.Run("crash "+strings.ReplaceAll(at, "/", "_"), func(t *testing.T) {
			t.Parallel()
			(&bootstrapping{site: &site{t: t, dir: t.TempDir(), log: new(kmstest.Log), env: []string{"BOOT_PIN=12345678"}}, t: t, at: at}).run()
		})
	}
}

// bootstrapping is a set-up that begins with nothing, and dies once.
type bootstrapping struct {
	*site
	t       *testing.T
	module  string
	kek     []byte
	at      string // where it dies
	crashed bool
}

// prepare writes the first ceremony's file, and what it needs.
func (b *bootstrapping) prepare() (file, stdin string) {
	var err error
	b.module, err = softhsm.Module()
	b.must("", err)
	b.must("", os.WriteFile(filepath.Join(b.dir, "sopin"), []byte("876543210987"), 0o600))
	b.must("", os.Mkdir(filepath.Join(b.dir, "anchor"), 0o700))
	first, err := makeOfficers(filepath.Join(b.dir, "officers"))
	b.must("", err)
	b.kek = random(32)
	var y yamlKeys
	text := "ceremony: Bootstrap\nconfiguration: cardkms.yaml\npresent: [ada, grace]\ntogether: true\n" +
		fmt.Sprintf("token: {module: %s, softhsm: softhsm, label: prod, pin: \"env:BOOT_PIN\", soPIN: \"file:sopin\"}\n", b.module) +
		"serviceKeys: {origin: example.org/audit, log: log, pseudonym: pseudonym, state: state}\nofficers:\n  approvals: 2\n  first:\n"
	for _, o := range first {
		line, err := officerkey.Line(o.Name, o.Public)
		b.must("", err)
		text += fmt.Sprintf("    - {name: %s, identity: %q, public: %q}\n", o.Name, o.Identity, strings.TrimSpace(string(line)))
	}
	text += fmt.Sprintf("keks:\n  - {label: kek-vendor, algorithm: aes-256, %s\n", strings.TrimPrefix(y.value(b.kek, split(b.kek, 2)), "{")) +
		"keys:\n  - {issuer: demo, key: isd, kvn: \"30\", master: {generate: true}}\n"
	file = filepath.Join(b.dir, "bootstrap.yaml")
	b.must("", os.WriteFile(file, []byte(text), 0o600))
	return file, y.stdin
}

// crash has the program die at the point, if this run comes to it.
func (b *bootstrapping) crash(file, stdin string) {
	b.t.Helper()
	if b.at == "" || b.crashed {
		return
	}
	out, err := b.crashing(b.at, stdin, "ceremony", "run", "--yes", file)
	b.crashed = strings.Contains(out, "crash at "+b.at)
	if b.crashed && err == nil {
		b.t.Errorf("no crash at %s:\n%s", b.at, out)
	}
}

// unsigned: nothing is done to a token before enough of the listed officers signed.
func (b *bootstrapping) unsigned(file, stdin string) {
	b.refused("nobody signed", file, stdin, "0 officers signed")
	b.signCeremony(file, "ada")
	b.refused("one signed", file, stdin, "1 officers signed")
	b.sign(file, approval.CeremonyStatement([32]byte{}), "ada", "bob")
	b.refused("another file was signed", file, stdin, "proof_failed")
	if dry := b.must(b.cardkmsd("", "ceremony", "run", "--dry-run", file)); !strings.Contains(dry, "Officers: proof_failed") {
		b.t.Errorf("the dry run:\n%s", dry)
	}
	b.signCeremony(file, "ada", "bob")
	dry := b.must(b.cardkmsd("", "ceremony", "run", "--dry-run", file))
	if strings.Count(dry, "would be done") != 5 || strings.Contains(dry, "Officers:") {
		b.t.Errorf("the dry run:\n%s", dry)
	}
	if left, _ := filepath.Glob(filepath.Join(b.dir, "*")); len(left) != 5 {
		b.t.Errorf("somebody has to sign before a token is touched, and there are %v", left)
	}
}

func (b *bootstrapping) run() {
	file, stdin := b.prepare()
	if b.at == "" {
		b.unsigned(file, stdin)
	}
	b.signCeremony(file, "ada", "bob")
	b.crash(file, stdin)
	b.refused("without a configuration", file, stdin, "there is no configuration yet")
	b.must("", os.WriteFile(filepath.Join(b.dir, "cardkms.yaml"), []byte("listen: 127.0.0.1:0\ndata: data\n"), 0o600))
	b.refused("a configuration without the keys", file, stdin, "needs the lines of "+file+".lines")
	b.bootstrapConfig(b.t, b.module, file+".lines")
	b.crash(file, stdin)
	b.finish(file, stdin, 5)
	if e, r := b.last("ceremony.token"), b.record(file); e.Object != "tokens/prod" || e.Detail["keys"] == "" ||
		e.Detail["kcv_state"] != r.Find(ceremony.ServiceKeysStep).Facts["kcv_state"] || plain(r.Token) != e.Detail["token"] {
		b.t.Errorf("log and record differ:\n%+v\n%+v", e, r)
	}
	b.second()
	if b.at != "" && !b.crashed {
		b.t.Fatalf("no ceremony ever came to %s", b.at)
	}
	b.proven(2)
}

// finish runs a ceremony to its end, and then once more, which finds everything done.
func (b *bootstrapping) finish(file, stdin string, steps int) {
	b.t.Helper()
	out := b.must(b.cardkmsd(stdin, "ceremony", "run", "--yes", file))
	for range 2 {
		if _, err := os.Stat(file + ".record"); err != nil {
			b.t.Fatalf("no record: %v\n%s", err, out)
		}
		out = b.must(b.cardkmsd(stdin, "ceremony", "run", "--yes", file))
		if strings.Count(out, "done already") != steps {
			b.t.Errorf("a run after the end:\n%s", out)
		}
	}
}

// second brings a key in under the key-encryption key, and destroys that.
func (b *bootstrapping) second() {
	value := random(16)
	blob, err := keywrap.WrapPad(secret.New(b.kek), secret.New(value))
	b.must("", err)
	file := b.ceremony("second", "destroy: [kek-vendor]\nkeys:\n  - issuer: demo\n    key: upd\n    usage: card-update\n    kvn: \"5A\"\n    algorithm: aes-128\n"+
		fmt.Sprintf("    master: {kcv: %q, wrapped: {kek: kek-vendor, method: aes-kwp, blob: \"%X\"}}\n", kcvOf(value), blob))
	b.crash(file, "")
	b.finish(file, "", 2)
	if out := b.must(b.cardkmsd("", "ceremony", "run", "--yes", file)); !strings.Contains(out, "kcv master "+kcvOf(value)) {
		b.t.Error(out)
	}
}

// record returns the record of a ceremony.
func (s *site) record(file string) (r ceremony.Record) {
	s.t.Helper()
	b, err := os.ReadFile(file + ".record")
	s.must("", err)
	text, _, _ := strings.Cut(string(b), "\n\n— ")
	s.must("", json.Unmarshal([]byte(text), &r))
	return r
}

// TestDoneByThisFile: what another file made is never taken for done, also if it looks
// the same; and a journal is no proof of anything.
func TestDoneByThisFile(t *testing.T) {
	s := newEmptySite(t)
	kek, value := random(32), random(32)
	var y yamlKeys
	keks := fmt.Sprintf("together: true\nkeks:\n  - {label: kek-vendor, algorithm: aes-256, %s\n", strings.TrimPrefix(y.value(kek, split(kek, 2)), "{"))
	keys := fmt.Sprintf("together: true\nkeys:\n  - {issuer: demo, key: isd, kvn: \"30\", master: %s}\n", y.value(value, split(value, 2)))
	lines := strings.SplitAfter(y.stdin, "\n")
	file := s.ceremony("kek", keks)
	forged := ceremony.Record{Record: ceremony.RecordFormat, File: fileDigest(t, file), Officers: []string{"eve"}, Steps: []ceremony.Step{
		{Step: "kek kek-vendor", By: "os-user:eve", Facts: facts{"kcv": "gp-aes:000000"}}, {Step: "kek another", By: "os-user:eve"},
	}}
	s.must("", forged.Save(file+".journal"))
	out := s.must(s.cardkmsd(strings.Join(lines[:2], ""), "ceremony", "run", "--yes", file))
	if r := s.record(file); len(r.Steps) != 1 || r.Steps[0].By == "os-user:eve" || r.Steps[0].Facts["kcv"] != kcvOf(kek) || fmt.Sprint(r.Officers) != "[ada bob]" || strings.Contains(out, "already") {
		t.Errorf("%+v\n%s", r, out)
	}
	s.refused("a KEK that another file made", s.ceremony("again", keks), y.stdin, "the ceremony with SHA-256 "+fileDigest(t, file)+" made it")
	s.refused("a KEK in the way", s.ceremony("other", strings.ReplaceAll(keks, kcvOf(kek), "gp-aes:000000")), y.stdin, "made it")
	made := s.ceremony("key", keys)
	s.must(s.cardkmsd(strings.Join(lines[2:], ""), "ceremony", "run", "--yes", made))
	s.refused("a key that another file made", s.ceremony("key-again", keys), y.stdin, "made it")
	s.refused("a generated one", s.ceremony("key-other", "keys:\n  - {issuer: demo, key: isd, kvn: \"30\", master: {generate: true}}\n"), "", "made it")
	s.proven(6) // all of them began
	s.loseObjects("kek-vendor", "issuers/demo/keys/isd/versions/1#master")
	s.refused("a KEK that the token lost", file, "", "the token lost")
	s.refused("a key that the token lost", made, "", "which this ceremony made")
}

// loseObjects takes objects out of the token behind the service's back.
func (s *site) loseObjects(kek, key string) {
	s.t.Helper()
	module, err := softhsm.Module()
	s.must("", err)
	s.must("", softhsm.Use(filepath.Join(s.dir, "softhsm")))
	pin, err := os.ReadFile(filepath.Join(s.dir, "pin"))
	s.must("", err)
	token, err := hsm.Open(context.Background(), hsm.Config{Module: module, Label: devLabel, PIN: secret.New(pin), Logger: slog.New(slog.DiscardHandler)})
	s.must("", err)
	defer token.Close()
	s.must("", token.DestroyKEK(context.Background(), kek))
	s.must("", token.Destroy(context.Background(), key))
}

func fileDigest(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ceremony.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return f.Hex()
}

// TestAbandonedCeremony: the components of an edited file do not stay behind, and one
// that was abandoned does not run.
func TestAbandonedCeremony(t *testing.T) {
	s := newEmptySite(t)
	value := random(16)
	parts := split(value, 2)
	var y yamlKeys
	body := fmt.Sprintf("keys:\n  - {issuer: demo, key: isd, kvn: \"30\", algorithm: aes-128, master: %s}\n", y.value(value, parts))
	file := s.ceremony("edited", body)
	enter := func() (string, error) {
		return s.cardkmsd(hex.EncodeToString(parts[0])+"\n", "component", "enter", "--ceremony", file, "--custodian", "alice")
	}
	s.must(enter())
	old := fileDigest(t, file)
	s.must("", os.Rename(file, file+".old"))
	s.ceremony("edited", "# with a remark\n"+body)
	s.refused("components of another version", file, y.stdin, "ceremony abandon")
	if out, err := enter(); err == nil || !strings.Contains(out, old) {
		t.Errorf("a component beside those of another version: %v\n%s", err, out)
	}
	if out, err := s.cardkmsd("no\n", "ceremony", "abandon", file); err == nil || !strings.Contains(out, "not confirmed") {
		t.Errorf("not confirmed: %v\n%s", err, out)
	}
	if out, err := s.crashing("abandoned", "", "ceremony", "abandon", "--yes", file); err == nil {
		t.Errorf("no crash:\n%s", out)
	}
	for range 2 {
		s.must(s.cardkmsd("", "ceremony", "abandon", "--yes", file))
	}
	if _, err := os.Stat(file + ".components"); err == nil {
		t.Error("components are left")
	}
	if e := s.last("ceremony.abandon"); e.Object != "ceremonies/"+old || e.Outcome != audit.OutcomeOK {
		t.Errorf("%+v", e)
	}
	s.must(enter()) // the new version goes on
	s.must(s.cardkmsd(hex.EncodeToString(parts[1])+"\n", "ceremony", "run", "--yes", file))
	s.must("", os.Rename(file+".old", file))
	s.signCeremony(file, "ada", "bob")
	s.must("", os.Remove(file+".record"))
	s.refused("the abandoned version", file, y.stdin, "was abandoned")
	s.proven(2)
}

// crashing is cardkmsd that dies at a point.
func (s *site) crashing(at, stdin string, args ...string) (string, error) {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), childVariable+"=1", "SOFTHSM2_CONF=", crashVariable+"="+at)
	cmd.Env = append(cmd.Env, s.env...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// bootstrapConfig writes the configuration with the lines that the ceremony printed.
func (s *site) bootstrapConfig(t *testing.T, module, lines string) {
	t.Helper()
	b, err := os.ReadFile(lines)
	s.must("", err)
	text := strings.Replace(string(b), "token:\n", fmt.Sprintf("token:\n  module: %s\n  softhsm: softhsm\n  pin: \"env:BOOT_PIN\"\n", module), 1)
	text = "development: true\nlisten: 127.0.0.1:0\ndata: data\n" + text + "tls: {certificate: c, key: k, clientCAs: a}\nanchors: {file: anchor/checkpoint}\nclients: [{id: \"spiffe://example.org/role/officer\", role: security-officer, issuer: demo}]\n"
	s.must("", os.WriteFile(filepath.Join(s.dir, "cardkms.yaml"), []byte(text), 0o600))
}
