package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cardkms/api"
	"cardkms/audit"
	"cardkms/derive"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/kmstest"
	"cardkms/softhsm"
	"cardkms/softhsm/faulty"
	"cardkms/softhsm/testtoken"
)

const furtherPIN = "271828"

// further makes a second SoftHSM2 token and an NSS database for a set-up, and returns
// where they are kept.
func (s *site) further() (second string, nss hsm.Config, database string) {
	s.t.Helper()
	tokens := filepath.Join(s.dir, "softhsm", "tokens")
	before, err := filepath.Glob(filepath.Join(tokens, "*"))
	s.must("", err)
	s.plant("softhsm2-util", "--init-token", "--free", "--label", "second", "--so-pin", "31415926", "--pin", furtherPIN)
	after, err := filepath.Glob(filepath.Join(tokens, "*"))
	s.must("", err)
	for _, dir := range after {
		if !strings.Contains(strings.Join(before, "\n"), dir) {
			second = dir
		}
	}
	database = filepath.Join(s.dir, "nss")
	nss, err = testtoken.NSSConfig(database)
	s.must("", err)
	s.must("", os.WriteFile(filepath.Join(s.dir, "second.pin"), []byte(furtherPIN), 0o600))
	s.must("", os.WriteFile(filepath.Join(s.dir, "nss.pin"), nss.PIN.Reveal(), 0o600))
	return second, nss, database
}

// newTokenSite is a set-up with three tokens, each with a master of its own name and of
// one value, so that one card serves for all, and with a newer version of the first
// master in the second token.
func newTokenSite(t *testing.T) (s *site, second, database string) {
	s = newSite(t)
	s.stop()
	second, nss, database := s.further()
	module, err := softhsm.Module()
	s.must("", err)
	f, err := os.OpenFile(s.config(), os.O_APPEND|os.O_WRONLY, 0)
	s.must("", err)
	_, err = fmt.Fprintf(f, "tokens:\n  second: {module: %s, softhsm: softhsm, label: second, pin: 'file:second.pin'}\n  nss: {module: %s, initArgs: %q, label: %q, pin: 'file:nss.pin'}\n",
		module, nss.Module, nss.InitArgs, nss.Label)
	s.must("", errors.Join(err, f.Close()))
	var y yamlKeys
	for _, k := range []struct{ name, kvn, token string }{{"in-second", "30", "second"}, {"in-nss", "30", "nss"}, {"isd", "31", "second"}} {
		before := len(y.text)
		y.components(k.name, "gp-scp03", k.kvn, s.master)
		y.text = y.text[:before] + strings.Replace(y.text[before:], "{issuer", "{token: "+k.token+", issuer", 1)
	}
	s.must(s.cardkmsd(y.stdin, "ceremony", "run", "--yes", s.ceremony("further", "together: true\nkeys:\n"+y.text)))
	s.updateServer = s.client("update-server")
	return s, second, database
}

// opens runs mutual authentication of a card under a key by raw requests, without the
// client's second attempts, and returns the channel and the last status.
func (r *recorder) opens(key string, n uint32) (channel string, status int) {
	r.s.t.Helper()
	card := r.s.card(n, 1024)
	var o api.OpenedChannel
	if status = r.post("/channels", api.OpenChannel{Key: key}, &o); status != http.StatusCreated {
		return "", status
	}
	answer, err := card.Transmit(o.InitializeUpdate)
	r.s.must("", err)
	var a api.AuthenticatedChannel
	if status = r.post("/channels/"+o.ID+":authenticate", api.Authenticate{Response: answer}, &a); status != http.StatusOK {
		return "", status
	}
	if sw, err := card.Transmit(a.ExternalAuthenticate); err != nil || fmt.Sprintf("%X", sw) != "9000" {
		r.s.t.Errorf("EXTERNAL AUTHENTICATE under %s: %X, %v", key, sw, err)
	}
	return o.ID, status
}

// servesBut looks which keys serve and what /readyz says of the tokens that do not.
func (r *recorder) servesBut(when string, n uint32, away ...string) {
	s := r.s
	s.t.Helper()
	for token, key := range map[string]string{"main": "isd", "second": "in-second", "nss": "in-nss"} {
		want := http.StatusOK
		if slices.Contains(away, token) {
			want = http.StatusServiceUnavailable
		}
		if _, status := r.opens(key, n); status != want {
			s.t.Errorf("%s, the key in %s: %d, want %d", when, token, status, want)
		}
	}
	h := s.healthUntil(when, func(api.Health) bool { return true })
	if want := map[bool]string{true: "ready", false: "degraded"}[len(away) == 0]; h.Status != want {
		s.t.Errorf("%s: %+v, want %s", when, h, want)
	}
}

// healthUntil waits until /readyz is as it should be.
func (s *site) healthUntil(what string, is func(api.Health) bool) (h api.Health) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	for {
		h, err := s.updateServer.Ready(ctx)
		if err != nil {
			s.t.Fatalf("%s: %v; last seen %+v\n%s", what, err, h, s.log)
		}
		if len(h.Tokens) == 3 && h.Tokens[0].Name == "main" && is(h) {
			return h
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func state(name, state string) func(api.Health) bool {
	return func(h api.Health) bool {
		for _, t := range h.Tokens {
			if t.Name == name {
				return t.State == state
			}
		}
		return false
	}
}

// TestSeveralTokens runs one service on two tokens of SoftHSM2 and one of NSS. One that is
// taken away, or is not there at the start, takes its own keys out of service and nothing
// else, and serves again when it is back, without a restart.
func TestSeveralTokens(t *testing.T) {
	t.Parallel()
	s, second, database := newTokenSite(t)
	s.serve()
	for _, name := range []string{"main", "second", "nss"} {
		if !strings.Contains(s.log.String(), `"msg":"token","name":"`+name+`"`) {
			t.Errorf("the log does not say what the token %s can do", name)
		}
	}
	r := s.recorder()
	r.servesBut("at first", 1)
	keys, err := s.client("security-officer").Keys(t.Context(), "demo")
	s.must("", err)
	where := map[string]string{}
	for _, k := range keys {
		where[k.Name] = k.Token
	}
	if where["issuers/demo/keys/in-nss/versions/1"] != "nss" || where["issuers/demo/keys/isd/versions/2"] != "second" || where["issuers/demo/keys/isd/versions/1"] != "" {
		t.Errorf("the keys are in %v", where)
	}

	parked := filepath.Join(s.dir, "parked")
	s.must("", os.Rename(second, parked))
	s.healthUntil("the second token goes", state("second", "unavailable"))
	r.servesBut("without the second token", 2, "second")
	s.must("", os.Rename(parked, second))
	s.healthUntil("the second token comes back", state("second", "ready"))
	r.servesBut("with the second token again", 3)

	s.stop()
	s.must("", os.Rename(database, parked))
	s.serve()
	r.servesBut("started without NSS", 4, "nss")
	s.must("", os.Rename(parked, database))
	s.healthUntil("NSS comes", state("nss", "ready"))
	r.servesBut("with NSS", 5)
	if n := strings.Count(s.log.String(), `"msg":"a token does not serve","token":"nss"`); n != 1 {
		t.Errorf("the log tells %d times that NSS does not serve", n)
	}
	s.stop()
	if e := s.last("token.serve"); e.Object != "tokens/nss" || e.Detail["kdf"] != "native" {
		t.Errorf("the log says of the last token %+v", e)
	}
}

// TestPutKeyAcrossTokens: a card whose new keys are in another token than its own is not
// moved, and neither the card's row nor its channel changes.
func TestPutKeyAcrossTokens(t *testing.T) {
	s, _, _ := newTokenSite(t)
	s.serve()
	channel, _ := s.recorder().opens("isd", 7)
	var p *api.Problem
	if _, err := s.updateServer.ChangeKeys(t.Context(), "demo", channel); !errors.As(err, &p) || p.Code != api.TokenUnable || !strings.Contains(p.Detail, "another token") {
		t.Errorf("PUT KEY across tokens: %v", err)
	}
	c, err := s.updateServer.Card(t.Context(), "demo", fmt.Sprintf("%020X", 7))
	if err != nil || c.Move != nil || c.Quarantined {
		t.Errorf("the card is %+v (%v)", c, err)
	}
}

// TestFurtherTokenRefusesItsPIN: the PIN is presented once, however long the service runs;
// its keys do not serve, the others do.
func TestFurtherTokenRefusesItsPIN(t *testing.T) {
	t.Parallel()
	s, _, _ := newTokenSite(t)
	s.must("", os.WriteFile(filepath.Join(s.dir, "second.pin"), []byte("wrong-pin-of-second"), 0o600))
	s.serve()
	h := s.healthUntil("a wrong PIN", state("second", "unavailable"))
	if detail := fmt.Sprint(h.Tokens); !strings.Contains(detail, "refused its PIN") || strings.Contains(detail, "wrong-pin-of-second") {
		t.Errorf("readyz says %s", detail)
	}
	time.Sleep(2*tokensEvery + time.Second) // it would be tried again in this time
	s.recorder().servesBut("with a token that refused its PIN", 1, "second")
	if n := strings.Count(s.log.String(), `"msg":"a token does not serve","token":"second","for good":true`); n != 1 || strings.Contains(s.log.String(), "wrong-pin-of-second") {
		t.Errorf("the log tells %d times of a refused PIN:\n%s", n, s.log)
	}
}

// TestFurtherTokenHangs: a token that does not answer to its PIN is not given it again, even
// when the call came back; its keys do not serve, the others do.
func TestFurtherTokenHangs(t *testing.T) {
	s, _, _ := newTokenSite(t)
	config, err := os.ReadFile(s.config())
	s.must("", err)
	_, nss, _ := strings.Cut(string(config), "nss: {module: ")
	nss, _, _ = strings.Cut(nss, ",")
	module, login := s.faultyFor(nss), slices.Index(faulty.Functions, "C_Login")
	defer module.Heal()
	module.Hang(login, 1)
	s.env = append(s.env, "CARDKMSD_TEST_CALL_WAIT=500ms")
	s.serve()
	h := s.healthUntil("a login that hangs", state("nss", "unavailable"))
	if detail := fmt.Sprint(h.Tokens); !strings.Contains(detail, "did not answer to its PIN") {
		t.Errorf("readyz says %s", detail)
	}
	module.Heal()
	time.Sleep(2*tokensEvery + time.Second) // it would be tried again in this time
	s.recorder().servesBut("with a token that did not answer to its PIN", 1, "nss")
	if n := module.Calls(login); n != 1 {
		t.Errorf("%d logins", n)
	}
}

// TestFurtherTokenWithAPlantedKey: an object in a further token that is a way to the others
// keeps that token out, for good.
func TestFurtherTokenWithAPlantedKey(t *testing.T) {
	s, _, _ := newTokenSite(t)
	planted := filepath.Join(s.dir, "planted.pem")
	s.plant("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", planted)
	s.plant("softhsm2-util", "--import", planted, "--token", "second", "--label", "planted", "--id", "A1", "--pin", furtherPIN)
	s.serve()
	s.recorder().servesBut("with a planted key", 1, "second")
	if !strings.Contains(s.log.String(), "planted") {
		t.Errorf("the log does not name the planted key:\n%s", s.log)
	}
}

// TestKeyInAnUnknownToken: a configuration that lost a token whose keys the database knows
// does not start.
func TestKeyInAnUnknownToken(t *testing.T) {
	s, _, _ := newTokenSite(t)
	b, err := os.ReadFile(s.config())
	s.must("", err)
	text, _, _ := strings.Cut(string(b), "tokens:\n")
	s.must("", os.WriteFile(s.config(), []byte(text), 0o600))
	if out, err := s.cardkmsd("", "serve", "--config", s.config()); err == nil || !strings.Contains(out, "no tokens.") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestProbeConfiguration: each token of a configuration has its table, with a reason for
// what it cannot do, and one that is not there keeps no other from being probed.
func TestProbeConfiguration(t *testing.T) {
	s, second, _ := newTokenSite(t)
	s.must("", os.Rename(second, filepath.Join(s.dir, "parked")))
	out, err := s.cardkmsd("", "probe", "--config", s.config())
	if err == nil {
		t.Error("a token that is not there does not show in the exit status")
	}
	main, rest, ok := strings.Cut(out, "tokens.nss: ")
	nss, gone, ok2 := strings.Cut(rest, "tokens.second: ")
	if !ok || !ok2 || !strings.HasPrefix(main, "token: ") {
		t.Fatalf("the tables are\n%s", out)
	}
	row := func(table, operation string) string {
		_, rest, _ := strings.Cut(table, operation)
		row, _, _ := strings.Cut(rest, "\n")
		return row
	}
	for _, operation := range []string{"SCP11 key derivation", "exclusive or with a key"} {
		if !strings.Contains(row(main, operation), "NO: token_unable") || !strings.Contains(row(main, operation), "CKR_MECHANISM_INVALID") {
			t.Errorf("SoftHSM2, %s:%s", operation, row(main, operation))
		}
		if strings.Contains(row(nss, operation), "NO") || !strings.Contains(row(nss, operation), "CKM_") {
			t.Errorf("NSS, %s:%s", operation, row(nss, operation))
		}
	}
	if !strings.Contains(row(nss, "AES-CMAC key derivation"), "native") || !strings.Contains(row(main, "AES-CMAC key derivation"), "composed") {
		t.Error("the plans are not told apart")
	}
	if !strings.Contains(nss, " 0 failed") || !strings.Contains(main, " 0 failed") || !strings.Contains(gone, "NO: ") {
		t.Errorf("the known answers:\n%s", out)
	}
}

// TestCapabilityWords: every capability has a word of its own that an entry takes, with
// room for what else the entry says.
func TestCapabilityWords(t *testing.T) {
	token, cleanup, err := probeToken(t.Context(), probeFlags{})
	if err != nil {
		t.Fatal(err)
	}
	defer cleanup()
	var words []string
	for _, c := range token.Capabilities() {
		if c.Word == "" || slices.Contains(words, c.Word) {
			t.Errorf("%q is called %q", c.Operation, c.Word)
		}
		words = append(words, c.Word)
	}
	found := said(token, "", slog.New(slog.DiscardHandler))
	if found["derive_aes"] != "yes" || found["wrap_aes192"] == "" || found["kdf"] == "" || len(found) != len(words)+1 {
		t.Errorf("%v", found)
	}
	found["pin_version"] = "7"
	e := audit.Entry{Time: time.Now(), Actor: audit.ActorService, Operation: "service.start", Decision: audit.Allowed, Outcome: audit.OutcomeOK, Detail: found}
	if _, err := e.Encode(); err != nil {
		t.Error(err)
	}
}

// TestStartWhileDestroying: a version whose destruction broke off, of which one object is there
// and another has gone, keeps no token from serving, and what is left of it is not foreign.
func TestStartWhileDestroying(t *testing.T) {
	noError := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := testtoken.NSSConfig(filepath.Join(t.TempDir(), "nss"))
	noError(err)
	tok, err := hsm.Open(t.Context(), cfg)
	noError(err)
	defer tok.Close()
	v := key.Version{ID: key.ID{Issuer: "demo", Name: "isd", Version: 1}, Algorithm: key.AES128, KCVs: map[key.Part]key.KCV{key.Master: {Method: key.KCVGPAES}, "gone": {}}}
	_, err = tok.Generate(t.Context(), v.ID.Label(key.Master), key.AES128, derive.Static)
	noError(err)
	n, log := &node{cfg: &config{}}, new(kmstest.Log)
	logger := slog.New(slog.NewTextHandler(log, nil))
	if err := n.verifyToken(t.Context(), "", tok, []key.Version{v}, logger); err == nil {
		t.Error("a version without its objects was not noticed")
	}
	v.Destroying = true
	noError(n.verifyToken(t.Context(), "", tok, []key.Version{v}, logger))
	if strings.Contains(log.String(), "not ours") {
		t.Errorf("what is left is foreign:\n%s", log)
	}
}
