package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"cardkms/api"
	"cardkms/kms/kmstest"
)

// readyz asks a server whether it is ready, on a connection of its own.
func (s *site) readyz() error {
	c := s.client("operator")
	defer c.Close()
	_, err := c.Ready(s.t.Context())
	return err
}

// until waits until something holds.
func (s *site) until(what string, holds func() bool) {
	s.t.Helper()
	kmstest.Until(s.t, what, holds, s.log.String)
}

// TestShutdown: after SIGTERM /readyz says so while the server still serves; then nobody
// new is served, the request that is under way finishes, and the last checkpoint covers
// every entry.
func TestShutdown(t *testing.T) {
	s := newSite(t)
	s.stop()
	s.configure(func(text string) string { return text + "limits: {drain: 2s}\n" })
	s.serve()
	r := s.recorder()
	content := random(100_000)
	r.post("/images", s.image("cos", content), nil)
	rest, body := io.Pipe()
	status := make(chan int, 1)
	up := s.recorder()
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.url+"/v1/issuers/demo/images/cos/content", rest)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/octet-stream")
		req.Header.Set("Idempotency-Key", "upload")
		resp, err := up.http.Do(req)
		if err != nil {
			t.Error(err)
			status <- 0
			return
		}
		_ = resp.Body.Close()
		status <- resp.StatusCode
	}()
	_, err := body.Write(content[:50_000])
	s.must("", err)
	s.must("", s.server.Process.Signal(syscall.SIGTERM))
	s.until("readyz says that it stops", func() bool {
		var p *api.Problem
		return errors.As(s.readyz(), &p) && p.Status == http.StatusServiceUnavailable && p.Detail == "the service is stopping"
	})
	if !strings.Contains(s.log.String(), `"msg":"stopping"`) {
		t.Error("the log does not say that the server stops")
	}
	r.authenticate(s.card(1, 1024)) // it serves meanwhile
	s.until("the listener closes", func() bool {
		var p *api.Problem
		err := s.readyz()
		return err != nil && !errors.As(err, &p)
	})
	select {
	case got := <-status:
		t.Fatalf("the upload ended too early: %d", got)
	default:
	}
	_, err = io.Copy(body, bytes.NewReader(content[50_000:]))
	s.must("", err)
	s.must("", body.Close())
	if got := <-status; got != http.StatusOK {
		t.Errorf("the upload that was under way: %d", got)
	}
	if err := s.server.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
	s.server = nil
	s.until("the log is read", func() bool { return strings.Contains(s.log.String(), `"msg":"stopped"`) })
	m := regexp.MustCompile(`"msg":"stopped","entries":(\d+),"signed":(\d+)`).FindStringSubmatch(s.log.String())
	if len(m) != 3 || m[1] != m[2] || m[1] == "0" {
		t.Errorf("at the end: %v", m)
	}
}

// TestSealedAtStart: a start that cannot be says which page to read, and whether another
// one may help.
func TestSealedAtStart(t *testing.T) {
	s := newSite(t)
	s.stop()
	for name, c := range map[string]struct {
		change func(string) string
		status int
		page   string
	}{
		"no token":        {func(text string) string { return strings.Replace(text, "label: "+devLabel, "label: another", 1) }, exitTryLater, "hsm-down"},
		"no anchor there": {func(text string) string { return strings.Replace(text, "pin: file:pin", "pin: file:none", 1) }, exitUsage, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var before string
			s.configure(func(text string) string { before = text; return c.change(text) })
			defer s.configure(func(string) string { return before })
			out, err := s.cardkmsd("", "serve", "--config", s.config())
			if got := exitStatus(err); got != c.status || strings.Contains(out, runbooks) != (c.page != "") || !strings.Contains(out, c.page) {
				t.Errorf("%d, want %d and the page %q:\n%s", got, c.status, c.page, out)
			}
		})
	}
	data, older := filepath.Join(s.dir, "data"), filepath.Join(t.TempDir(), "older")
	s.must("", os.CopyFS(older, os.DirFS(data)))
	s.serve()
	s.stop()
	s.must("", os.RemoveAll(data))
	s.must("", os.CopyFS(data, os.DirFS(older)))
	out, err := s.cardkmsd("", "serve", "--config", s.config())
	if got := exitStatus(err); got != exitSealed || !strings.Contains(out, "rollback-detected") {
		t.Errorf("an older database: %d\n%s", got, out)
	}
}

func exitStatus(err error) int {
	var e interface{ ExitCode() int }
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return 0
}
