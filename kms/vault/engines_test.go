package vault_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cardkms/kms/store/postgres/throwaway"
	"cardkms/kms/vault"
)

func (w *world) sql(c *throwaway.Cluster, statement string) string {
	w.t.Helper()
	out, err := c.SQL(context.Background(), "postgres", statement)
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

const users = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"

func (w *world) credentials(ttl, most string) (*vault.Database, *atomic.Int64) {
	w.t.Helper()
	w.Write("database/roles/cardkms", map[string]any{"default_ttl": ttl, "max_ttl": most})
	w.open()
	d, err := w.client.Database(context.Background(), "database/creds/cardkms")
	if err != nil {
		w.t.Fatal(err)
	}
	changes := &atomic.Int64{}
	d.OnChange(func() { changes.Add(1) })
	return d, changes
}

// TestDatabaseRenewal: a lease is renewed as long as it may be, then replaced; what Close
// revokes takes the users with it.
func TestDatabaseRenewal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.Database()
	d, changes := w.credentials("6s", "1h")
	first, password, err := d.Credentials(context.Background())
	if err != nil || first == "" || password == "" {
		t.Fatal(err)
	}
	before := d.Expires()
	w.until("three lives are over", func() bool { return d.Expires().Sub(before) > 18*time.Second })
	if user, _, _ := d.Credentials(context.Background()); user != first || changes.Load() != 1 {
		t.Errorf("the user %s became %s", first, user)
	}
	w.Revoke() // the user dies with the token
	w.until("another user", func() bool { return changes.Load() == 2 })
	if user, _, _ := d.Credentials(context.Background()); user == first {
		t.Error("the user is the same")
	}
	w.close()
	w.until("no user is left", func() bool { return w.sql(c, users) == "0" })
	if strings.Contains(w.log.String(), password) {
		t.Error("the log holds a password")
	}
}

// TestDatabaseMaxTTL: one that may not live longer is replaced before it ends.
func TestDatabaseMaxTTL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Database()
	d, changes := w.credentials("8s", "12s")
	w.until("two replacements", func() bool {
		if time.Now().After(d.Expires()) {
			t.Fatal("the credentials ended")
		}
		return changes.Load() >= 3
	})
}

// TestLeastPrivilege: the policies give the lease of this role and no other.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Database()
	w.Write("database/roles/other", map[string]any{"db_name": "cardkms", "creation_statements": `CREATE ROLE "{{name}}"`})
	d, _ := w.credentials("1h", "2h")
	for _, path := range []string{"database/creds/other", "database/config/cardkms", "sys/leases/lookup"} {
		if _, err := w.client.Database(context.Background(), path); err == nil {
			t.Errorf("%s is open to the node", path)
		}
	}
	if d.Expires().IsZero() {
		t.Error("no end")
	}
}

func (w *world) serverCertificate(ttl time.Duration) *vault.ServerCertificate {
	w.t.Helper()
	x, err := w.client.ServerCertificate(context.Background(), vault.CertificateRequest{
		Sign: "pki/sign/cardkms", CommonName: "localhost", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, TTL: ttl,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

// TestCertificate: renewed while somebody serves with it; the old one serves on while
// Vault is away, with an alarm before its end.
func TestCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "Certificate")
	w.open()
	x := w.serverCertificate(6 * time.Second)
	serial := func() string {
		t.Helper()
		got, err := x.Get(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		if err := got.Leaf.VerifyHostname("127.0.0.1"); err != nil || got.Leaf.VerifyHostname("localhost") != nil || len(got.Certificate) != 2 {
			t.Fatalf("names %v %v, %d certificates", got.Leaf.DNSNames, err, len(got.Certificate))
		}
		return got.Leaf.SerialNumber.String()
	}
	first := serial()
	w.until("another certificate", func() bool { return serial() != first && time.Now().Before(x.Expires()) })
	w.Kill()
	last := serial()
	w.until("the alarm", func() bool { return strings.Contains(w.log.String(), "ALARM") })
	if serial() != last {
		t.Error("the old one does not serve on")
	}
	w.Start()
	w.until("another certificate", func() bool { return serial() != last })
	if n := strings.Count(w.log.String(), "ALARM"); n != 1 {
		t.Errorf("%d alarms", n)
	}
	if len(w.List("pki/certs")) > 1 {
		t.Errorf("Vault keeps the certificates: %v", w.List("pki/certs"))
	}
	if _, err := w.client.ServerCertificate(context.Background(), vault.CertificateRequest{Sign: "pki/sign/cardkms", CommonName: "bank.example", TTL: time.Hour}); err == nil {
		t.Error("a certificate for another name")
	}
}

// TestTransit: what Transit signs verifies with the public key alone, the audit device has
// a line for it, and a key that was rotated still signs with the version that is meant.
func TestTransit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN", "Witness")
	w.open()
	ctx := context.Background()
	k, err := w.client.Transit(ctx, "transit", "cardkms-witness", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write("transit/keys/cardkms-witness/rotate", nil)
	if k, err = w.client.Transit(ctx, "transit", "cardkms-witness", k.Public()); err != nil {
		t.Fatal(err)
	}
	message := []byte("cosignature/v1\ntime 1\nhead\n")
	sig, err := k.Sign(ctx, message)
	if err != nil || !ed25519.Verify(k.Public(), message, sig) {
		t.Errorf("the signature does not verify: %v", err)
	}
	newest, err := w.client.Transit(ctx, "transit", "cardkms-witness", nil)
	if err != nil || newest.Public().Equal(k.Public()) {
		t.Errorf("the newest version: %v", err)
	}
	audited, err := os.ReadFile(w.AuditFile())
	if err != nil || !strings.Contains(string(audited), w.AuditHash(base64.StdEncoding.EncodeToString(message))) {
		t.Errorf("the audit device has no line for it: %v", err)
	}
	if _, err := w.client.Transit(ctx, "transit", "cardkms-witness", make([]byte, 32)); err == nil {
		t.Error("a key of somebody else")
	}
}

// TestWrite: of two writers that saw the same version one writes.
func TestWrite(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "PIN", "Witness")
	w.open()
	ctx, ref := context.Background(), vault.Ref{Mount: "kv", Path: "cardkms/witness", Field: "checkpoint"}
	one, err := w.client.Write(ctx, ref, "first", 0)
	if err != nil || one != 1 {
		t.Fatalf("version %d, %v", one, err)
	}
	if _, err := w.client.Write(ctx, ref, "fork", 0); err == nil {
		t.Error("the first version was written twice")
	}
	if two, err := w.client.Write(ctx, ref, "second", one); err != nil || two != 2 {
		t.Errorf("version %d, %v", two, err)
	}
	got, version, err := w.client.Read(ctx, ref)
	if err != nil || string(got.Reveal()) != "second" || version != 2 {
		t.Errorf("%q, version %d, %v", got.Reveal(), version, err)
	}
}
