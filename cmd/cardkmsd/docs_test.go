package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// programs makes a directory for PATH: this test's binary is cardkmsd, and the others are built.
func programs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir+"/", "cardkms/cmd/cardkms", "cardkms/cmd/cardkms-demo").CombinedOutput(); err != nil {
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

// TestNodesPage runs the commands of deploy/NODES.md as one session with the quick start and
// the simulated card of CEREMONY.md before them. In the end the card proves itself to
// both nodes, of which one has another token with the same keys. Only the place of the programs and addresses that this machine has free are put in.
func TestNodesPage(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	if err := cluster.Passwords(t.Context()); err != nil {
		t.Fatal(err)
	}
	script := fenced(t, "../../README.md", "Try it by hand", "```")[0] +
		fenced(t, "../../deploy/CEREMONY.md", "A simulated card", "```sh")[0] + commands(t, "../../deploy/NODES.md") +
		`for port in 8443 8444; do
    cardkms channel run --server https://127.0.0.1:$port --as update-server --key sim --card tcp:127.0.0.1:9000 80CA006600
done
grep 'softhsm: hsm-2' site/n1.yaml
kill $n1 $n2; wait $n1 $n2
cardkmsd serve --config site/cardkms.yaml 2> /dev/null || echo "the old database ends with $?"
`
	n1, n2 := freeAddress(t), freeAddress(t)
	port := func(address string) string { return address[strings.LastIndex(address, ":")+1:] }
	typed := strings.NewReplacer(
		"make build\n", "", "dist/", "", "init ./site\n", "init ./site --listen "+n1+"\n",
		"8443", port(n1), "8444", port(n2), "127.0.0.1:9000", freeAddress(t),
	).Replace(script)
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "deploy"), os.DirFS("../../deploy")); err != nil {
		t.Fatal(err)
	}
	out, err := session(t, dir, typed, "CARDKMS_SERVER=https://"+n1, "PGHOST="+cluster.Dir(), "PGUSER=cardkms")
	if err != nil {
		for _, name := range []string{"n1.log", "n2.log"} {
			said, _ := os.ReadFile(filepath.Join(dir, "site", name))
			t.Logf("%s:\n%s", name, said)
		}
		t.Fatalf("%v\n%s\n%s", err, typed, out)
	}
	for want, times := range map[string]int{
		"compared them with the signed log": 1, `(?m)^n1\.[0-9a-f]{32} 8050`: 2, `(?m)^n2\.[0-9a-f]{32} 8050`: 1,
		" 0 failed": 1, "the old database ends with 3": 1, "complete and unchanged": 3, "softhsm: hsm-2": 1, "660B730906072A864886FC6B019000": 3, // once in the quick start
	} {
		if n := len(regexp.MustCompile(want).FindAllString(out, -1)); n != times {
			t.Errorf("%d times %q, expected %d:\n%s", n, want, times, out)
		}
	}
}

// session runs what somebody types in one shell, with these variables. Whoever types has
// patience: a wait for a program to start is three times as long as the page says, because
// here others use the machine.
func session(t *testing.T, dir, typed string, env ...string) (string, error) {
	t.Helper()
	const preamble = `trap 'kill $(jobs -p) || true; wait' EXIT
sleep() { case $1 in *.*) command sleep $1 ;; *) command sleep $((3 * $1)) ;; esac; }
`
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", preamble+typed)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "PATH="+programs(t)+":"+os.Getenv("PATH"), "SOFTHSM2_CONF="), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestReadme runs what the README tells a newcomer to type, from the first set-up to a new
// master key and a script for a card, as one session; then what VERIFY.md does with the log
// that this leaves, and the simulated card of CEREMONY.md. Only the place of the programs
// and addresses that this machine has free are put in, the first one as the README says.
func TestReadme(t *testing.T) {
	t.Parallel()
	var script strings.Builder
	block := func(page, heading, fence string) string {
		found := fenced(t, "../../"+page, heading, fence)
		if len(found) != 1 {
			t.Fatalf("%d blocks behind %q of %s", len(found), heading, page)
		}
		return found[0]
	}
	for _, heading := range []string{"Try it by hand", "The log, for an auditor", "Keys, for a security officer", "Other cards", "Known answers"} {
		script.WriteString(block("README.md", heading, "```"))
	}
	script.WriteString("(" + commands(t, "../../audit/VERIFY.md") + strings.Join(fenced(t, "../../audit/VERIFY.md", "", "```bash"), "") + ")\n")
	script.WriteString(strings.Join(fenced(t, "../../deploy/CEREMONY.md", "A simulated card", "```sh"), ""))
	service, card := freeAddress(t), freeAddress(t)
	typed := strings.NewReplacer(
		"make build\n", "", "dist/", "", "init ./site\n", "init ./site\nsed -i 's/^listen: .*/listen: \""+service+"\"/' site/cardkms.yaml\n",
		"emv verify transaction.json", "emv verify transaction.json || true", "127.0.0.1:9000", card,
	).Replace(script.String())
	dir := t.TempDir()
	for _, tree := range []string{"deploy", "kms"} { // whose files the pages name
		here, err := filepath.Abs("../../" + tree)
		if err == nil {
			err = os.Symlink(here, filepath.Join(dir, tree))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	out, err := session(t, dir, typed, "CARDKMS_SERVER=https://"+service)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, typed, out)
	}
	for _, want := range []string{
		"issuers/demo/keys/isd/versions/1", "8050000008", "complete and unchanged", "1 card in the file, 1 of them new", "suspended",
		"1 card in the file, 0 of them without a script", "not_found", "verified: the entry is in the log", "660B730906072A864886FC6B019000",
		"runs image cos-02; the service verified its receipt", "24 passed, 0 failed, 2 skipped", "PASS profile/scp11b",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing says %q:\n%s", want, out)
		}
	}
}
