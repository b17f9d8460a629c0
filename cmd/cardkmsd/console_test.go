package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cardkms/api"
	"cardkms/kms/approval"
)

// use authenticates a card, which changes its row and the log.
func (s *site) use(n uint32) {
	s.t.Helper()
	card := s.card(n, 1024)
	o, err := s.updateServer.OpenChannel(context.Background(), "demo", api.OpenChannel{Key: "isd"})
	s.must("", err)
	a, err := card.Transmit(o.InitializeUpdate)
	s.must("", err)
	_, err = s.updateServer.Authenticate(context.Background(), "demo", o.ID, api.Authenticate{Response: a})
	s.must("", err)
}

func (s *site) copyData(to string) {
	s.t.Helper()
	s.must("", os.RemoveAll(to))
	s.must("", os.CopyFS(to, os.DirFS(filepath.Join(s.dir, "data"))))
}

// TestOlderDatabaseIsRefused restores a copy of the data directory. The start
// refuses it, whatever is left of the anchors, until two officers accept it.
func TestOlderDatabaseIsRefused(t *testing.T) {
	s := newSite(t)
	s.use(1)
	s.stop()
	past := filepath.Join(t.TempDir(), "past")
	s.copyData(past)
	s.serve()
	s.use(2)
	s.stop()
	s.must("", os.RemoveAll(filepath.Join(s.dir, "data")))
	s.must("", os.CopyFS(filepath.Join(s.dir, "data"), os.DirFS(past)))
	for _, anchor := range []string{"file", "token"} { // the second round without the file
		out, err := s.cardkmsd("", "serve", "--config", s.config())
		if err == nil || !strings.Contains(out, "the anchor "+anchor+" covers") {
			t.Fatalf("an older database under the anchor %s: %v\n%s", anchor, err, out)
		}
		s.must("", os.RemoveAll(filepath.Join(s.dir, "anchor", "checkpoint")))
	}
	s.restore()
	s.serve()
	s.use(3)
	s.stop()
	s.proven(2) // the first keys, and the restoration
}

// restore accepts the older database as officers do, after every way that does not do.
func (s *site) restore() {
	s.t.Helper()
	file := filepath.Join(s.dir, "restoration")
	run := func(stdin string, args ...string) (string, error) {
		return s.cardkmsd(stdin, append([]string{"restore", "--config", s.config(), file}, args...)...)
	}
	before := len(s.entries())
	refused := func(what, stdin, want string) {
		s.t.Helper()
		if out, err := run(stdin); err == nil || !strings.Contains(out, want) {
			s.t.Errorf("%s: %v, want %q in\n%s", what, err, want, out)
		}
		if n := len(s.entries()); n != before {
			s.t.Errorf("%s: the log has %d entries and had %d", what, n, before)
		}
	}
	refused("nothing was stated", "restore\n", "no such file")
	out := s.must(run("", "--reason", "the disk died"))
	if !strings.Contains(out, "reason the disk died") || !strings.Contains(out, "cardkms ceremony approve") {
		s.t.Error(out)
	}
	if out, err := run("", "--reason", "another"); err == nil || !strings.Contains(out, "written once") {
		s.t.Errorf("stated twice: %v\n%s", err, out)
	}
	encoding, err := os.ReadFile(file)
	s.must("", err)
	x, err := approval.ParseRestoration(encoding)
	s.must("", err)
	statement, err := x.Statement()
	s.must("", err)
	refused("nobody signed", "restore\n", "0 officers signed")
	s.sign(file, statement, "ada")
	refused("one officer signed", "restore\n", "1 officers signed")
	s.sign(file, approval.CeremonyStatement(approval.DigestOf(encoding)), "ada", "bob")
	refused("signatures of a ceremony", "restore\n", "proof_failed")
	s.sign(file, statement, "ada", "bob")
	for what, other := range map[string]string{
		"another reason": strings.Replace(string(encoding), "died", "was stolen", 1),
		"another size":   strings.Replace(string(encoding), fmt.Sprintf("to %d ", x.To.Size), fmt.Sprintf("to %d ", x.To.Size-1), 1),
	} {
		s.must("", os.WriteFile(file, []byte(other), 0o600))
		want := "proof_failed"
		if what == "another size" {
			want = "about another step"
		}
		refused(what, "restore\n", want)
	}
	s.must("", os.WriteFile(file, encoding, 0o600))
	refused("not confirmed", "no\n", "not confirmed")
	if out := s.must(run("restore\n")); !strings.Contains(out, "Signed by ada, bob, who are officers by the log up to entry") || !strings.Contains(out, "Accepted") ||
		!strings.Contains(out, `"level":"WARN","msg":"audit log: officers accept an older database"`) {
		s.t.Error(out)
	}
	if e := s.last("log.restore"); e.Sequence != x.To.Size || e.Detail["to_size"] != fmt.Sprint(x.To.Size) {
		s.t.Errorf("%+v", e)
	}
	if out, err := run("restore\n"); err == nil || !strings.Contains(out, "nothing to accept") {
		s.t.Errorf("restored twice: %v\n%s", err, out)
	}
}

func TestPseudonymCommands(t *testing.T) {
	s := newSite(t)
	s.use(1)
	s.stop()
	line := s.must(s.cardkmsd("", "pseudonym", "new", "--config", s.config(), "--label", "cardkms-pseudonym-2"))
	if !strings.Contains(line, `pseudonym: {label: cardkms-pseudonym-2, kcv: "aes-cmac:`) {
		t.Fatal(line)
	}
	s.serve() // the configuration does not name it yet
	if !strings.Contains(s.log.String(), `"msg":"the token holds a key that is not ours","token":"main","label":"cardkms-pseudonym-2"`) {
		t.Error("the log does not tell of the new key")
	}
	s.stop()
	destroy := []string{"pseudonym", "destroy", "--config", s.config(), "--label", pseudoLabel}
	if out, err := s.cardkmsd("destroy\n", destroy...); err == nil || !strings.Contains(out, "names cards now") {
		t.Errorf("the key in use: %v\n%s", err, out)
	}
	b, err := os.ReadFile(s.config())
	s.must("", err)
	lines := strings.Split(string(b), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "  pseudonym:") {
			lines[i] = strings.TrimRight(line, "\n")
		}
	}
	s.must("", os.WriteFile(s.config(), []byte(strings.Join(lines, "\n")), 0o600))
	s.must(s.cardkmsd("destroy\n", destroy...))
	s.serve()
	s.use(1 << 8)
	keys, err := s.client("security-officer").Keys(context.Background(), "demo")
	if err != nil || len(keys) != 2 {
		t.Errorf("%v, %v", keys, err)
	}
}

// TestPruneCommand: only directories that verify, and only what is old.
func TestPruneCommand(t *testing.T) {
	s := newSite(t)
	s.use(1)
	s.stop()
	if out, err := s.cardkmsd("prune\n", "prune", "--config", s.config(), t.TempDir()); err == nil || strings.Contains(out, "complete") {
		t.Errorf("an empty directory: %v\n%s", err, out)
	}
}

func TestDisk(t *testing.T) {
	d := disk{t.TempDir()}
	if used, err := d.Used(); err != nil || used < 0 || used > 100 {
		t.Errorf("%d %% is used, %v", used, err)
	}
	for range 2 {
		if err := d.Reserve(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(d.reserve()); err != nil || info.Size() != reserveBytes {
			t.Errorf("reserved %v, %v", info, err)
		}
	}
	for range 2 {
		if err := d.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (disk{"/nowhere"}).Used(); err == nil {
		t.Error("a disk that is not there")
	}
}

// TestReportOverTheAPI: the access report knows the configuration, the inventory
// the token.
func TestReportOverTheAPI(t *testing.T) {
	s := newSite(t)
	s.use(1)
	for name, want := range map[string]string{
		"inventory": `"held": "present"`, "access": devDomain + "/role/operator/rear", "daily": "channel.authenticate", "cryptoperiods": `"daysLeft": 36`, "algorithms": `"approved"`,
	} {
		b, err := s.client("auditor").Report(context.Background(), name, time.Time{}, time.Time{})
		if err != nil || !bytes.Contains(b, []byte(want)) {
			t.Errorf("%s: %v\n%s", name, err, b)
		}
		if name == "inventory" && !bytes.Contains(b, []byte(`"ghosts": []`)) {
			t.Errorf("the service's own keys are ghosts:\n%s", b)
		}
	}
}
