//go:build bench

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms"
	"cardkms/kms/channel"
	"cardkms/kms/key"
	"cardkms/kms/ledger"
)

// nullVariable makes the test binary a node whose token is Go's own AES in its process,
// with this master in hexadecimal, so that what a token costs is out of a figure. The rest
// is what cardkmsd serves with: TLS, API, service, log and database.
const nullVariable = "CARDKMSD_TEST_NULL"

func init() {
	master, err := hex.DecodeString(os.Getenv(nullVariable))
	if err != nil || len(master) == 0 {
		return
	}
	if err := serveNull(os.Args[len(os.Args)-1], master); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitFailure)
	}
	os.Exit(0)
}

// nullToken is a token without PKCS#11.
type nullToken struct{ derivetest.Token }

func (*nullToken) Random(_ context.Context, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := rand.Read(b)
	return b, err
}

func (*nullToken) Taken(context.Context, string) (bool, error) { return false, nil }

// Make gives the value that Add was told.
func (t *nullToken) Make(_ context.Context, label string, a key.Algorithm, c derive.Class, _ key.Part) (derive.Root, error) {
	root := derive.Root{Label: label, Algorithm: a, Class: c}
	root.KCV = derivetest.KCV(a, t.Value(derive.FromRoot(root)))
	return root, nil
}

func serveNull(path string, master []byte) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg, err := load(path)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	token := &nullToken{}
	pseudonym := token.Add("pseudonym", key.AES256, derive.SessionMAC, bytes.Repeat([]byte{1}, 32))
	state := token.Add("state", key.AES256, derive.SessionMAC, bytes.Repeat([]byte{2}, 32))
	token.Add(key.ID{Issuer: devIssuer, Name: "isd", Version: 1}.Label(key.Master), key.AES256, derive.Static, master)

	n := &node{cfg: cfg, metrics: newMetrics()}
	if n.lock, err = lockDir(cfg.path(cfg.Data)); err != nil {
		return err
	}
	if n.store, err = openStore(ctx, cfg); err != nil {
		return err
	}
	defer n.store.Close()
	if n.log, err = openNullLog(ctx, n, token, state, logger); err != nil {
		return err
	}
	defer n.log.Close(context.WithoutCancel(ctx))
	n.service, err = kms.New(kms.Config{
		Token: token, Store: n.store, Log: n.log, Pseudonym: pseudonym, Registry: state, Issuers: cfg.issuers(), Node: cfg.Node,
		Holder: func(string) (kms.Holder, error) { return struct{ kms.Holder }{}, nil }, // nobody looks into it
		Limits: channel.DefaultLimits(), ChannelsMax: cfg.Limits.Channels, Now: time.Now, Logger: logger, Observer: n.metrics.observed,
	})
	if err != nil {
		return err
	}
	defer n.service.Close()
	if n.log.Size() == 0 {
		if err := firstNull(ctx, n.service, token); err != nil {
			return err
		}
	}
	f, err := newFront(cfg, n, &traces{}, logger)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return err
	}
	logger.Info("serving")
	go func() { <-ctx.Done(); _ = f.http.Close() }()
	_ = f.http.ServeTLS(l, "", "")
	return nil
}

func openNullLog(ctx context.Context, n *node, token *nullToken, state *derive.Key, logger *slog.Logger) (*ledger.Ledger, error) {
	priv := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	signer, err := audit.NewSigner(devOrigin, priv.Public().(ed25519.PublicKey), func(m []byte) ([]byte, error) { return ed25519.Sign(priv, m), nil })
	if err != nil {
		return nil, err
	}
	vkey, err := audit.VerifierKey(devOrigin, priv.Public())
	if err != nil {
		return nil, err
	}
	verifier, err := audit.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	return ledger.Open(ctx, ledger.Config{
		Store: n.store, Signer: signer, Verifier: verifier, Origin: devOrigin, Now: time.Now, Logger: logger, Node: n.cfg.Node,
		MAC:     func(ctx context.Context, m []byte) ([]byte, error) { return token.MAC(ctx, state, m) },
		Anchors: []ledger.Anchor{{Name: "file", Keeper: ledger.File{Path: n.cfg.path(n.cfg.Anchors.File)}}},
		OnGroup: n.metrics.group,
	})
}

// firstNull makes the key and the profile that the first node finds nothing of.
func firstNull(ctx context.Context, s *kms.Service, token *nullToken) error {
	_, err := s.LoadKey(ctx, "bench", kms.NewKey{
		Issuer: devIssuer, Name: "isd", Usage: key.GPSCP03, Algorithm: key.AES256, CardAlgorithm: key.AES128,
		Diversification: diversify.KDF3, KVN: 0x30,
	}, token)
	if err != nil {
		return err
	}
	_, document, _ := strings.Cut(devProfiles, "document: |\n")
	_, err = s.LoadProfile(ctx, "bench", kms.NewProfile{Issuer: devIssuer, Document: strings.ReplaceAll(document, "      ", "")})
	return err
}
