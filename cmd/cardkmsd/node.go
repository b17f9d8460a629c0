package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/sumdb/note"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/kms"
	"cardkms/kms/channel"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/ledger"
	"cardkms/kms/store"
	"cardkms/kms/store/postgres"
	"cardkms/kms/store/sqlite"
	"cardkms/kms/tokens"
)

// node is everything that a configuration opens.
type node struct {
	cfg     *config
	lock    *os.File
	token   *hsm.Token              // the main one
	tokens  *tokens.Set[*hsm.Token] // all of them
	store   store.Store
	log     *ledger.Ledger
	service *kms.Service

	metrics  *metrics
	suspects suspects
	serves   bool // a server, not a ceremony; set before tokens are tended
	// ownsVault: the login at Vault is this node's, and not that of who opened it.
	ownsVault bool
}

var errSoftHSM = errors.New("SoftHSM2 keeps keys in files that anybody with their PIN can copy; it serves only with development: true")

// open opens a node, in the order in which one part needs another. What was
// opened is closed again when a later part fails.
func open(ctx context.Context, cfg *config, logger *slog.Logger) (n *node, err error) {
	return openRestoring(ctx, cfg, logger, nil)
}

// openRestoring is open that may accept an older database.
func openRestoring(ctx context.Context, cfg *config, logger *slog.Logger, restore *ledger.Restoration) (n *node, err error) {
	n = &node{cfg: cfg, metrics: newMetrics()}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.lock, err = lockDir(cfg.path(cfg.Data)); err != nil {
		return n, err
	}
	n.ownsVault = cfg.fromVault == nil
	if err := cfg.openVault(ctx, logger); err != nil {
		return n, err
	}
	// The database first: waiting for it presents the PIN to no token.
	if n.store, err = openStore(ctx, cfg); err != nil {
		return n, err
	}
	if err := n.openTokens(ctx, logger); err != nil {
		return n, err
	}
	if n.log, err = n.openLog(ctx, logger, restore); err != nil {
		return n, err
	}
	if n.service, err = newService(n, logger); err != nil {
		return n, err
	}
	n.suspects.serve(n.service)
	return n, nil
}

// openStore opens the database that the configuration names.
func openStore(ctx context.Context, cfg *config) (store.Store, error) {
	if cfg.Database.URL == "" {
		db, err := sqlite.Open(ctx, filepath.Join(cfg.path(cfg.Data), "cardkms.db"))
		if err != nil {
			return nil, err // not a nil *DB in an interface
		}
		return db, nil
	}
	if cfg.Database.Credentials != "" {
		user, err := cfg.databaseUser(ctx)
		if err != nil {
			return nil, err
		}
		db, err := openPostgres(ctx, cfg, user.Credentials)
		if err != nil {
			return nil, err
		}
		user.OnChange(db.Renew)
		return db, nil
	}
	credentials, err := cfg.databaseCredentials()
	if err != nil {
		return nil, fmt.Errorf("database.password: %w", err)
	}
	db, err := openPostgres(ctx, cfg, credentials)
	if err != nil {
		return nil, err
	}
	return db, nil
}

func openPostgres(ctx context.Context, cfg *config, credentials postgres.Credentials) (*postgres.DB, error) {
	return postgres.Open(ctx, postgres.Config{URL: cfg.Database.URL, Credentials: credentials, Connections: cfg.Database.Connections})
}

// databaseCredentials returns what a connection logs in with; no function where the
// database asks for no password.
func (c *config) databaseCredentials() (postgres.Credentials, error) {
	if c.Database.Password == "" {
		return nil, nil
	}
	password, err := c.resolve(c.Database.Password)
	if err != nil {
		return nil, err
	}
	return func(context.Context) (user, pass string, err error) { return "", string(password.Reveal()), nil }, nil
}

// lockDir holds the data directory for one process. A second one would append to
// the same log.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another cardkmsd uses %s; stop it first", dir)
	}
	return f, nil
}

func (n *node) openLog(ctx context.Context, logger *slog.Logger, restore *ledger.Restoration) (*ledger.Ledger, error) {
	verifier, err := audit.NewVerifier(n.cfg.Log.Verifier)
	if err != nil {
		return nil, fmt.Errorf("log.verifier: %w", err)
	}
	k, err := n.token.Signing(ctx, n.cfg.Log.Label)
	if err != nil {
		return nil, fmt.Errorf("finding the log's signing key: %w", err)
	}
	signer, err := logSigner(n.cfg.Log.Origin, k)
	if err != nil {
		return nil, err
	}
	if signer.KeyHash() != verifier.KeyHash() {
		return nil, errors.New("the token's log key is not the one that log.verifier names")
	}
	state, err := n.cfg.Token.State.root()
	if err != nil {
		return nil, fmt.Errorf("token.state: %w", err)
	}
	stateKey := derive.FromRoot(state)
	witnesses, err := n.cfg.witnesses()
	if err != nil {
		return nil, err
	}
	ofVault, err := n.transitWitnesses(ctx, verifier, logger)
	if err != nil {
		return nil, err
	}
	anchors, err := n.anchors()
	if err != nil {
		return nil, err
	}
	return ledger.Open(ctx, ledger.Config{
		Store: n.store, Signer: signer, Verifier: verifier, Origin: n.cfg.Log.Origin, Now: time.Now, Logger: logger,
		MAC:        func(ctx context.Context, m []byte) ([]byte, error) { return n.token.MAC(ctx, stateKey, m) },
		Extensions: n.cfg.extensions(), Node: n.cfg.Node,
		Anchors: anchors, Witnesses: append(witnesses, ofVault...), Disk: n.cfg.disk(),
		OnViolation: n.suspects.add, OnGroup: n.metrics.group, Restore: restore, Elapsed: func() time.Duration { return time.Since(processStart) },
	})
}

// processStart has a monotonic reading, which nobody sets.
var processStart = time.Now()

// anchors returns where checkpoints are kept outside the database. The directory of the file
// is nobody's to make but the operator's: one that is missing may be a disk that is not
// there, and with it what shows an older database.
func (n *node) anchors() ([]ledger.Anchor, error) {
	file := n.cfg.path(n.cfg.Anchors.File)
	if i, err := os.Stat(filepath.Dir(file)); err != nil || !i.IsDir() {
		return nil, errUsage{fmt.Errorf("anchors.file: there is no directory %s; make it, for the user of the service alone (mode 0700)", filepath.Dir(file))}
	}
	out := []ledger.Anchor{{Name: "file", Keeper: ledger.File{Path: file}}}
	if l := n.cfg.Anchors.Token; l != "" {
		out = append(out, ledger.Anchor{Name: "token", Keeper: n.token.Anchor(l), Every: n.cfg.Anchors.TokenEvery})
	}
	return out, nil
}

// signTimeout bounds the signature of a checkpoint, which no request waits for.
const signTimeout = 10 * time.Second

// logSigner makes a note signer of a key that stays in the token.
func logSigner(name string, k *hsm.SigningKey) (note.Signer, error) {
	sign := func(b []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
		defer cancel()
		return k.Sign(ctx, b)
	}
	if k.Algorithm == key.Ed25519 {
		return audit.NewSigner(name, ed25519.PublicKey(k.Public), sign)
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k.Public)
	if err != nil {
		return nil, fmt.Errorf("reading the log's public key: %w", err)
	}
	return audit.NewECDSASigner(name, pub, sign)
}

// logVerifier returns the verifier key for a signing key.
func logVerifier(name string, k *hsm.SigningKey) (string, error) {
	if k.Algorithm == key.Ed25519 {
		return audit.VerifierKey(name, ed25519.PublicKey(k.Public))
	}
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k.Public)
	if err != nil {
		return "", fmt.Errorf("reading the log's public key: %w", err)
	}
	return audit.VerifierKey(name, pub)
}

func (r keyRef) root() (derive.Root, error) {
	method, value, ok := strings.Cut(r.KCV, ":")
	if !ok {
		return derive.Root{}, errors.New("the kcv of a service key is METHOD:VALUE")
	}
	return derive.Root{
		Label: r.Label, Algorithm: key.AES256, Class: derive.SessionMAC,
		KCV: key.KCV{Method: key.KCVMethod(method), Value: value},
	}, nil
}

func newService(n *node, logger *slog.Logger) (*kms.Service, error) {
	pseudonym, err := n.cfg.Token.Pseudonym.root()
	if err != nil {
		return nil, err
	}
	state, err := n.cfg.Token.State.root()
	if err != nil {
		return nil, err
	}
	release, err := n.cfg.releaseKeys()
	if err != nil {
		return nil, err
	}
	clients, err := n.cfg.clients()
	if err != nil {
		return nil, err
	}
	l := n.cfg.Limits
	return kms.New(kms.Config{
		Issuers: n.cfg.issuers(), Clients: clients, ServiceKeys: n.cfg.serviceKeys(), Node: n.cfg.Node,
		Tokens: n.tokens.Names(), Holder: func(name string) (kms.Holder, error) { return n.tokens.Get(name) },
		Token: tracedTokens{n.tokens}, Logging: tracedLog, Store: n.store, Log: n.log, Pseudonym: derive.FromRoot(pseudonym),
		// The state key protects what the database holds: rows by MACs, cards by names and seals.
		Registry:     derive.FromRoot(state),
		Experimental: n.cfg.Experimental,
		ReleaseKeys:  release, ChannelsMax: l.Channels, Now: time.Now, Logger: logger, Observer: n.metrics.observed,
		Limits: channel.Limits{AnswerWithin: l.AnswerWithin, Idle: l.Idle, Absolute: l.Absolute, PendingMax: channel.DefaultLimits().PendingMax},
	})
}

// close closes in the opposite order. Channels end, the log signs a last
// checkpoint, and the token forgets its session keys.
func (n *node) close() {
	n.suspects.wait()
	if n.service != nil {
		n.service.Close()
	}
	if n.log != nil {
		ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
		defer cancel()
		_ = n.log.Close(ctx)
	}
	if n.store != nil {
		_ = n.store.Close()
	}
	if n.tokens != nil {
		n.tokens.Close()
	}
	if n.ownsVault {
		n.cfg.closeVault()
	}
	if n.lock != nil {
		_ = n.lock.Close()
	}
}
