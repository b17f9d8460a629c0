package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cardkms/audit"
	"cardkms/audit/witness"
)

// TestWitnessServes runs a witness as its users do: it cosigns, refuses another
// history, remembers over a restart, and forgets when it is told to.
func TestWitnessServes(t *testing.T) {
	dir := t.TempDir()
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	vkey, err := audit.VerifierKey(logName, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	logKey := filepath.Join(dir, "log.vkey")
	if err := os.WriteFile(logKey, []byte(vkey), 0o600); err != nil {
		t.Fatal(err)
	}
	w := filepath.Join(dir, "w")
	if code, _ := runs(t, "witness", "init", w, "--name", "w"); code != 0 {
		t.Fatal("init failed")
	}
	signer, err := audit.NewSigner(logName, key.Public().(ed25519.PublicKey), func(m []byte) ([]byte, error) { return ed25519.Sign(key, m), nil })
	if err != nil {
		t.Fatal(err)
	}
	checkpoint := func(root string) []byte {
		msg, err := audit.SignCheckpoint(audit.Checkpoint{Origin: logName, Size: 1, Root: audit.LeafHash([]byte(root))}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	c, stop := serveWitness(t, w, logKey)
	if _, err := c.Cosign(t.Context(), 0, nil, checkpoint("a")); err != nil {
		t.Error(err)
	}
	if code, _ := runs(t, "witness", "forget", w, logName, "--yes"); code != exitFailure {
		t.Errorf("forgetting under a server: %d", code)
	}
	stop()
	c, stop = serveWitness(t, w, logKey)
	var size *witness.SizeError
	if _, err := c.Cosign(t.Context(), 1, nil, checkpoint("b")); !errors.As(err, &size) || size.Size != 1 {
		t.Errorf("another history: %v", err)
	}
	stop()
	if code, out := runs(t, "witness", "show", w); code != 0 || !strings.Contains(out, logName+"  1 entries") {
		t.Errorf("%d %s", code, out)
	}
	if code, out := runs(t, "witness", "forget", w, logName, "--yes"); code != 0 {
		t.Errorf("%d %s", code, out)
	}
	c, stop = serveWitness(t, w, logKey)
	defer stop()
	if _, err := c.Cosign(t.Context(), 0, nil, checkpoint("b")); err != nil {
		t.Error(err)
	}
}

func runs(t *testing.T, args ...string) (code int, output string) {
	t.Helper()
	var out strings.Builder
	code = run(t.Context(), args, &out, &out)
	return code, out.String()
}

// serveWitness runs "witness serve" until stop.
func serveWitness(t *testing.T, dir, logKey string) (c *witness.Client, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"witness", "serve", dir, "--listen", "127.0.0.1:0", "--log-key", logKey}, w, io.Discard)
		w.Close()
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v, exit status %d", line, err, <-ended)
	}
	_, url, _ := strings.Cut(strings.TrimSpace(line), "listens on ")
	v, err := readVerifier(filepath.Join(dir, witnessVkeyFile))
	if err != nil {
		t.Fatal(err)
	}
	return &witness.Client{URL: url, Verifier: v}, func() {
		cancel()
		if code := <-ended; code != 0 {
			t.Errorf("the witness ended with exit status %d", code)
		}
	}
}
