package main

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"cardkms/audit"
	"cardkms/softhsm"
	"cardkms/softhsm/faulty"
)

// faulty puts a module that can fail in the place of the configuration's.
func (s *site) faulty() *faulty.Module {
	s.t.Helper()
	real, err := softhsm.Module()
	s.must("", err)
	return s.faultyFor(real)
}

func (s *site) faultyFor(real string) *faulty.Module {
	s.t.Helper()
	headers, err := faulty.Headers(s.t.Context())
	s.must("", err)
	module, err := faulty.Build(s.t.Context(), s.t.TempDir(), real, headers)
	s.must("", err)
	s.configure(func(text string) string { return strings.Replace(text, real, module.Path, 1) })
	return module
}

// faultySite serves with a token whose calls can be kept from coming back, and keeps
// anchors in it all the time.
func faultySite(t *testing.T) (*site, *faulty.Module) {
	t.Helper()
	s := newSite(t)
	s.stop()
	module := s.faulty()
	s.configure(func(text string) string {
		return strings.Replace(text, "anchors:\n", "anchors:\n  tokenEvery: 500ms\n", 1)
	})
	s.start()
	return s, module
}

// TestTokenHangs: while calls do not come back from the token, every caller hears 503 and
// when to come again, nothing is served, threads and memory are bounded, and /readyz names
// the runbook. When they come back the same process goes on, and the log holds whatever was
// acknowledged. Once for a call that begins an operation, and once for one that the log
// makes, so that a MAC is all that waits.
func TestTokenHangs(t *testing.T) {
	t.Parallel()
	s, module := faultySite(t)
	card, r, acknowledged := s.card(1, 1024), s.recorder(), 0
	proves := func() bool {
		_, err := s.proves(s.updateServer, card)
		if err == nil {
			acknowledged++
		}
		return err == nil
	}
	if !proves() {
		t.Fatal("a card does not prove itself")
	}
	for _, function := range []string{"C_GenerateRandom", "C_Sign"} {
		t.Run(function, func(t *testing.T) {
			module.Hang(slices.Index(faulty.Functions, function), faulty.Every)
			defer module.Heal()
			const callers = 64
			var all sync.WaitGroup
			for i := range callers {
				all.Go(func() {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/v1/issuers/demo/channels", strings.NewReader(`{"key":"isd"}`))
					if err != nil {
						t.Error(err)
						return
					}
					req.Header.Set("Content-Type", "application/json")
					req.Header.Set("Idempotency-Key", fmt.Sprint(function, i))
					resp, err := r.http.Do(req)
					if err != nil {
						t.Errorf("no answer: %v", err)
						return
					}
					_ = resp.Body.Close()
					if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
						t.Errorf("%s, to be tried again after %q", resp.Status, resp.Header.Get("Retry-After"))
					}
				})
			}
			all.Wait()
			if status, body := s.probe("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, `"state":"hsm-down"`) {
				t.Errorf("readyz: %d %s", status, body)
			}
			if n := s.threads(); n > callers {
				t.Errorf("%d threads", n)
			}
			module.Heal()
			s.until("a card proves itself", proves)
			s.until("it is ready", func() bool { return s.readyz() == nil })
		})
	}
	s.stop()
	proved := 0
	for _, e := range s.entries() {
		if e.Operation == "channel.authenticate" && e.Outcome == audit.OutcomeOK {
			proved++
		}
	}
	if proved < acknowledged {
		t.Errorf("the log has %d of %d authentications that were acknowledged", proved, acknowledged)
	}
}

// TestOneCallHangs: one call that never comes back costs its caller an answer, and nobody
// else more than a moment, although anchors want the token to themselves all the time; once
// for a call that makes an object and once for one that ends one. When all calls hang
// the process still ends when it is told to.
func TestOneCallHangs(t *testing.T) {
	t.Parallel()
	s, module := faultySite(t)
	card := s.card(1, 1024)
	for _, function := range []string{"C_DeriveKey", "C_DestroyObject"} {
		t.Run(function, func(t *testing.T) {
			module.Hang(slices.Index(faulty.Functions, function), 1)
			defer module.Heal()
			for inARow := 0; inARow < 20; inARow++ {
				if _, err := s.proves(s.updateServer, card); err != nil {
					if codeOf(err) == "" {
						t.Fatalf("no answer: %v", err)
					}
					inARow = 0
				}
			}
			before := module.Calls(slices.Index(faulty.Functions, "C_GenerateRandom"))
			s.until("some seconds pass, and cards prove themselves all the time", func() bool {
				if _, err := s.proves(s.updateServer, card); err != nil {
					t.Error(err)
				}
				return module.Calls(slices.Index(faulty.Functions, "C_GenerateRandom"))-before > 100
			})
		})
	}
	module.Hang(slices.Index(faulty.Functions, "C_Sign"), faulty.Every)
	defer module.Heal()
	for range 100 { // until somebody waits for the call
		if _, err := s.proves(s.updateServer, card); err != nil {
			break
		}
	}
	s.stop()
}

// threads returns how many threads the server has.
func (s *site) threads() (n int) {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.server.Process.Pid))
	s.must("", err)
	_, rest, _ := strings.Cut(string(b), "\nThreads:")
	_, err = fmt.Sscan(rest, &n)
	s.must("", err)
	return n
}

// TestStartHangs: a start whose calls do not come back from the token ends, sealed, or when
// it is told to. With the PIN presented it stays instead, and presents it no second time.
func TestStartHangs(t *testing.T) {
	s := newSite(t)
	s.stop()
	module := s.faulty()
	defer module.Heal()
	number := func(function string) int { return slices.Index(faulty.Functions, function) }
	module.Hang(number("C_GetSlotList"), faulty.Every)
	s.launch()
	s.until("it hangs", func() bool { return module.Calls(number("C_GetSlotList")) > 0 })
	s.stop()
	s.env = append(s.env, "CARDKMSD_TEST_CALL_WAIT=200ms")
	out, err := s.cardkmsd("", "serve", "--config", s.config())
	if exitStatus(err) != exitTryLater || !strings.Contains(out, "hsm-down") {
		t.Errorf("exit status %d\n%s", exitStatus(err), out)
	}
	before := module.Calls(number("C_Login"))
	module.Hang(number("C_Login"), faulty.Every)
	s.launch()
	s.until("it is sealed", s.answers("/readyz", http.StatusServiceUnavailable, `"state":"hsm-down"`))
	if n := module.Calls(number("C_Login")) - before; n != 1 {
		t.Errorf("%d logins", n)
	}
	s.stop()
}
