package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// commands returns the lines of a page's blocks that are marked as shell.
func commands(t *testing.T, page string) string {
	t.Helper()
	return strings.Join(fenced(t, page, "", "```sh"), "")
}

// fenced returns the blocks behind a heading of a page, up to the next one, that begin with
// this fence; an empty heading is the whole page.
func fenced(t *testing.T, page, heading, fence string) (all []string) {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	here, inside := heading == "", false
	for line := range strings.Lines(string(b)) {
		switch trimmed := strings.TrimSpace(line); {
		case heading != "" && strings.HasPrefix(line, "## "):
			here = trimmed == "## "+heading
		case strings.HasPrefix(line, "```") && inside:
			inside = false
		case trimmed == fence && here:
			inside = true
			all = append(all, "")
		case inside:
			all[len(all)-1] += line
		}
	}
	return all
}

// programs makes a directory for PATH: this test's binary is cardkmsd, and cardkms is built.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "cardkms"), "cardkms/cmd/cardkms").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	wrapper := "#!/bin/sh\n" + childVariable + "=1 exec " + self + ` "$@"` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "cardkmsd"), []byte(wrapper), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return dir
}

// TestBackupDrill runs the commands of deploy/BACKUP.md: a backup of a service that runs, and
// its restoration on another machine with a copy of the token. The first block is for the
// old machine, the others for the new one.
func TestBackupDrill(t *testing.T) {
	s := newSite(t)
	s.use(1)
	other := filepath.Join(t.TempDir(), "kms")
	if err := os.CopyFS(other, os.DirFS(s.dir)); err != nil { // the token's own backup, and the configuration
		t.Fatal(err)
	}
	for _, old := range []string{"data", "anchor"} {
		if err := os.RemoveAll(filepath.Join(other, old)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(other, "anchor"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.use(2) // after the token was copied, so that its anchor is older than the backup
	backup := t.TempDir()
	run := func(script string) string {
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Dir = s.dir
		cmd.Env = append(os.Environ(),
			"PATH="+programs(t)+":"+os.Getenv("PATH"), "CARDKMS_SERVER="+s.url, "CARDKMS_TLS="+filepath.Join(s.dir, "tls"), "SOFTHSM2_CONF=",
			"DATA="+filepath.Join(s.dir, "data"), "BACKUP="+backup, "NEW="+filepath.Join(other, "data"),
			"CONFIG="+filepath.Join(other, "cardkms.yaml"), "LOGKEY="+filepath.Join(s.dir, "log.vkey"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	before, after, ok := strings.Cut(commands(t, "../../deploy/BACKUP.md"), "(cd \"$BACKUP\" && sha256sum --check")
	if !ok {
		t.Fatal("the page has other commands")
	}
	run(before)
	s.stop() // the machine is lost
	out := run("(cd \"$BACKUP\" && sha256sum --check" + after)
	if !strings.Contains(out, "complete and unchanged") {
		t.Error(out)
	}
}

// TestReadme runs what the README tells a newcomer to type, from the first set-up to a new
// master key, as one session. Only the place of the programs, the address that this machine
// has free, the id of the proposal, and what the client asks to be typed are put in.
func TestReadme(t *testing.T) {
	var script strings.Builder
	for _, heading := range []string{"Try it by hand", "The log, for an auditor", "Keys, for a security officer"} {
		found := fenced(t, "../../README.md", heading, "```")
		if len(found) != 1 {
			t.Fatalf("%d blocks behind %q", len(found), heading)
		}
		script.WriteString(found[0])
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	typed := strings.NewReplacer(
		"make build\n", "", "init ./site", "init ./site --listen "+address, "& sleep 2", "& service=$!; sleep 2",
		"dist/cardkms approval propose", "propose", "approve ID", "approve $ID", "execute ID", "execute $ID <<<execute", "suspend isd 1", "suspend isd 1 <<<suspend", "dist/", "",
	).Replace(script.String())
	const preamble = `propose() { cardkms approval propose "$@" > proposed; ID=$(grep -o -m1 '[0-9a-f]\{32\}' proposed); }
trap 'kill $service; wait $service' EXIT
`
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", preamble+typed)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+programs(t)+":"+os.Getenv("PATH"), "CARDKMS_SERVER=https://"+address, "SOFTHSM2_CONF=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, typed, out)
	}
	for _, want := range []string{"issuers/demo/keys/isd/versions/1", "8050000008", "verified:", "1 card in the file", "suspended"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("nothing says %q:\n%s", want, out)
		}
	}
}
