package vault

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

// TestUntilRetry: no pause reaches over the time of the alarm, and none is short after it.
func TestUntilRetry(t *testing.T) {
	since := time.Unix(1_800_000_000, 0)
	x := &ServerCertificate{since: since}
	x.now.Store(&tls.Certificate{Leaf: &x509.Certificate{NotAfter: since.Add(100 * time.Second)}})
	for _, c := range []struct{ at, want time.Duration }{
		{70 * time.Second, 10 * time.Second},
		{79 * time.Second, time.Second},
		{80 * time.Second, 30 * time.Second},
		{99 * time.Second, 30 * time.Second},
		{20 * time.Second, 30 * time.Second},
	} {
		if got := x.untilRetry(since.Add(c.at), 30*time.Second); got != c.want {
			t.Errorf("after %s: a pause of %s, want %s", c.at, got, c.want)
		}
	}
}
