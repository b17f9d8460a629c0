package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cardkms/api"
	"cardkms/kms/update"
	"cardkms/softhsm/cardsim"
)

// recorder is an API client that keeps every body that came or went.
type recorder struct {
	s      *site
	http   *http.Client
	bodies bytes.Buffer
	n      int
}

func (s *site) recorder() *recorder {
	s.t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(s.dir, "tls", "update-server.pem"), filepath.Join(s.dir, "tls", "update-server.key"))
	s.must("", err)
	ca, err := os.ReadFile(filepath.Join(s.dir, "tls", "ca.pem"))
	s.must("", err)
	cas := x509.NewCertPool()
	cas.AppendCertsFromPEM(ca)
	return &recorder{s: s, http: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: cas, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13,
	}}}}
}

// call sends one request and decodes a JSON answer into out, if it is not nil.
func (r *recorder) call(method, path string, body []byte, kind string, out any) int {
	r.s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, r.s.url+path, bytes.NewReader(body))
	r.s.must("", err)
	req.Header.Set("Content-Type", kind)
	r.n++
	req.Header.Set("Idempotency-Key", fmt.Sprintf("k%d", r.n))
	resp, err := r.http.Do(req)
	r.s.must("", err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	r.s.must("", err)
	r.bodies.Write(body)
	r.bodies.Write(b)
	fmt.Fprint(&r.bodies, resp.Header)
	if out != nil && resp.StatusCode < 300 {
		if err := json.Unmarshal(b, out); err != nil {
			r.s.t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return resp.StatusCode
}

func (r *recorder) post(path string, in, out any) int {
	r.s.t.Helper()
	b, err := json.Marshal(in)
	r.s.must("", err)
	return r.call(http.MethodPost, "/v1/issuers/demo"+path, b, "application/json", out)
}

// image describes and signs an image with the set-up's release key.
func (s *site) image(name string, content []byte) api.RegisterImage {
	s.t.Helper()
	im := update.Image{Class: [16]byte{1}, Component: isdAID, From: update.Version{1}, To: update.Version{2}, Counter: 2}
	seen := update.NewContent()
	_, _ = seen.Write(content)
	seen.Fill(&im)
	raw, err := os.ReadFile(filepath.Join(s.dir, "release", "release.key"))
	s.must("", err)
	block, _ := pem.Decode(raw)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	s.must("", err)
	return api.RegisterImage{
		Name: name, Class: im.Class[:], Component: im.Component, FromVersion: im.From[:], ToVersion: im.To[:], SecurityCounter: 2,
		Size: im.Size, SHA256: im.SHA256[:], CRC32: binary.BigEndian.AppendUint32(nil, im.CRC32), ReleaseKey: "release",
		Signature: ed25519.Sign(k.(ed25519.PrivateKey), im.Statement()),
	}
}

// authenticate runs mutual authentication through raw requests.
func (r *recorder) authenticate(card *cardsim.Card) string {
	r.s.t.Helper()
	var o api.OpenedChannel
	r.post("/channels", api.OpenChannel{Key: "isd"}, &o)
	answer, err := card.Transmit(o.InitializeUpdate)
	r.s.must("", err)
	var a api.AuthenticatedChannel
	r.post("/channels/"+o.ID+":authenticate", api.Authenticate{Response: answer}, &a)
	if sw, err := card.Transmit(a.ExternalAuthenticate); err != nil || !bytes.Equal(sw, []byte{0x90, 0}) {
		r.s.t.Fatalf("EXTERNAL AUTHENTICATE: %X, %v", sw, err)
	}
	return o.ID
}

// TestNoSecretLeaves runs the whole job through the real program and looks for
// every key that the test knows, raw, in hexadecimal and in base64, in what the
// processes printed, in every file of the set-up but the token's own, and in all
// HTTP bodies and headers.
func TestNoSecretLeaves(t *testing.T) {
	s := newSite(t)
	r := s.recorder()
	content := random(5000)
	d := s.image("cos", content)
	r.post("/images", d, nil)
	if code := r.call(http.MethodPut, "/v1/issuers/demo/images/cos/content", content, "application/octet-stream", nil); code != http.StatusOK {
		t.Fatalf("uploading: %d", code)
	}
	card := s.card(1, 8192)
	id := r.authenticate(card)
	var w api.Commands
	r.post("/channels/"+id+":wrap", api.Commands{Commands: []api.Hex{update.GetStatus().Bytes()}}, &w)
	status, err := card.Transmit(w.Commands[0])
	s.must("", err)
	var p api.Package
	r.post("/packages", api.CreatePackage{Channel: id, Image: "cos", UpdateKey: "upd", KVN: 0x5A, Status: status}, &p)
	for _, in := range []api.PackageScript{
		{Channel: id, Step: api.StepOpen}, {Channel: id, Step: api.StepChunks, Chunks: []int{1, 2, 3, 4, 5}}, {Channel: id, Step: api.StepCommit},
	} {
		var script api.Commands
		r.post("/packages/"+p.ID+":script", in, &script)
		if len(script.Commands) == 0 {
			t.Fatalf("no commands for %s", in.Step)
		}
		for _, c := range script.Commands {
			if _, err := card.Transmit(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.call(http.MethodGet, "/v1/issuers/demo/packages/"+p.ID+"/chunks?from=1", nil, "", nil)
	id = r.authenticate(card)
	// Failures too: a wrong cryptogram, malformed input, another client's page.
	r.post("/channels/"+id+":authenticate", api.Authenticate{Response: []byte{0x6A, 0x88}}, nil)
	r.call(http.MethodPost, "/v1/issuers/demo/channels", []byte(`{"key":`), "application/json", nil)
	s.stop()

	set, err := cardsim.Personalise(s.master, [10]byte{9: 1}, 0x30, 16)
	s.must("", err)
	upd, err := cardsim.PersonaliseUpdate(s.upd, [10]byte{9: 1}, 0x5A, 16)
	s.must("", err)
	pin, err := os.ReadFile(filepath.Join(s.dir, "pin"))
	s.must("", err)
	secrets := map[string][]byte{"master": s.master, "update master": s.upd, "K-ENC": set.ENC, "K-MAC": set.MAC, "K-DEK": set.DEK, "K-UPD": upd.Value}
	look(t, "the server's output", []byte(s.log.String()), secrets)
	look(t, "HTTP", r.bodies.Bytes(), secrets)
	for name, b := range map[string][]byte{"the server's output": []byte(s.log.String()), "HTTP": r.bodies.Bytes()} {
		if bytes.Contains(b, pin) {
			t.Errorf("%s holds the PIN", name)
		}
	}
	files := 0
	s.must("", filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.Contains(path, "/softhsm/") {
			return err
		}
		b, err := os.ReadFile(path)
		files++
		look(t, path, b, secrets)
		if filepath.Base(path) != "pin" && bytes.Contains(b, pin) {
			t.Errorf("%s holds the PIN", path)
		}
		return err
	}))
	if files < 5 || r.bodies.Len() < 20_000 {
		t.Errorf("only %d files and %d bytes of HTTP were searched", files, r.bodies.Len())
	}
}

// look searches a haystack for secrets in every form.
func look(t *testing.T, where string, hay []byte, secrets map[string][]byte) {
	t.Helper()
	for name, s := range secrets {
		for _, form := range []string{string(s), hex.EncodeToString(s), strings.ToUpper(hex.EncodeToString(s)),
			strings.TrimRight(base64.StdEncoding.EncodeToString(s), "="), strings.TrimRight(base64.URLEncoding.EncodeToString(s), "=")} {
			if bytes.Contains(hay, []byte(form)) {
				t.Errorf("%s holds %s", where, name)
			}
		}
	}
}

// TestLookFinds shows that the search above can fail.
func TestLookFinds(t *testing.T) {
	inner := &testing.T{}
	look(inner, "here", []byte("xx"+hex.EncodeToString([]byte("secret key"))), map[string][]byte{"it": []byte("secret key")})
	if !inner.Failed() {
		t.Error("the search does not find what is there")
	}
}

func TestQuarantineSurvivesTheProcess(t *testing.T) {
	s := newSite(t)
	card := s.card(1, 1024)
	ctx := context.Background()
	wrong := func() error {
		o, err := s.updateServer.OpenChannel(ctx, "demo", api.OpenChannel{Key: "isd"})
		s.must("", err)
		a, err := card.Transmit(o.InitializeUpdate)
		s.must("", err)
		a[22] ^= 1
		_, err = s.updateServer.Authenticate(ctx, "demo", o.ID, api.Authenticate{Response: a})
		return err
	}
	for range 3 {
		if err := wrong(); !strings.Contains(fmt.Sprint(err), "proof_failed") {
			t.Fatalf("a wrong cryptogram: %v", err)
		}
	}
	s.stop()
	s.serve()
	if err := wrong(); !strings.Contains(fmt.Sprint(err), "card_quarantined") {
		t.Errorf("after a restart: %v", err)
	}
}

func TestSoftHSMIsForDevelopmentOnly(t *testing.T) {
	s := newSite(t)
	s.stop()
	b, err := os.ReadFile(s.config())
	s.must("", err)
	text := strings.Replace(string(b), "development: true", "development: false", 1)
	text = strings.Replace(text, "  softhsm: softhsm\n", "", 1)
	s.must("", os.WriteFile(s.config(), []byte(text), 0o600))
	out, err := s.cardkmsd("", "serve", "--config", s.config())
	if err == nil || !strings.Contains(out, "development: true") {
		t.Errorf("SoftHSM2 in production: %v\n%s", err, out)
	}
}

func TestOneProcessForOneDatabase(t *testing.T) {
	s := newSite(t)
	file := s.ceremony("other", "keys:\n  - {issuer: demo, key: other, kvn: \"31\", master: {generate: true}}\n")
	out, err := s.cardkmsd("", "ceremony", "run", "--yes", file)
	if err == nil || !strings.Contains(out, "another cardkmsd") {
		t.Errorf("a second process on the database: %v\n%s", err, out)
	}
	s.stop()
	s.must(s.cardkmsd("", "ceremony", "run", "--yes", file))
	file = s.ceremony("third", "keys:\n  - {issuer: demo, key: other, kvn: \"31\", algorithm: aes-128, master: {generate: true}}\n")
	out, err = s.cardkmsd("", "ceremony", "run", "--yes", file)
	if err == nil || !strings.Contains(out, "conflict") {
		t.Errorf("the same KVN twice: %v\n%s", err, out)
	}
}

func TestKeysWithoutDiversification(t *testing.T) {
	s := newSite(t)
	s.stop()
	file := s.ceremony("static", `keys:
  - issuer: demo
    key: static
    kvn: "33"
    algorithm: aes-128
    diversification: none
    enc: {generate: true}
    mac: {generate: true}
    dek: {generate: true}
`)
	out := s.must(s.cardkmsd("", "ceremony", "run", "--yes", file))
	for _, part := range []string{"enc", "mac", "dek"} {
		if !strings.Contains(out, "kcv "+part) {
			t.Errorf("no %s in:\n%s", part, out)
		}
	}
	s.serve() // the server finds all of them in the token
}
