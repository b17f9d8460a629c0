package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/mod/sumdb/note"

	"cardkms/audit"
	"cardkms/audit/witness"
	"cardkms/kms/ledger"
	"cardkms/kms/vault"
)

// transitTimeout bounds each of the three calls for a cosignature, so that they stay
// within the ledger's bound for one witness.
const transitTimeout = 1500 * time.Millisecond

// transitWitnesses returns the witnesses whose keys are Vault's.
func (n *node) transitWitnesses(ctx context.Context, log note.Verifier, logger *slog.Logger) (out []ledger.Witness, err error) {
	for _, w := range n.cfg.Witnesses {
		if w.Kind != transitKind {
			continue
		}
		local, err := n.transitWitness(ctx, w, log, logger)
		if err != nil {
			return nil, fmt.Errorf("witness %s: %w", w.Name, err)
		}
		out = append(out, ledger.Witness{Name: w.Name, Cosigner: local})
	}
	return out, nil
}

func (n *node) transitWitness(ctx context.Context, w witnessConfig, log note.Verifier, logger *slog.Logger) (*witness.Local, error) {
	client := n.cfg.fromVault.client
	mount, name, memory, err := w.transit()
	if err != nil {
		return nil, err
	}
	if w.Key == "" {
		return nil, n.nameKey(ctx, mount, name)
	}
	verifier, err := audit.NewVerifier(w.Key)
	if err != nil {
		return nil, err
	}
	public, err := audit.CosignerPublicKey(verifier)
	if err != nil {
		return nil, err
	}
	key, err := client.Transit(ctx, mount, name, public)
	if err != nil {
		return nil, ofVault(err)
	}
	signer, err := audit.NewRemoteCosigner(verifier.Name(), key.Public(), time.Now, func(message []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(context.Background(), transitTimeout)
		defer cancel()
		return key.Sign(ctx, message)
	})
	if err != nil {
		return nil, err
	}
	s, err := witness.NewServer(witness.Config{
		Memory: &vaultMemory{client: client, ref: memory}, Signer: signer, Logs: []note.Verifier{log}, Logger: logger,
	})
	return &witness.Local{Server: s, Verifier: verifier}, err
}

// nameKey says which verifier key belongs into the configuration.
func (n *node) nameKey(ctx context.Context, mount, name string) error {
	key, err := n.cfg.fromVault.client.Transit(ctx, mount, name, nil)
	if err != nil {
		return ofVault(err)
	}
	vkey, err := audit.CosignerKey(n.cfg.Log.Origin+"/vault", key.Public())
	if err != nil {
		return err
	}
	return fmt.Errorf("compare this with what Vault says of %s/keys/%s, write it as its key, and give it to auditors: %s", mount, name, vkey)
}

// vaultMemory is a witness.Memory of one log: a field of a KV secret, whose version is
// the lock. Owned by the witness's Server, which has one call at a time for a log.
type vaultMemory struct {
	client *vault.Client
	ref    vault.Ref
	seen   int // version that Last returned
}

func (m *vaultMemory) Last(string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), transitTimeout)
	defer cancel()
	kept, version, err := m.client.Read(ctx, m.ref)
	if errors.Is(err, vault.ErrNotFound) {
		m.seen = 0
		return nil, nil
	}
	m.seen = version
	return kept.Reveal(), ofVault(err)
}

func (m *vaultMemory) Remember(_ string, msg []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), transitTimeout)
	defer cancel()
	_, err := m.client.Write(ctx, m.ref, string(msg), m.seen)
	return ofVault(err)
}

// Close does nothing: the client is the node's.
func (m *vaultMemory) Close() error { return nil }
