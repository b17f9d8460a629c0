package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/kms/vault/vaulttest"
)

// vaultSite is a set-up whose node takes something from a Vault.
type vaultSite struct {
	*site
	vault *vaulttest.Server
	pin   string
}

// newVaultSite moves the PIN of a set-up into Vault. The node is not started.
func newVaultSite(t *testing.T, sections ...string) *vaultSite {
	t.Helper()
	s := &vaultSite{site: newSite(t), vault: vaulttest.New(t)}
	s.stop()
	b, err := os.ReadFile(filepath.Join(s.dir, "pin"))
	s.must("", err)
	s.pin = strings.TrimSpace(string(b))
	s.must("", os.Remove(filepath.Join(s.dir, "pin")))
	values := map[string]string{
		"AUDIT_FILE": s.vault.AuditFile(), "DOMAIN": "localhost", "PIN_FILE": s.vault.File("pin.json", fmt.Sprintf(`{"pin": %q}`, s.pin)),
	}
	s.vault.Setup(values, append([]string{"Login", "PIN"}, sections...)...)
	s.rewrite("pin: file:pin", "pin: \"vault:kv/cardkms/hsm#pin\"")
	s.append(fmt.Sprintf("vault: {address: %q, caCert: %q, auth: {approle: {role: cardkms, roleID: %s, wrappedSecretID: \"file:secret-id\"}}}\n",
		s.vault.URL(), s.vault.CA(), s.vault.RoleID()))
	s.deliver()
	return s
}

// moveToPostgres makes another configuration, with a database whose users are Vault's.
func (s *vaultSite) moveToPostgres() {
	s.t.Helper()
	url := strings.Replace(s.vault.Database().URL("postgres"), "&user=cardkms", "", 1)
	old := s.text()
	from := s.config()
	s.file = "vault.yaml"
	s.must("", os.WriteFile(s.config(), []byte(old), 0o600))
	s.append(fmt.Sprintf("node: n1\ndatabase: {url: %q, credentials: \"vault:database/creds/cardkms\"}\n", url))
	s.must(s.cardkmsd("", "store", "migrate", "--from", from, "--config", s.config()))
}

// deliver puts a new wrapped secret id where the node looks for one.
func (s *vaultSite) deliver() {
	s.t.Helper()
	s.must("", os.WriteFile(filepath.Join(s.dir, "secret-id"), []byte(s.vault.SecretID()+"\n"), 0o600))
}

func (s *site) rewrite(old, text string) {
	s.t.Helper()
	b, err := os.ReadFile(s.config())
	s.must("", err)
	if !bytes.Contains(b, []byte(old)) {
		s.t.Fatalf("the configuration has no %q", old)
	}
	s.must("", os.WriteFile(s.config(), []byte(strings.Replace(string(b), old, text, 1)), 0o600))
}

func (s *site) append(text string) {
	s.t.Helper()
	b, err := os.ReadFile(s.config())
	s.must("", err)
	s.must("", os.WriteFile(s.config(), append(b, text...), 0o600))
}

// probe asks as a load balancer does.
func (s *site) probe(path string) (status int, body string) {
	s.t.Helper()
	r := s.recorder()
	defer r.http.CloseIdleConnections()
	resp, err := r.http.Get(s.url + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	s.must("", err)
	return resp.StatusCode, string(b)
}

func (s *site) answers(path string, status int, text string) func() bool {
	return func() bool {
		got, body := s.probe(path)
		return got == status && strings.Contains(body, text)
	}
}

// TestVaultAwayAtStart: a node that starts while Vault gives nothing, for whatever reason,
// says so, waits, and goes on by itself.
func TestVaultAwayAtStart(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]struct{ away, back func(*vaultSite) }{
		"down":         {func(s *vaultSite) { s.vault.Kill() }, func(s *vaultSite) { s.vault.Start() }},
		"sealed":       {func(s *vaultSite) { s.vault.Seal() }, func(s *vaultSite) { s.vault.Unseal() }},
		"hanging":      {func(s *vaultSite) { s.vault.Hang() }, func(s *vaultSite) { s.vault.Resume() }},
		"no secret id": {func(s *vaultSite) { s.must("", os.Remove(filepath.Join(s.dir, "secret-id"))) }, (*vaultSite).deliver},
	} {
		t.Run(name, func(t *testing.T) {
			s := newVaultSite(t)
			f.away(s)
			ready := s.launch()
			s.until("it is sealed", s.answers("/readyz", http.StatusServiceUnavailable, `"code":"vault_unavailable"`))
			if status, body := s.probe("/healthz"); status != http.StatusOK {
				t.Errorf("healthz: %d %s", status, body)
			}
			_, err := s.client("update-server").OpenChannel(context.Background(), devIssuer, api.OpenChannel{Key: "isd"})
			if codeOf(err) != api.VaultUnavailable {
				t.Errorf("a request meanwhile: %v", err)
			}
			f.back(s)
			if !<-ready {
				t.Fatalf("the node ended:\n%s", s.log)
			}
			s.works()
			if !s.answers("/readyz", http.StatusOK, `"status":"ready"`)() {
				t.Error("it is not ready")
			}
		})
	}
}

// TestNoCertificateYet: a node whose certificate is Vault's cannot listen before it has
// one, and says so; a signal ends it in order.
func TestNoCertificateYet(t *testing.T) {
	s := newVaultSite(t, "Certificate")
	s.pki()
	s.vault.Kill()
	ended := s.launch()
	s.until("it says why nothing listens", func() bool {
		return strings.Contains(s.log.String(), "nothing listens before Vault gives a certificate")
	})
	if status, body := s.probe("/healthz"); status != 0 {
		t.Errorf("%d %s", status, body)
	}
	process := s.server
	s.stop()
	if <-ended || process.ProcessState.ExitCode() != 0 {
		t.Errorf("it ended with %s", process.ProcessState)
	}
	s.vault.Start()
	s.serve()
	s.works()
}

// works checks that a card proves itself.
func (s *site) works() {
	s.t.Helper()
	if _, err := s.proves(s.client("update-server"), s.card(uint32(time.Now().UnixNano()), 0)); err != nil {
		s.t.Fatal(err)
	}
}

// TestPINRefused: a wrong PIN is presented once. The node stays sealed, whatever probes
// ask of it.
func TestPINRefused(t *testing.T) {
	s := newVaultSite(t)
	s.vault.Write("kv/data/cardkms/hsm", map[string]any{"data": map[string]any{"pin": "00000000"}})
	module := regexp.MustCompile(`module: "?([^"\s]+)`).FindStringSubmatch(s.text())[1]
	spy := filepath.Join(t.TempDir(), "spy.log")
	s.rewrite(module, spyModule(t))
	s.env = append(s.env, "PKCS11SPY="+module, "PKCS11SPY_OUTPUT="+spy)
	s.launch()
	s.until("it is sealed", s.answers("/readyz", http.StatusServiceUnavailable, `"code":"pin_refused"`))
	for range 50 {
		s.probe("/readyz")
		_, _ = s.proves(s.client("update-server"), s.card(1, 0))
	}
	b, err := os.ReadFile(spy)
	if n := bytes.Count(b, []byte(": C_Login\n")); err != nil || n != 1 {
		t.Errorf("%d calls of C_Login, %v", n, err)
	}
	if strings.Contains(s.log.String(), "00000000") {
		t.Error("the log holds the PIN")
	}
	s.stop() // by a signal, in order
}

func (s *site) text() string {
	s.t.Helper()
	b, err := os.ReadFile(s.config())
	s.must("", err)
	return string(b)
}

func spyModule(t *testing.T) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/*/pkcs11-spy.so")
	more, _ := filepath.Glob("/usr/lib/*/pkcs11/pkcs11-spy.so")
	if found = append(found, more...); len(found) == 0 {
		t.Fatal("pkcs11-spy is missing; `make setup` installs the Debian package opensc-pkcs11")
	}
	return found[0]
}

// TestStolenSecretID: a secret id that somebody else opened is an alarm and the end.
func TestStolenSecretID(t *testing.T) {
	s := newVaultSite(t)
	token, err := os.ReadFile(filepath.Join(s.dir, "secret-id"))
	s.must("", err)
	s.vault.Unwrap(strings.TrimSpace(string(token)))
	out, err := s.cardkmsd("", "serve", "--config", s.config())
	if err == nil || !strings.Contains(out, "ALARM") || strings.Contains(out, strings.TrimSpace(string(token))) {
		t.Errorf("%v\n%s", err, out)
	}
	s.env = []string{"VAULT_SKIP_VERIFY=1"}
	s.deliver()
	if out, err := s.cardkmsd("", "serve", "--config", s.config()); err == nil || !strings.Contains(out, "VAULT_SKIP_VERIFY") {
		t.Errorf("beside VAULT_SKIP_VERIFY: %v\n%s", err, out)
	}
}

// TestVaultAwayWhileRunning: the node goes on, stays ready, and says what it lacks. A
// revoked token is followed by one login.
func TestVaultAwayWhileRunning(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t)
	s.vault.Write("auth/approle/role/cardkms", map[string]any{"token_period": "2s"})
	s.serve()
	entries, err := s.client("auditor").AuditEntries(context.Background(), 0, 1000)
	s.must("", err)
	if last := entries.Entries[len(entries.Entries)-1].Text; !strings.Contains(last, "service.start") || !strings.Contains(last, "pin_version") {
		t.Errorf("the log does not say which PIN it was: %s", last)
	}
	s.works()
	s.vault.Kill()
	s.until("it is degraded", s.answers("/readyz", http.StatusOK, `"degraded":["vault"]`))
	s.works()
	s.vault.Start()
	s.until("it is whole again", s.answers("/readyz", http.StatusOK, `"status":"ready"`))
	s.vault.Hang()
	s.until("it is degraded again", s.answers("/readyz", http.StatusOK, `"degraded":["vault"]`))
	s.works()
	s.vault.Resume()
	s.until("it is whole again", s.answers("/readyz", http.StatusOK, `"status":"ready"`))
	s.vault.Revoke()
	s.until("it logs in again", func() bool { return len(s.vault.Accessors()) == 1 })
	s.works()
	s.stop()
	if got := s.vault.Accessors(); len(got) != 0 {
		t.Errorf("its token outlives the node: %v", got)
	}
}

// TestAllOfVault: PIN, database users, certificate and witness from Vault, all of them
// renewed many times under load, and no request fails. Nothing secret stays anywhere.
func TestAllOfVault(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t, "Certificate", "Witness")
	s.moveToPostgres()
	s.pki()
	vkey := s.witness()
	s.vault.Write("auth/approle/role/cardkms", map[string]any{"token_period": "2s"})
	s.vault.Write("database/roles/cardkms", map[string]any{"default_ttl": "3s", "max_ttl": "5s"})
	s.vault.Write("pki/roles/cardkms", map[string]any{
		"allowed_domains": "localhost", "allow_bare_domains": true, "allow_ip_sans": true, "key_type": "ec", "key_bits": 256, "max_ttl": "6s", "no_store": true,
	})
	s.deliver()
	s.serve()
	s.load(4)
	verified := s.verify(vkey)
	if !strings.Contains(verified, "cosigned: by cardkms.dev/audit/vault") {
		t.Errorf("the witness is not in the verification:\n%s", verified)
	}
	s.nowhere()
}

// TestVaultWitnessRemembers puts everything of the host back to an earlier time, database,
// anchors and token. Only the witness whose memory is in Vault knows better, until an
// administrator has it forget.
func TestVaultWitnessRemembers(t *testing.T) {
	t.Parallel()
	s := newVaultSite(t, "Witness")
	s.witness()
	s.deliver()
	s.serve()
	s.works()
	s.stop()
	state, backup := []string{"data", "anchor", "softhsm"}, t.TempDir()
	for _, dir := range state {
		s.must("", os.CopyFS(filepath.Join(backup, dir), os.DirFS(filepath.Join(s.dir, dir))))
	}
	cosigned := func() string {
		data, _ := s.vault.Read("kv/data/cardkms/witness")["data"].(map[string]any)
		text, _ := data["checkpoint"].(string)
		return text
	}
	before := cosigned()
	s.deliver()
	s.serve()
	s.works()
	s.until("a cosignature", func() bool { return cosigned() != before })
	s.stop()
	for _, dir := range state {
		s.must("", os.RemoveAll(filepath.Join(s.dir, dir)))
		s.must("", os.CopyFS(filepath.Join(s.dir, dir), os.DirFS(filepath.Join(backup, dir))))
	}
	s.deliver()
	s.launch()
	s.until("the rollback is found", s.answers("/readyz", http.StatusServiceUnavailable, `"code":"rollback_detected"`))
	if !strings.Contains(s.log.String(), "the witness vault has cosigned") {
		t.Errorf("it was found in another way:\n%s", s.log)
	}
	s.stop()
	s.vault.Setup(nil, "Forget")
	s.deliver()
	s.serve()
	s.works()
	s.until("it cosigns again", func() bool { return fmt.Sprint(s.vault.Read("kv/metadata/cardkms/witness")["current_version"]) != "0" })
}

// pki has the node serve with a certificate of Vault, and its clients trust Vault's PKI.
func (s *vaultSite) pki() {
	s.t.Helper()
	s.rewrite("  certificate: tls/server.pem\n  key: tls/server.key\n  clientCAs: tls/ca.pem\n",
		"  vault: {pki: pki/sign/cardkms, commonName: localhost, ipSANs: [127.0.0.1], ttl: 1h}\n  clientCAs: tls/clients.pem\n")
	s.must("", os.Rename(filepath.Join(s.dir, "tls", "ca.pem"), filepath.Join(s.dir, "tls", "clients.pem")))
	text, _ := s.vault.Read("pki/cert/ca")["certificate"].(string)
	s.must("", os.WriteFile(filepath.Join(s.dir, "tls", "ca.pem"), []byte(text), 0o600))
}

// witness adds a witness of kind transit; its first start says what its key is.
func (s *vaultSite) witness() (vkey string) {
	s.t.Helper()
	entry := "witnesses: [{name: vault, kind: transit, transit: transit/cardkms-witness, memory: \"kv/cardkms/witness#checkpoint\"%s}]\n"
	before := s.text()
	s.append(fmt.Sprintf(entry, ""))
	s.deliver()
	out, err := s.cardkmsd("", "serve", "--config", s.config())
	found := regexp.MustCompile(`cardkms\.dev/audit/vault\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+`).FindString(out)
	if err == nil || found == "" {
		s.t.Fatalf("the key is not named: %v\n%s", err, out)
	}
	s.must("", os.WriteFile(s.config(), []byte(before), 0o600))
	s.append(fmt.Sprintf(entry, fmt.Sprintf(", key: %q", found)))
	return found
}

// load proves cards while everything is renewed. Half of the clients connect anew for
// each card, so that they see every certificate.
func (s *vaultSite) load(workers int) {
	var stop atomic.Bool
	var done atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			c := s.connect()
			defer func() { c.Close() }()
			for round := 0; !stop.Load(); round++ {
				if w%2 == 0 {
					c.Close()
					c = s.connect()
				}
				if _, err := s.proves(c, s.card(uint32(w<<20+round+1), 0)); err != nil {
					s.t.Errorf("card %d of worker %d: %v", round, w, err)
					return
				}
				done.Add(1)
			}
		})
	}
	renewed := func(what string, times int) func() bool {
		return func() bool { return stop.Load() || strings.Count(s.log.String(), what) >= times }
	}
	s.until("five database users", renewed("new database credentials", 5))
	s.until("four certificates", renewed("new server certificate", 4))
	stop.Store(true)
	wg.Wait()
	s.t.Logf("%d cards were proved, %d database users and %d certificates came and went", done.Load(),
		strings.Count(s.log.String(), "new database credentials"), strings.Count(s.log.String(), "new server certificate"))
}

func (s *vaultSite) connect() *client.Client {
	in := func(name string) string { return filepath.Join(s.dir, "tls", name) }
	c, err := client.New(client.Config{BaseURL: s.url, RootCAsFile: in("ca.pem"), Timeout: time.Minute, CertFile: in("update-server.pem"), KeyFile: in("update-server.key")})
	if err != nil {
		s.t.Error(err)
	}
	return c
}

// verify runs the auditors' program, with the witness's key.
func (s *vaultSite) verify(vkey string) string {
	s.t.Helper()
	bin := filepath.Join(s.t.TempDir(), "cardkms")
	if out, err := exec.Command("go", "build", "-o", bin, "cardkms/cmd/cardkms").CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	file := filepath.Join(s.t.TempDir(), "witness.vkey")
	s.must("", os.WriteFile(file, []byte(vkey+"\n"), 0o600))
	var out []byte
	s.until("the log verifies with the witness", func() bool {
		cmd := exec.Command(bin, "audit", "verify", "--as", "auditor", "--server", s.url, "--tls", filepath.Join(s.dir, "tls"),
			"--log-key", filepath.Join(s.dir, "log.vkey"), "--witness", file)
		var err error
		out, err = cmd.CombinedOutput()
		if err != nil {
			s.t.Logf("%v %s", err, out)
		}
		return err == nil
	})
	return string(out)
}

// nowhere looks for what Vault gave, in the process's arguments, its output and its files.
func (s *vaultSite) nowhere() {
	s.t.Helper()
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.server.Process.Pid))
	s.must("", err)
	s.stop()
	secret := regexp.MustCompile(`hv[sb]\.[A-Za-z0-9]{20}|-----BEGIN EC PRIVATE`)
	places := map[string][]byte{"arguments": arguments, "output": []byte(s.log.String())}
	s.must("", filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.Contains(path, "/softhsm/") || e.Name() == "secret-id" {
			return err
		}
		places[path], err = os.ReadFile(path)
		return err
	}))
	for where, b := range places {
		if bytes.Contains(b, []byte(s.pin)) || secret.Match(b) {
			s.t.Errorf("%s holds a secret", where)
		}
	}
	if len(places) < 10 {
		s.t.Errorf("only %d places were searched", len(places))
	}
}
