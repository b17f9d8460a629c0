package vault

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
)

// CertificateRequest is what a server certificate is asked for.
type CertificateRequest struct {
	Sign       string // path of the role, pki/sign/ROLE
	CommonName string // a DNS name, which the role makes a subject alternative name too
	IPs        []net.IP
	TTL        time.Duration
}

// ServerCertificate is a certificate with its key, renewed until Close. Both are in memory
// only. It is safe for concurrent use.
type ServerCertificate struct {
	client *Client
	req    CertificateRequest
	now    atomic.Pointer[tls.Certificate]
	// since is when the certificate came: its own beginning lies before that, in case
	// clocks differ. alarmed is the one whose end was announced. Both are owned by keep.
	since   time.Time
	alarmed *tls.Certificate
}

// ServerCertificate has a key signed that never leaves this process, and has the next one
// signed at about two thirds of its life. Vault gives no lease for a certificate.
func (c *Client) ServerCertificate(ctx context.Context, r CertificateRequest) (*ServerCertificate, error) {
	x := &ServerCertificate{client: c, req: r}
	if err := x.renew(ctx); err != nil {
		return nil, err
	}
	c.loops.Go(x.keep)
	return x, nil
}

// Get is a tls.Config's GetCertificate.
func (x *ServerCertificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return x.now.Load(), nil
}

// Expires returns when the certificate ends.
func (x *ServerCertificate) Expires() time.Time { return x.now.Load().Leaf.NotAfter }

// at returns the time when a share of the certificate's life is over.
func (x *ServerCertificate) at(share float64) time.Time {
	return x.since.Add(time.Duration(share * float64(x.Expires().Sub(x.since))))
}

const (
	renewAt = 2. / 3
	alarmAt = 0.8
)

// keep renews the certificate. While Vault is away the old one serves until it ends; from
// alarmAt on, somebody should look.
func (x *ServerCertificate) keep() {
	var failures BackOff
	next := func() time.Duration {
		due := time.Until(x.at(renewAt))
		return max(due-jitter(max(due, 0)/8), 0)
	}
	for pause := next(); x.client.sleep(pause, nil); {
		err := x.renew(x.client.background)
		if err == nil {
			failures, pause = BackOff{}, next()
			x.client.cfg.Logger.Info("new server certificate", slog.Time("expires", x.Expires()))
			continue
		}
		if x.client.background.Err() != nil {
			return
		}
		pause = x.untilRetry(time.Now(), failures.Next())
		x.client.cfg.Logger.Warn("the server certificate could not be renewed; trying again", slog.Time("expires", x.Expires()), slog.Any("error", err))
		if time.Now().After(x.at(alarmAt)) && x.alarmed != x.now.Load() {
			x.alarmed = x.now.Load()
			x.client.cfg.Logger.Error("ALARM: the server certificate ends soon and Vault gives no other", slog.Time("expires", x.Expires()))
		}
	}
}

// untilRetry cuts a pause at the time of the alarm, which a long one would delay.
func (x *ServerCertificate) untilRetry(now time.Time, pause time.Duration) time.Duration {
	if left := x.at(alarmAt).Sub(now); left > 0 {
		return min(pause, left)
	}
	return pause
}

func (x *ServerCertificate) renew(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: x.req.CommonName}, IPAddresses: x.req.IPs,
	}, key)
	if err != nil {
		return err
	}
	var ips []string
	for _, ip := range x.req.IPs {
		ips = append(ips, ip.String())
	}
	var s *api.Secret
	err = x.client.do(ctx, func(ctx context.Context, l *login) (err error) {
		s, err = l.api.Logical().WriteWithContext(ctx, x.req.Sign, map[string]any{
			"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})), "common_name": x.req.CommonName,
			"ip_sans": strings.Join(ips, ","), "ttl": x.req.TTL.String(),
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("having the server certificate signed by Vault: %w", err)
	}
	made, err := chain(s)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(made.Leaf.PublicKey) || !x.names(made.Leaf) {
		return errors.New("vault: the certificate is not the one that was asked for")
	}
	made.PrivateKey = key
	x.since = time.Now()
	x.now.Store(made)
	return nil
}

// names reports whether a certificate is good for every name that was asked for: a role
// may leave some out.
func (x *ServerCertificate) names(leaf *x509.Certificate) bool {
	for _, ip := range x.req.IPs {
		if !slices.ContainsFunc(leaf.IPAddresses, ip.Equal) {
			return false
		}
	}
	return leaf.Subject.CommonName == x.req.CommonName && time.Now().Before(leaf.NotAfter)
}

// chain reads the certificate with those that lead to its authority.
func chain(s *api.Secret) (*tls.Certificate, error) {
	if s == nil {
		return nil, errors.New("vault: no certificate")
	}
	leaf, _ := s.Data["certificate"].(string)
	all := []string{leaf}
	above, _ := s.Data["ca_chain"].([]any)
	for _, a := range above {
		text, _ := a.(string)
		all = append(all, text)
	}
	out := &tls.Certificate{}
	for _, text := range all {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, errors.New("vault: the answer holds no certificate")
		}
		out.Certificate = append(out.Certificate, block.Bytes)
	}
	var err error
	out.Leaf, err = x509.ParseCertificate(out.Certificate[0])
	return out, err
}
