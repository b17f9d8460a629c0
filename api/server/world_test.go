package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cardkms/api"
	"cardkms/audit"
	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/ledger"
	"cardkms/kms/store/sqlite"
	"cardkms/kms/update"
	"cardkms/softhsm/cardsim"

	"github.com/go-json-experiment/json"
	"go.uber.org/goleak"
)

var updateGolden = flag.Bool("update", false, "write api/openapi.yaml")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// plainToken is a derivetest.Token with a random number generator, and a fault:
// after failAfter calls it is lost.
type plainToken struct {
	derivetest.Token
	mu               sync.Mutex // guards what follows
	calls, failAfter int
}

func (t *plainToken) call() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.calls++; t.failAfter > 0 && t.calls > t.failAfter {
		return fault.New(fault.TokenUnavailable, "the token is lost")
	}
	return nil
}

func (t *plainToken) Random(_ context.Context, n int) ([]byte, error) {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b, t.call()
}

// What kms.Inspector wants: this token holds all that it is asked for.
func (t *plainToken) Check(context.Context, derive.Root) error { return t.call() }
func (t *plainToken) Labels(context.Context) ([]string, error) { return []string{"a-ghost"}, t.call() }
func (t *plainToken) Ready(context.Context) error              { return t.call() }
func (t *plainToken) Description() string                      { return "plain (test)" }

// What kms.KeyStore wants: keys of random values.
func (t *plainToken) Taken(context.Context, string) (bool, error) { return false, t.call() }
func (t *plainToken) Destroy(context.Context, string) error       { return t.call() }
func (t *plainToken) Absent(context.Context, ...string) error     { return t.call() }
func (t *plainToken) Public(_ context.Context, r derive.Root) (*ecdh.PublicKey, error) {
	k, err := ecdh.P256().NewPrivateKey(t.Value(derive.FromRoot(r)))
	if err != nil {
		return nil, err
	}
	return k.PublicKey(), t.call()
}
func (t *plainToken) Generate(_ context.Context, label string, a key.Algorithm, c derive.Class) (derive.Root, error) {
	if c == derive.Agreeing {
		k, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			return derive.Root{}, err
		}
		return t.AddRootPair(label, k).Root(), t.call()
	}
	value := make([]byte, a.Size())
	_, _ = rand.Read(value)
	return t.Add(label, a, c, value).Root(), t.call()
}

// rowMAC stands in for the token's state key.
func rowMAC(_ context.Context, m []byte) ([]byte, error) {
	mac := hmac.New(sha256.New, []byte("state"))
	mac.Write(m)
	return mac.Sum(nil)[:ledger.MACSize], nil
}

// MAC and Encrypt are what chunks need.
func (t *plainToken) MAC(ctx context.Context, k *derive.Key, m []byte) ([]byte, error) {
	if err := t.call(); err != nil {
		return nil, err
	}
	return t.Token.MAC(ctx, k, m)
}

func (t *plainToken) Encrypt(ctx context.Context, k *derive.Key, data []byte) ([]byte, error) {
	if err := t.call(); err != nil {
		return nil, err
	}
	return t.Token.Encrypt(ctx, k, data)
}

var (
	testKDD   = [10]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	testISD   = []byte{0xA0, 0, 0, 1, 0x51, 0, 0, 0}
	testClass = [16]byte{0xC3, 0xF0}
	versionA  = update.Version{1}
	versionB  = update.Version{1, 1}
)

func series(first byte) []byte {
	b := make([]byte, 16)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// The URIs of the clients of the tests.
const (
	uriUpdate   = "spiffe://test.example/acme/role/update-server/us-1"
	uriOfficer  = "spiffe://test.example/role/security-officer"
	uriAuditor  = "spiffe://test.example/role/auditor"
	uriOperator = "spiffe://test.example/role/operator"
	uriBob      = "spiffe://test.example/role/security-officer/bob"
	uriCyd      = "spiffe://test.example/role/security-officer/cyd"
	uriBound    = "spiffe://test.example/acme/role/security-officer/dan"
	uriGlobex   = "spiffe://test.example/globex/role/update-server"
)

// world is a server over a real service, a token of plain keys and one card.
type world struct {
	t       testing.TB
	server  *server
	handler http.Handler
	service *kms.Service
	card    *cardsim.Card
	release ed25519.PrivateKey
	log     *bytes.Buffer
	token   *plainToken
}

type option func(*Config)

func newWorld(t testing.TB, options ...option) *world {
	t.Helper()
	w := &world{t: t, log: &bytes.Buffer{}, token: &plainToken{}}
	w.newService()
	w.newCard()
	cfg := Config{
		Service: w.service, Logger: slog.New(slog.NewJSONHandler(w.log, nil)),
		Admission: Admission{Clients: map[string]kms.Caller{
			uriUpdate:   {Role: kms.UpdateServer, Issuer: "acme", Cards: kms.AllCards()},
			uriOfficer:  {Role: kms.SecurityOfficer},
			uriBob:      {Role: kms.SecurityOfficer},
			uriCyd:      {Role: kms.SecurityOfficer},
			uriBound:    {Role: kms.SecurityOfficer, Issuer: "globex"},
			uriAuditor:  {Role: kms.Auditor},
			uriOperator: {Role: kms.Operator},
			uriGlobex:   {Role: kms.UpdateServer, Issuer: "globex", Cards: kms.AllCards()},
		}},
	}
	for _, o := range options {
		o(&cfg)
	}
	var err error
	if w.server, err = newServer(cfg); err != nil {
		t.Fatal(err)
	}
	w.handler = w.server.handler(cfg.Version)
	return w
}

// testProfile is the document of the card profile default.
const testProfile = `name: default
protocol: scp03
i: "70"
aid: "A000000151000000"
level: "33"
keys: {algorithm: aes-128, diversification: none, kvn: {from: "30", to: "3F"}}
chunkSize: 128
`

func (w *world) newService() {
	t := w.t
	ctx := context.Background()
	db, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "kms.db"))
	must(t, err)
	signer, verifier := noteKey(t)
	led, err := ledger.Open(ctx, ledger.Config{Store: db, MAC: rowMAC, Signer: signer, Verifier: verifier, Origin: "test/audit", Now: time.Now, CheckpointEvery: -1, GuardEvery: -1})
	must(t, err)
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	w.release = private
	w.service, err = kms.New(kms.Config{
		Token: w.token, Store: db, Log: led,
		Pseudonym:   w.token.Add("pseudonym", key.AES128, derive.SessionMAC, series(0x90)),
		Registry:    w.token.Add("registry", key.AES128, derive.SessionMAC, series(0xB0)),
		ReleaseKeys: map[string]map[string]crypto.PublicKey{"acme": {"release-1": public}},
		Issuers:     []string{"acme"}, Experimental: true, Holder: func(string) (kms.Holder, error) { return w.token, nil },
		Limits: channel.DefaultLimits(), ChannelsMax: 64, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	t.Cleanup(func() {
		w.service.Close()
		must(t, led.Close(ctx))
		must(t, db.Close())
	})
	_, err = w.service.LoadProfile(ctx, "test", kms.NewProfile{Issuer: "acme", Document: testProfile})
	must(t, err)
	w.load("isd", key.GPSCP03, 0x30, map[key.Part][]byte{key.ENC: series(0x00), key.MAC: series(0x10), key.DEK: series(0x20)})
	must(t, w.service.EnrolFirst(ctx, "test", "", []approval.Officer{officerOf(uriOfficer), officerOf(uriBob), officerOf(uriCyd)}, 2))
	w.load("upd", key.CardUpdate, 0x5A, map[key.Part][]byte{key.Master: series(0x40)})
}

func (w *world) load(name string, u key.Usage, kvn byte, values map[key.Part][]byte) {
	w.t.Helper()
	n := kms.NewKey{Issuer: "acme", Name: name, Usage: u, Algorithm: key.AES128, CardAlgorithm: key.AES128, Diversification: diversify.None, KVN: kvn}
	_, err := w.service.LoadKey(context.Background(), "test", n, maker{w, values})
	must(w.t, err)
}

// maker is a kms.Maker of known values.
type maker struct {
	w      *world
	values map[key.Part][]byte
}

func (maker) Taken(context.Context, string) (bool, error) { return false, nil }

func (m maker) Make(_ context.Context, label string, a key.Algorithm, c derive.Class, p key.Part) (derive.Root, error) {
	return m.w.token.Add(label, a, c, m.values[p]).Root(), nil
}

func (w *world) newCard() {
	cfg := cardsim.Config{
		KDD: testKDD, ISD: testISD, I: 0x70,
		KeySets:   []cardsim.KeySet{{KVN: 0x30, ENC: series(0x00), MAC: series(0x10), DEK: series(0x20)}, {KVN: 0x31, ENC: series(0x50), MAC: series(0x60), DEK: series(0x70)}},
		UpdateKey: cardsim.UpdateKey{KVN: 0x5A, ID: 1, Value: series(0x40)},
		ClassID:   testClass, Component: testISD, Version: versionA, SecurityCounter: 3, BankBytes: 2048,
	}
	var err error
	w.card, err = cardsim.New(cfg, nil)
	must(w.t, err)
	if w.card.PowerOn() == nil {
		w.t.Fatal("the card is mute")
	}
}

func noteKey(t testing.TB) (s interface {
	Name() string
	KeyHash() uint32
	Sign([]byte) ([]byte, error)
}, v interface {
	Name() string
	KeyHash() uint32
	Verify(msg, sig []byte) bool
}) {
	t.Helper()
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	signer, err := audit.NewSigner("test/audit", public, func(m []byte) ([]byte, error) { return ed25519.Sign(private, m), nil })
	must(t, err)
	vkey, err := audit.VerifierKey("test/audit", public)
	must(t, err)
	verifier, err := audit.NewVerifier(vkey)
	must(t, err)
	return signer, verifier
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// certificate returns a connection state with these URIs, as a verified client
// certificate leaves it.
func certificate(uris ...string) *tls.ConnectionState {
	leaf := &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			panic(err)
		}
		leaf.URIs = append(leaf.URIs, u)
	}
	return &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}
}

// ask is one request of a test.
type ask struct {
	as, method, path string
	body             any // string, []byte or what JSON can encode
	key              string
	header           map[string]string
}

func (w *world) do(a ask) *httptest.ResponseRecorder {
	w.t.Helper()
	r := httptest.NewRequest(a.method, a.path, w.body(a.body))
	if a.as != "" {
		r.TLS = certificate(a.as)
	}
	if a.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if a.key != "" {
		r.Header.Set("Idempotency-Key", a.key)
	}
	for k, v := range a.header {
		r.Header.Set(k, v)
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	return rec
}

func (w *world) body(v any) io.Reader {
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		return strings.NewReader(v)
	case []byte:
		return bytes.NewReader(v)
	}
	b, err := json.Marshal(v)
	must(w.t, err)
	return bytes.NewReader(b)
}

var keys int

// newKey returns an Idempotency-Key that no other request has.
func newKey() string { keys++; return fmt.Sprintf("key-%d", keys) }

// post sends a change of the update server and decodes its answer.
func post[T any](w *world, path string, body any) T {
	w.t.Helper()
	return want[T](w, w.do(ask{as: uriUpdate, method: http.MethodPost, path: path, body: body, key: newKey()}))
}

// want decodes an answer of success.
func want[T any](w *world, rec *httptest.ResponseRecorder) (out T) {
	w.t.Helper()
	if rec.Code/100 != 2 {
		w.t.Fatalf("status %d: %s", rec.Code, rec.Body)
	}
	must(w.t, json.Unmarshal(rec.Body.Bytes(), &out, json.RejectUnknownMembers(true)))
	return out
}

// refused checks a refusal in every member that all refusals share.
func refused(t testing.TB, rec *httptest.ResponseRecorder, code api.Code) api.Problem {
	t.Helper()
	var p api.Problem
	if err := json.Unmarshal(rec.Body.Bytes(), &p, json.RejectUnknownMembers(true)); err != nil {
		t.Fatalf("status %d: not a problem: %v: %s", rec.Code, err, rec.Body)
	}
	if p.Code != code || p.Status != rec.Code || p.Type != "urn:cardkms:error:"+string(code) || p.Title != code.Title() {
		t.Fatalf("want %s, got status %d: %s", code, rec.Code, rec.Body)
	}
	if rec.Header().Get("Content-Type") != "application/problem+json" || p.RequestID == "" || p.RequestID != rec.Header().Get("X-Request-Id") {
		t.Fatalf("headers %v of %s", rec.Header(), rec.Body)
	}
	return p
}

const acme = "/v1/issuers/acme"

// transmit sends one command to the card.
func (w *world) transmit(c []byte) []byte {
	w.t.Helper()
	r, err := w.card.Transmit(c)
	must(w.t, err)
	return r
}

// open opens a channel and returns the card's answer to it.
func (w *world) open() (api.OpenedChannel, []byte) {
	w.t.Helper()
	ch := post[api.OpenedChannel](w, acme+"/channels", api.OpenChannel{Key: "isd", KVN: 0x30})
	return ch, w.transmit(ch.InitializeUpdate)
}

// authenticated opens and authenticates a channel, on both sides.
func (w *world) authenticated() string {
	w.t.Helper()
	ch, response := w.open()
	a := post[api.AuthenticatedChannel](w, acme+"/channels/"+ch.ID+":authenticate", api.Authenticate{Response: response})
	if sw := w.transmit(a.ExternalAuthenticate); !bytes.Equal(sw, []byte{0x90, 0x00}) {
		w.t.Fatalf("EXTERNAL AUTHENTICATE: %X", sw)
	}
	return ch.ID
}

// send wraps one command, gives it to the card and returns what the card sent.
func (w *world) send(channel string, command []byte) []byte {
	w.t.Helper()
	out := post[api.Commands](w, acme+"/channels/"+channel+":wrap", api.Commands{Commands: []api.Hex{command}})
	return w.transmit(out.Commands[0])
}

// image makes an image that the card accepts, and its signed description.
func (w *world) image(name string, size int) (api.RegisterImage, []byte) {
	content := make([]byte, size)
	_, _ = rand.Read(content)
	copy(content, "GOOD")
	seen := update.NewContent()
	_, _ = seen.Write(content)
	m := update.Image{Class: testClass, Component: testISD, From: versionA, To: versionB, Counter: 3}
	seen.Fill(&m)
	sig := ed25519.Sign(w.release, m.Statement())
	return imageOf(kms.Image{Name: name, Meta: m, SignedBy: "release-1", Signature: hex.EncodeToString(sig)}).RegisterImage, content
}

// upload registers an image with its content.
func (w *world) upload(name string, size int) []byte {
	w.t.Helper()
	in, content := w.image(name, size)
	post[api.Image](w, acme+"/images", in)
	rec := w.put(name, content)
	if im := want[api.Image](w, rec); im.State != api.ImageRegistered {
		w.t.Fatalf("state %s", im.State)
	}
	return content
}

func (w *world) put(name string, content []byte) *httptest.ResponseRecorder {
	return w.do(ask{as: uriUpdate, method: http.MethodPut, path: acme + "/images/" + name + "/content", body: content,
		header: map[string]string{"Content-Type": "application/octet-stream"}})
}
