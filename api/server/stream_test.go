package server

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"cardkms/api"
	"cardkms/kms/update"
)

// TestUploads checks contents that are not the signed one. The image stays as it
// was and takes the right content afterwards.
func TestUploads(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Limits.ImageBytesMax = 200_000 })
	in, content := w.image("cos-1-1", 150_000)
	refused(t, w.put("cos-1-1", content), api.NotFound)
	post[api.Image](w, acme+"/images", in)
	flipped := bytes.Clone(content)
	flipped[70_000] ^= 1
	refused(t, w.put("cos-1-1", flipped), api.ImageUnverified)
	refused(t, w.put("cos-1-1", content[:149_999]), api.ImageUnverified)
	refused(t, w.put("cos-1-1", append(bytes.Clone(content), 0)), api.ImageUnverified)
	refused(t, w.put("cos-1-1", nil), api.ImageUnverified)
	text := w.do(ask{as: uriUpdate, method: http.MethodPut, path: acme + "/images/cos-1-1/content", body: content})
	refused(t, text, api.InvalidInput)
	if text.Code != http.StatusUnsupportedMediaType {
		t.Errorf("JSON as content: %d", text.Code)
	}
	refused(t, w.put("cos-1-1", make([]byte, 200_001)), api.TooLarge)
	if im := want[api.Image](w, w.put("cos-1-1", content)); im.State != api.ImageRegistered {
		t.Errorf("%+v", im)
	}
	refused(t, w.put("cos-1-1", content), api.Conflict)
	ch := w.authenticated()
	refused(t, w.do(ask{as: uriUpdate, method: http.MethodPost, path: acme + "/packages", key: newKey(),
		body: api.CreatePackage{Channel: ch, Image: "cos-none", Status: api.Hex{0x90, 0}}}), api.NotFound)
}

// TestSlowReader checks the limit where the client does not say the length.
func TestSlowReader(t *testing.T) {
	for _, c := range []struct {
		size, limit int64
		exceeded    bool
	}{{10, 10, false}, {11, 10, true}, {9, 10, false}, {0, 10, false}} {
		r := &slowReader{r: iotest.OneByteReader(bytes.NewReader(make([]byte, c.size))), left: c.limit, conn: http.NewResponseController(nil)}
		n, err := io.Copy(io.Discard, r)
		if r.exceeded != c.exceeded || n != min(c.size, c.limit) || (err != nil) != c.exceeded {
			t.Errorf("%+v: %d %v %v", c, n, r.exceeded, err)
		}
	}
}

// newPackage makes a package of an image for the card.
func (w *world) newPackage(name string) api.Package {
	w.t.Helper()
	ch := w.authenticated()
	status := w.send(ch, update.GetStatus().Bytes())
	return post[api.Package](w, acme+"/packages", api.CreatePackage{Channel: ch, Image: name, UpdateKey: "upd", KVN: 0x5A, Status: status})
}

// TestDownload streams chunks, and takes them up in the middle.
func TestDownload(t *testing.T) {
	w := newWorld(t)
	w.upload("cos-1-1", 100_000)
	p := w.newPackage("cos-1-1")
	ca := newAuthority(t)
	c := dial(t, ca, w.listen(ca), ca.leaf(t, x509.ExtKeyUsageClientAuth, uriUpdate))
	var all, rest bytes.Buffer
	n, err := c.DownloadChunks(t.Context(), "acme", p.ID, 1, &all)
	must(t, err)
	_, err = c.DownloadChunks(t.Context(), "acme", p.ID, p.Chunks, &rest)
	must(t, err)
	if int64(all.Len()) != n || all.Len() < 100_000 || !bytes.HasSuffix(all.Bytes(), rest.Bytes()) || rest.Bytes()[0] != 0xE3 {
		t.Errorf("%d bytes, the last chunk %d", all.Len(), rest.Len())
	}
	var p2 *api.Problem
	if _, err := c.DownloadChunks(t.Context(), "acme", p.ID, p.Chunks+1, &all); !errors.As(err, &p2) || p2.Code != api.InvalidInput {
		t.Errorf("past the end: %v", err)
	}
}

// TestBrokenDownload makes the token fail in the middle: the client must not take
// the part for the whole.
func TestBrokenDownload(t *testing.T) {
	w := newWorld(t)
	w.upload("cos-1-1", 200_000)
	p := w.newPackage("cos-1-1")
	w.token.failAfter = w.token.calls + 2000
	ca := newAuthority(t)
	c := dial(t, ca, w.listen(ca), ca.leaf(t, x509.ExtKeyUsageClientAuth, uriUpdate))
	var out bytes.Buffer
	if n, err := c.DownloadChunks(t.Context(), "acme", p.ID, 1, &out); err == nil || n == 0 {
		t.Errorf("%d bytes and %v", n, err)
	}
	if log := w.log.String(); !strings.Contains(log, `"code":"token_unavailable"`) {
		t.Errorf("the access log does not tell: %s", log)
	}
}

// TestTokenLost checks what callers and probes see of a token that is gone.
func TestTokenLost(t *testing.T) {
	w := newWorld(t)
	w.token.failAfter = 1
	_, _ = w.token.Random(context.Background(), 1)
	rec := w.do(ask{as: uriUpdate, method: http.MethodPost, path: acme + "/channels", key: newKey(), body: api.OpenChannel{Key: "isd"}})
	refused(t, rec, api.TokenUnavailable)
	if rec.Header().Get("Retry-After") != "1" {
		t.Errorf("%v", rec.Header())
	}
	ready := w.do(ask{method: http.MethodGet, path: "/readyz"})
	p := refused(t, ready, api.TokenUnavailable)
	if len(p.Sealed) != 1 || p.Sealed[0] != (api.Sealed{State: "hsm-down", Runbook: "deploy/runbooks/hsm-down.md"}) {
		t.Errorf("readyz says %+v", p.Sealed)
	}
	if rec := w.do(ask{method: http.MethodGet, path: "/healthz"}); rec.Code != http.StatusOK {
		t.Errorf("healthz: %d", rec.Code)
	}
}
