package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// openID starts a provider in a process of its own.
func openID(t *testing.T) (issuer, ca string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), providerVariable+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line), filepath.Join(dir, "ca.pem")
}

// web is an HTTP client that trusts these CAs and has no certificate.
func web(t *testing.T, cas ...string) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	for _, ca := range cas {
		pool.AddCert(certificateIn(t, ca))
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func fetch(t *testing.T, c *http.Client, address string, header http.Header) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestPeople logs people in at a provider that is another process, and shows its tokens to
// the listener for people.
func TestPeople(t *testing.T) {
	issuer, ca := openID(t)
	listen := freeAddress(t)
	auditor := devDomain + "/role/auditor/grace"
	s := newSite(t, "people:", "  listen: "+listen, "  issuer: "+issuer, "  audience: cardkms", "  ca: "+ca,
		"  subjects: {grace-7: "+auditor+", ada-1: "+devDomain+devOfficerPath+"ada}")
	s.configure(func(text string) string { return text + "\n" })
	c := web(t, ca, filepath.Join(s.dir, "tls", "ca.pem"))
	token := func(sub, wrong string) string {
		_, text := fetch(t, c, issuer+"/token?"+url.Values{"sub": {sub}, "wrong": {wrong}}.Encode(), nil)
		return text
	}
	checkpoint := func(header http.Header) (int, string) {
		return fetch(t, c, "https://"+listen+"/v1/audit/checkpoint", header)
	}
	bearer := func(text string) http.Header { return http.Header{"Authorization": {"Bearer " + text}} }

	good := token("grace-7", "")
	if status, body := checkpoint(bearer(good)); status != http.StatusOK {
		t.Fatalf("the auditor: %d %s\n%s", status, body, s.log)
	}
	if status, body := checkpoint(bearer(token("ada-1", ""))); status != http.StatusForbidden {
		t.Errorf("an officer reads what is an auditor's: %d %s", status, body)
	}
	if !strings.Contains(s.log.String(), `"caller":"`+auditor+`"`) {
		t.Error("the access log does not name the person's client")
	}
	for name, header := range map[string]http.Header{
		"nothing":              nil,
		"another scheme":       {"Authorization": {"Basic " + good}},
		"no token":             {"Authorization": {"Bearer "}},
		"two tokens":           {"Authorization": {"Bearer " + good, "Bearer " + good}},
		"a certificate's word": {"Authorization": {"Bearer " + good}, "Client-Cert": {"::"}},
		"nonsense":             bearer("x.y.z"),
		"half of it":           bearer(good[:len(good)/2]),
		"another signature":    bearer(good[:len(good)-8] + "AAAAAAAA"),
		"of nobody":            bearer(token("mallory", "")),
		"for another":          bearer(token("grace-7", "audience")),
		"of another provider":  bearer(token("grace-7", "issuer")),
		"expired":              bearer(token("grace-7", "expired")),
		"not yet valid":        bearer(token("grace-7", "not yet")),
		"by another key":       bearer(token("grace-7", "key")),
		"by a known secret":    bearer(token("grace-7", "secret")),
		"by nobody":            bearer(token("grace-7", "none")),
	} {
		if status, body := checkpoint(header); status != http.StatusUnauthorized || strings.Contains(body, "grace") {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if strings.Contains(s.log.String(), good[len(good)-40:]) {
		t.Error("the log holds a token")
	}

	if status, _ := fetch(t, c, issuer+"/rotate", nil); status != http.StatusOK {
		t.Fatal("the provider does not rotate")
	}
	if status, body := checkpoint(bearer(token("grace-7", ""))); status != http.StatusOK {
		t.Errorf("with the provider's new key: %d %s", status, body)
	}
	// The machine listener goes on to ask for a certificate, token or not.
	if resp, err := c.Get(s.url + "/v1/audit/checkpoint"); err == nil { //nolint:noctx // a test
		_ = resp.Body.Close()
		t.Errorf("without a certificate: %d", resp.StatusCode)
	}

	s.configure(func(text string) string {
		return strings.Replace(text, "tls:\n", "tls:\n  revoked: ["+auditor+"]\n", 1)
	})
	s.hangup(reloaded)
	if status, _ := checkpoint(bearer(token("grace-7", ""))); status != http.StatusUnauthorized {
		t.Errorf("revoked: %d", status)
	}
}

// TestPeopleCommands runs cardkms as people do who have a bearer token in a file: against
// their listener, with the CA of the service and no certificate.
func TestPeopleCommands(t *testing.T) {
	issuer, ca := openID(t)
	listen := freeAddress(t)
	s := newSite(t, "people:", "  listen: "+listen, "  issuer: "+issuer, "  audience: cardkms", "  ca: "+ca,
		"  subjects: {ada-1: "+devDomain+devOfficerPath+"ada, bob-2: "+devDomain+devOfficerPath+"bob, grace-7: "+devDomain+"/role/auditor/grace}")
	c, path := web(t, ca), programs(t)
	file := filepath.Join(t.TempDir(), "token")
	hold := func(sub, wrong string) string {
		_, text := fetch(t, c, issuer+"/token?"+url.Values{"sub": {sub}, "wrong": {wrong}}.Encode(), nil)
		s.must("", os.WriteFile(file, []byte(text+"\n"), 0o600))
		return text
	}
	cardkms := func(args ...string) (string, int) {
		cmd := exec.Command(filepath.Join(path, "cardkms"), args...)
		cmd.Env = append(os.Environ(), "CARDKMS_SERVER=https://"+listen, "CARDKMS_TLS="+filepath.Join(s.dir, "tls"), "CARDKMS_TOKEN_FILE="+file, "CARDKMS_AS=")
		out, err := cmd.CombinedOutput()
		if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	expect := func(code int, want string, args ...string) string {
		t.Helper()
		out, got := cardkms(args...)
		if got != code || !strings.Contains(out, want) {
			t.Errorf("%v: %d, not %d with %q: %s", args, got, code, want, out)
		}
		if strings.Contains(out, "eyJ") {
			t.Errorf("%v prints a token: %s", args, out)
		}
		return out
	}

	shown := []string{hold("ada-1", "")}
	expect(0, "isd", "key", "list")
	out := expect(0, `"proposer": "ada"`, "approval", "propose", "key.deactivate", "issuers/demo/keys/isd/versions/1", "--json")
	var proposal struct{ ID string }
	s.must("", json.Unmarshal([]byte(out), &proposal))
	expect(2, "says who calls", "key", "list", "--as", "security-officer")
	expect(1, "is --server the service's listener for people", "key", "list", "--server", s.url)

	// What another officer decides he signs with his own key, whatever a token says.
	shown = append(shown, hold("bob-2", ""))
	officers := filepath.Join(s.dir, "officers")
	approve := []string{"approval", "approve", proposal.ID, "--yes", "--passphrase-file", filepath.Join(officers, "passphrase"), "--key"}
	expect(3, "proof_failed", append(approve, filepath.Join(officers, "cyd"))...)
	expect(0, "1 of 2 approvals", append(approve, filepath.Join(officers, "bob"))...)

	shown = append(shown, hold("grace-7", ""))
	expect(1, "hint: if it is your role", "halt", "--yes")
	for wrong, want := range map[string]string{"expired": "the bearer token has expired", "audience": "the bearer token is not valid here", "key": "the bearer token is not valid here"} {
		shown = append(shown, hold("ada-1", wrong))
		expect(1, want, "key", "list")
		expect(1, "hint: have the OpenID provider give a new ID token", "key", "list")
	}
	shown = append(shown, hold("ada-1", ""))
	s.must("", os.Chmod(file, 0o644))
	expect(2, "is open to others than its owner", "key", "list")
	for _, token := range shown {
		if strings.Contains(s.log.String(), token[len(token)-40:]) {
			t.Error("the log holds a token")
		}
	}
}

// TestPeopleConfiguration: what would let programs in by token, or nobody, is refused.
func TestPeopleConfiguration(t *testing.T) {
	good := peopleConfig{Listen: ":8444", Issuer: "https://login.example.com", Audience: "cardkms", Subjects: map[string]string{"1": devDomain + "/role/auditor/grace"}}
	clients := []clientConfig{
		{ID: devDomain + "/role/auditor/grace", Role: "auditor"},
		{ID: devDomain + "/role/update-server/one", Role: "update-server", Issuer: "demo", Cards: &cardRange{From: strings.Repeat("0", 20), To: strings.Repeat("F", 20)}},
	}
	for name, change := range map[string]func(*peopleConfig){
		"":                    func(*peopleConfig) {},
		"no listener":         func(p *peopleConfig) { p.Listen = "" },
		"plain HTTP":          func(p *peopleConfig) { p.Issuer = "http://login.example.com" },
		"no provider":         func(p *peopleConfig) { p.Issuer = "" },
		"no audience":         func(p *peopleConfig) { p.Audience = "" },
		"nobody":              func(p *peopleConfig) { p.Subjects = nil },
		"an update server":    func(p *peopleConfig) { p.Subjects = map[string]string{"1": devDomain + "/role/update-server/one"} },
		"a client that isn't": func(p *peopleConfig) { p.Subjects = map[string]string{"1": devDomain + "/role/auditor/none"} },
		"no subject":          func(p *peopleConfig) { p.Subjects = map[string]string{"": devDomain + "/role/auditor/grace"} },
	} {
		p := good
		change(&p)
		wrong := (&config{People: p, Clients: clients}).wrongPeople()
		if (len(wrong) > 0) != (name != "") {
			t.Errorf("%s: %v", name, fmt.Sprint(wrong))
		}
	}
	if wrong := (&config{}).wrongPeople(); len(wrong) > 0 {
		t.Errorf("none at all: %v", wrong)
	}
}
