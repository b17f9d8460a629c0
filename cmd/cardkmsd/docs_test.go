package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// commands returns the lines of a page's blocks that are marked as shell.
func commands(t *testing.T, page string) string {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	inside := false
	for line := range strings.Lines(string(b)) {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimSpace(line) == "```sh"
		case inside:
			script.WriteString(line)
		}
	}
	return script.String()
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
