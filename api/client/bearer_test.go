package client

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// bearerFile writes a file that its owner alone may read.
func bearerFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// seen is what a server is shown of who calls.
type seen struct {
	authorization []string
	certificates  int
}

// ask returns a client with this bearer file and what the server, which would take a
// certificate too, is shown by its requests.
func ask(t *testing.T, file string, answers ...http.HandlerFunc) (*Client, *[]seen) {
	t.Helper()
	var all []seen
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all = append(all, seen{r.Header.Values("Authorization"), len(r.TLS.PeerCertificates)})
		answers[min(len(all), len(answers))-1](w, r)
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13}
	srv.StartTLS()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	c, err := New(Config{BaseURL: srv.URL, BearerFile: file, RootCAs: pool, ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); srv.Close() })
	return c, &all
}

// TestBearer: each request, a repeated one and a stream too, carries the token that its
// file holds then, and no certificate.
func TestBearer(t *testing.T) {
	file := bearerFile(t, "one.a-_~+/==\n")
	renewed := func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile(file, []byte(" two \n"), 0o600); err != nil {
			t.Error(err)
		}
		problem(503, "token_unavailable", "1")(w, r)
	}
	c, all := ask(t, file, ok, renewed, ok)
	for range 2 {
		if _, err := c.Ready(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.UploadImage(t.Context(), "acme", "cos", 3, strings.NewReader("abc")); err != nil {
		t.Error(err)
	}
	var got []string
	for _, s := range *all {
		got = append(got, s.authorization...)
		if s.certificates > 0 {
			t.Error("a certificate was shown")
		}
	}
	if want := []string{"Bearer one.a-_~+/==", "Bearer one.a-_~+/==", "Bearer two", "Bearer two"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}

	// What the file has become since is not sent, and not repeated in the error.
	if err := os.WriteFile(file, []byte("three four"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ready(t.Context()); err == nil || strings.Contains(err.Error(), "three") || Interrupted(err) || len(*all) != 4 {
		t.Errorf("%v after %d requests", err, len(*all))
	}
}

// TestBearerStays: neither a redirect nor a server that nobody vouches for is shown it.
func TestBearerStays(t *testing.T) {
	file := bearerFile(t, "secret")
	other, shown := ask(t, file, ok)
	c, all := ask(t, file, http.RedirectHandler(other.base+"/v1/keys", http.StatusTemporaryRedirect).ServeHTTP)
	if _, err := c.Ready(t.Context()); err == nil || len(*all) != 1 {
		t.Errorf("a redirect: %v after %d requests", err, len(*all))
	}
	stranger, err := New(Config{BaseURL: other.base, BearerFile: file, RootCAs: x509.NewCertPool(), ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Ready(t.Context()); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
	if len(*shown) > 0 {
		t.Errorf("the other server was shown %v", *shown)
	}
}

// TestBearerFile: New refuses what is no bearer token, or no secret, and repeats nothing of it.
func TestBearerFile(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(mode os.FileMode) string {
		path := bearerFile(t, "secret")
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]Config{
		"none":             {BearerFile: filepath.Join(t.TempDir(), "none")},
		"a directory":      {BearerFile: t.TempDir()},
		"a pipe":           {BearerFile: pipe},
		"empty":            {BearerFile: bearerFile(t, "\n")},
		"two":              {BearerFile: bearerFile(t, "secret secret")},
		"two lines":        {BearerFile: bearerFile(t, "secret\r\nX-Secret: secret\n")},
		"JSON":             {BearerFile: bearerFile(t, `{"id_token":"secret"}`)},
		"a header":         {BearerFile: bearerFile(t, "Bearer secret")},
		"too long":         {BearerFile: bearerFile(t, strings.Repeat("secret", bearerBytesMax/6+1))},
		"long white space": {BearerFile: bearerFile(t, "secret"+strings.Repeat("\n", bearerBytesMax))},
		"of the group":     {BearerFile: open(0o640)},
		"of everybody":     {BearerFile: open(0o604)},
		"written by all":   {BearerFile: open(0o622)},
		"a certificate":    {BearerFile: open(0o600), Cert: tls.Certificate{Certificate: [][]byte{{0}}}},
		"its file":         {BearerFile: open(0o600), CertFile: "client.pem"},
		"a private key":    {BearerFile: open(0o600), KeyFile: "client.key"},
		"plain HTTP":       {BearerFile: open(0o600), BaseURL: "http://localhost"},
	} {
		if c.BaseURL == "" {
			c.BaseURL = "https://localhost"
		}
		if _, err := New(c); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, file := range map[string]string{"good": open(0o600), "read-only": open(0o400), "long": bearerFile(t, strings.Repeat("s", bearerBytesMax))} {
		if _, err := New(Config{BaseURL: "https://localhost", BearerFile: file}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
