package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cardkms/api"
	"cardkms/kms/approval"
	"cardkms/softhsm/cardsim"
)

// decides has ada propose and execute what bob and cyd sign.
func (s *site) decides(in api.Propose) {
	s.t.Helper()
	ctx := context.Background()
	ada := s.client("security-officer")
	in.Issuer = "demo"
	p, err := ada.Propose(ctx, in)
	s.must("", err)
	for _, n := range []string{"bob", "cyd"} {
		_, err := s.client("security-officer-"+n).Approve(ctx, p.ID, s.signed(n, p, approval.Approve))
		s.must("", err)
	}
	if p, err = ada.Execute(ctx, p.ID); err != nil || p.State != api.ProposalExecuted {
		s.t.Fatalf("%s: %s, %v", in.Operation, p.State, err)
	}
}

func (s *site) ecPair() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.must("", err)
	return k
}

func (s *site) certified(name string, public crypto.PublicKey, ca bool, signer *ecdsa.PrivateKey) string {
	s.t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, Issuer: pkix.Name{CommonName: "ca"}, BasicConstraintsValid: true, IsCA: ca,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}}, public, signer)
	s.must("", err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// agreedProfile registers a profile of SCP11.
func (s *site) agreedProfile(protocol, trusted, host string) {
	s.t.Helper()
	text := "name: " + protocol + "\nprotocol: " + protocol + "\nlevel: \"33\"\nkeys: {algorithm: ec-p256, kvn: {from: \"01\", to: \"01\"}}\ncertificates:\n  trusted: |\n    " +
		strings.ReplaceAll(trusted, "\n", "\n    ") + "\n"
	if host != "" {
		text += "  host: |\n    " + strings.ReplaceAll(host, "\n", "\n    ") + "\n  authority: {kvn: \"02\", kid: \"10\"}\n"
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	s.decides(api.Propose{Operation: "profile.register", Object: "issuers/demo/profiles/" + protocol, Params: map[string]string{"sha256": sum}, Document: text})
}

// TestAgreedChannels: with the real programs, officers have a pair made in the token that
// derives inside, certify what "key public" prints, and a card of SCP11a is served by the
// command line; the main token is SoftHSM2, which does not, and says so.
func TestAgreedChannels(t *testing.T) {
	s, _, _ := newTokenSite(t)
	s.serve()
	hostCA, cardCA, own := s.ecPair(), s.ecPair(), s.ecPair()
	private, err := own.ECDH()
	s.must("", err)
	trusted := s.certified("ca", cardCA.Public(), true, cardCA)
	pairs := api.Propose{Operation: "key.create", Object: "issuers/demo/keys/oce/versions/1",
		Params: map[string]string{"usage": "gp-scp11", "algorithm": "ec-p256", "cryptoperiod_days": "30", "token": "nss"}}
	s.decides(pairs)
	s.decides(api.Propose{Operation: "key.activate", Object: pairs.Object})
	path := programs(t)
	cardkms := func(want int, args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(path, "cardkms"), args...)
		cmd.Env = append(os.Environ(), "CARDKMS_SERVER="+s.url, "CARDKMS_TLS="+filepath.Join(s.dir, "tls"))
		out, err := cmd.CombinedOutput()
		if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended || cmd.ProcessState.ExitCode() != want {
			t.Fatalf("%v: %v\n%s\n%s", args, err, out, s.log)
		}
		return string(out)
	}
	block, _ := pem.Decode([]byte(cardkms(0, "key", "public", "oce", "1", "--as", "security-officer")))
	if block == nil {
		t.Fatal("no PEM")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	s.must("", err)
	s.agreedProfile("scp11a", trusted, s.certified("oce", public, false, hostCA))
	s.agreedProfile("scp11b", trusted, "")
	time.Sleep(1100 * time.Millisecond) // until the service reads the keys again

	aes := make([]byte, 16)
	card, err := cardsim.New(cardsim.Config{
		ISD: isdAID, I: 0x70, KeySets: []cardsim.KeySet{{KVN: 0x30, ENC: aes, MAC: aes, DEK: aes}},
		Agreed: cardsim.AgreedKeys{KVN: 1, Private: private, HostCA: &hostCA.PublicKey, HostKVN: 2, HostKID: 0x10},
	}, nil)
	s.must("", err)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	s.must("", err)
	go func() { _ = (&cardsim.Server{Card: card}).Serve(t.Context(), l) }()
	file := filepath.Join(t.TempDir(), "card.pem")
	s.must("", os.WriteFile(file, []byte(s.certified("card", own.Public(), false, cardCA)), 0o600))
	in := []string{"channel", "run", "--card", "tcp:" + l.Addr().String(), "--certificates", file}
	out := cardkms(0, append(in, "--card-profile", "scp11a", "--key", "oce", "80CA9F7F00")...)
	if !strings.Contains(out, fmt.Sprintf("%X", "CARDSIM")) || !strings.HasSuffix(strings.TrimSpace(out), "9000") {
		t.Errorf("the card says %s", out)
	}
	s.stop()
	s.serve() // which looks at every object of every token
	cardkms(0, append(in, "--card-profile", "scp11a", "--key", "oce", "80CA9F7F00")...)
	out = cardkms(1, append(in, "--card-profile", "scp11b", "80CA9F7F00")...)
	if !strings.Contains(out, "CKM_CONCATENATE_BASE_AND_KEY") || !strings.Contains(out, string(api.TokenUnable)) {
		t.Errorf("SoftHSM2 is not the reason: %s", out)
	}
	var problem *api.Problem
	_, err = s.updateServer.OpenChannel(t.Context(), "demo", api.OpenChannel{Profile: "scp11b", Certificates: []api.Hex{pemBytes(t, file)}})
	if !errors.As(err, &problem) || problem.Code != api.TokenUnable {
		t.Errorf("over REST: %v", err)
	}
	if e := s.last("channel.authenticate"); e.Outcome != "ok" || e.Key != pairs.Object || e.Card == "" {
		t.Errorf("%+v", e)
	}
}

func pemBytes(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	return block.Bytes
}
