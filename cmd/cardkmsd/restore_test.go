package main

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"cardkms/audit"
	"cardkms/audit/tiles"
	"cardkms/kms/approval"
	"cardkms/kms/ledger"
	"cardkms/kms/store"
	"cardkms/kms/store/sqlite"
)

// prunedLog is a log whose first entries are in an exported directory only.
type prunedLog struct {
	t        *testing.T
	signer   note.Signer
	verifier note.Verifier
	vkey     string
	officers map[string]ed25519.PrivateKey
}

const prunedOrigin = "example.org/audit"

func newPrunedLog(t *testing.T) *prunedLog {
	p := &prunedLog{t: t, officers: map[string]ed25519.PrivateKey{}}
	private := ed25519.NewKeyFromSeed(make([]byte, 32))
	var err error
	p.signer, err = audit.NewSigner(prunedOrigin, private.Public().(ed25519.PublicKey), func(m []byte) ([]byte, error) { return ed25519.Sign(private, m), nil })
	p.must(err)
	p.vkey, err = audit.VerifierKey(prunedOrigin, private.Public().(ed25519.PublicKey))
	p.must(err)
	p.verifier, err = audit.NewVerifier(p.vkey)
	p.must(err)
	for _, name := range []string{"ada", "bob", "cyd"} {
		p.officers[name] = ed25519.NewKeyFromSeed([]byte(strings.Repeat(name, 11)[:32]))
	}
	return p
}

func (p *prunedLog) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// open returns a ledger with the first officers and n more entries, which say what.
func (p *prunedLog) open(n int, what string) *ledger.Ledger {
	ctx := context.Background()
	db, err := sqlite.Open(ctx, filepath.Join(p.t.TempDir(), "cardkms.db"))
	p.must(err)
	l, err := ledger.Open(ctx, ledger.Config{
		Store: db, Signer: p.signer, Verifier: p.verifier, Origin: prunedOrigin, CheckpointEvery: -1, GuardEvery: -1,
		MAC: func(_ context.Context, m []byte) ([]byte, error) {
			mac := hmac.New(sha256.New, []byte("state"))
			mac.Write(m)
			return mac.Sum(nil)[:16], nil
		},
	})
	p.must(err)
	p.t.Cleanup(func() { _, _ = l.Close(ctx), db.Close() })
	var first []approval.Officer
	for _, name := range []string{"ada", "bob", "cyd"} {
		first = append(first, approval.Officer{Name: name, Identity: devDomain + devOfficerPath + name, Public: p.officers[name].Public().(ed25519.PublicKey), State: approval.Active})
	}
	p.tell(l, "officer.init", approval.FirstDetail(first, 2))
	for i := range n {
		p.tell(l, "test.mark", map[string]string{what: fmt.Sprint(i)})
	}
	return l
}

func (p *prunedLog) tell(l *ledger.Ledger, operation string, detail map[string]string) {
	_, err := l.Do(context.Background(), func(store.Rows) (audit.Entry, error) {
		return audit.Entry{Actor: audit.ActorService, Operation: operation, Decision: audit.Allowed, Outcome: audit.OutcomeOK, Detail: detail}, nil
	})
	p.must(err)
}

// export writes a log as far as it is.
func (p *prunedLog) export(l *ledger.Ledger) (dir string) {
	ctx := context.Background()
	checkpoint, err := l.Checkpoint(ctx)
	p.must(err)
	leaves, err := l.Leaves(ctx, 0, int(l.Size()))
	p.must(err)
	dir = p.t.TempDir()
	_, err = tiles.Write(dir, p.verifier, tiles.Source{Checkpoint: checkpoint, Entries: func(from int64) iter.Seq2[[]byte, error] {
		return func(yield func([]byte, error) bool) {
			for _, b := range leaves[from:] {
				if !yield(b, nil) {
					return
				}
			}
		}
	}})
	p.must(err)
	return dir
}

// gap returns the step back to what the ledger has.
func (p *prunedLog) gap(l *ledger.Ledger) ledger.Gap {
	note, err := l.Checkpoint(context.Background())
	p.must(err)
	c, err := audit.OpenCheckpoint(note, prunedOrigin, p.verifier)
	p.must(err)
	return ledger.Gap{From: audit.Checkpoint{Origin: prunedOrigin, Size: c.Size + 7}, To: c}
}

// TestRestorePrunedLog: what the database lost by pruning comes from the exported
// directories, if they are of this log; they may be older or newer than the database.
func TestRestorePrunedLog(t *testing.T) {
	ctx, p := context.Background(), newPrunedLog(t)
	l := p.open(300, "n")
	older := p.export(l)
	p.tell(l, "test.mark", nil)
	newer := p.export(l)
	_, err := l.Empty(ctx, 256, audit.Entry{Actor: audit.ActorService, Operation: "log.prune", Decision: audit.Allowed, Outcome: audit.OutcomeOK})
	p.must(err)
	other := p.export(p.open(300, "m"))
	g := p.gap(l)
	r := &restorer{file: "restoration", cfg: &config{Log: logConfig{Origin: prunedOrigin, Verifier: p.vkey}}, reason: "x"}
	for name, c := range map[string]struct {
		dirs []string
		want string
	}{
		"no directory": {nil, "exported directories only"}, "of another log": {[]string{other}, "another log"}, "not there": {[]string{"/nowhere"}, "file does not exist"},
	} {
		r.dirs = c.dirs
		if _, err := r.replay(ctx, l, g); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	x := r.restoration(g)
	statement, err := x.Statement()
	p.must(err)
	signed := approval.Signatures{"ada": ed25519.Sign(p.officers["ada"], statement), "cyd": ed25519.Sign(p.officers["cyd"], statement)}
	for _, dir := range []string{older, newer} {
		r.dirs = []string{dir}
		replay, err := r.replay(ctx, l, g)
		p.must(err)
		if names, err := replay.Restores(x, signed, time.Now()); err != nil || fmt.Sprint(names) != "[ada cyd]" {
			t.Errorf("%v, %v", names, err)
		}
	}
	short := g // an export that goes on after what the database was put back to
	short.To = audit.Checkpoint{Origin: prunedOrigin, Size: 200}
	r.dirs = []string{newer}
	if _, err := r.replay(ctx, l, short); err == nil || !strings.Contains(err.Error(), "another log") {
		t.Errorf("another root: %v", err)
	}
}

// TestSecretsAreReadOnce: an environment variable is gone after the first reading, and
// still serves the second opening of the token.
func TestSecretsAreReadOnce(t *testing.T) {
	t.Setenv("CARDKMSD_TEST_PIN", "1234")
	c := &config{dir: t.TempDir()}
	file := filepath.Join(c.dir, "pin")
	if err := os.WriteFile(file, []byte("5678\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for ref, want := range map[string]string{"env:CARDKMSD_TEST_PIN": "1234", "file:pin": "5678", "file:" + file: "5678"} {
			if got, err := c.resolve(ref); err != nil || string(got.Reveal()) != want {
				t.Errorf("%s: %v", ref, err)
			}
		}
		_ = os.Remove(file)
	}
	if _, ok := os.LookupEnv("CARDKMSD_TEST_PIN"); ok {
		t.Error("the variable is still there")
	}
	if _, err := c.resolve("1234"); err == nil {
		t.Error("a value for a reference")
	}
}
