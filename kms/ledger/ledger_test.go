package ledger

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/kms/store"
	"cardkms/kms/store/sqlite"
	"cardkms/kms/store/storetest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const origin = "kms.example.com/audit"

var (
	start    = time.Date(2026, 11, 12, 9, 30, 0, 0, time.UTC)
	testKey  = ed25519.NewKeyFromSeed(make([]byte, 32))
	otherKey = ed25519.NewKeyFromSeed([]byte("another key for the log of tests"))
)

// config returns the configuration of a ledger that signs only when asked.
func config(t testing.TB, s store.Store) Config {
	t.Helper()
	return configFor(t, s, testKey)
}

func configFor(t testing.TB, s store.Store, key ed25519.PrivateKey) Config {
	t.Helper()
	pub := key.Public().(ed25519.PublicKey)
	signer, err := audit.NewSigner(origin, pub, func(msg []byte) ([]byte, error) { return ed25519.Sign(key, msg), nil })
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := audit.VerifierKey(origin, pub)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := audit.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Store: s, MAC: testMAC, Signer: signer, Verifier: verifier, Origin: origin,
		Now: func() time.Time { return start }, CheckpointEvery: -1, GuardEvery: -1}
}

// testMAC stands in for the token's state key.
func testMAC(_ context.Context, message []byte) ([]byte, error) {
	mac := hmac.New(sha256.New, []byte("the state key of tests"))
	mac.Write(message)
	return mac.Sum(nil)[:MACSize], nil
}

func openDir(t testing.TB, dir string) store.Store {
	t.Helper()
	db, err := sqlite.Open(context.Background(), filepath.Join(dir, "cardkms.db"))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func newStore(t testing.TB) *storetest.Faulty {
	t.Helper()
	db := storetest.NewFaulty(openDir(t, t.TempDir()))
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func mustOpen(t testing.TB, cfg Config) *Ledger {
	t.Helper()
	l, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

func entry(request string) audit.Entry {
	return audit.Entry{
		Actor: audit.ActorService, Operation: "card.count", Object: "cards/" + request,
		Request: request, Decision: audit.Allowed, Outcome: audit.OutcomeOK,
	}
}

func ref(id string) store.Ref { return store.Ref{Kind: "card", ID: id} }

// mark is a change that leaves a row and an entry of one name.
func mark(name string) Change {
	return func(tx store.Rows) (audit.Entry, error) {
		return entry(name), tx.Put(store.Row{Ref: ref(name), Version: 1})
	}
}

func mustDo(t testing.TB, l *Ledger, change Change) int64 {
	t.Helper()
	seq, err := l.Do(context.Background(), change)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func marks(t testing.TB, l *Ledger, n int) {
	t.Helper()
	for i := range n {
		mustDo(t, l, mark("r"+strconv.Itoa(i)))
	}
}

func exists(t testing.TB, s store.Store, name string) (found bool) {
	t.Helper()
	err := s.View(context.Background(), func(tx store.Tx) error {
		_, err := tx.Get(ref(name))
		found = err == nil
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// requests returns the request ids of all entries, after checking the whole log
// against its checkpoint as an auditor would.
func requests(t testing.TB, l *Ledger) []string {
	t.Helper()
	ctx := context.Background()
	checkpoint, err := l.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := l.Leaves(ctx, 0, int(l.Size()))
	if err != nil {
		t.Fatal(err)
	}
	log := audit.Log{Origin: origin, Entries: func(yield func([]byte, error) bool) {
		for _, leaf := range leaves {
			if !yield(leaf, nil) {
				return
			}
		}
	}}
	report, err := audit.VerifyLog(checkpoint, l.cfg.Verifier, log)
	if err != nil || report.Entries != l.Size() {
		t.Fatalf("the log does not verify: %v, %+v", err, report)
	}
	entries, err := l.Entries(ctx, 0, int(l.Size()))
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.Request
	}
	return ids
}

func TestDoMakesRowAndEntry(t *testing.T) {
	s := newStore(t)
	l := mustOpen(t, config(t, s))
	for i := range 20 {
		name := fmt.Sprintf("r%d", i)
		if seq := mustDo(t, l, mark(name)); seq != int64(i) {
			t.Errorf("sequence %d, want %d", seq, i)
		}
		if !exists(t, s, name) {
			t.Errorf("row %s is missing", name)
		}
	}
	for i, id := range requests(t, l) {
		if want := fmt.Sprintf("r%d", i); id != want {
			t.Errorf("entry %d is of request %s", i, id)
		}
	}
	entries, err := l.Entries(context.Background(), 3, 1)
	if err != nil || len(entries) != 1 || !entries[0].Time.Equal(start) || entries[0].Sequence != 3 {
		t.Errorf("Entries(3, 1) = %v, %v", entries, err)
	}
}
