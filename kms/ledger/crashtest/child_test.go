// Package crashtest stops the ledger at every place where it changes a file, and
// looks with other eyes at what is left.
//
// It has three suites. Each runs the ledger in a process of its own, on SQLite and
// a file anchor:
//
//	TestCrash  the process is killed at each system call by which it changes a
//	           file, or that call, or one that reads, fails with EIO or ENOSPC;
//	           strace(1) makes the fault
//	TestKill   the process is killed at a random moment under load
//	TestPower  the power fails: what was written and not synchronised is lost, in
//	           part or in whole
//
// After each fault the checker in auditor_test.go reads the database with plain
// SQL and the log with package audit, as an auditor would. It shares no code with
// the ledger. Then the ledger must open again without help. TestCanary has the
// suites find bugs that were made on purpose.
//
// The default suite takes a sample; CARDKMS_CRASH=1 (`make audit-crash`) runs all.
//
// It leaves out faults of the token, of a network and of PostgreSQL, writes that
// are torn by a fault without loss of power, and faults that come after the effect
// of a call with an error returned, which strace cannot make.
package crashtest

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/kms/ledger"
	"cardkms/kms/store"
	"cardkms/kms/store/sqlite"

	"golang.org/x/mod/sumdb/note"
)

// childVariable makes the test binary run one of the children below.
const childVariable = "CARDKMS_CRASH_CHILD"

// The main goroutine of a child makes all its system calls on files. strace counts
// the calls of each thread by themselves, so the n-th call is the same one in every
// run only if one thread makes them all.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	switch os.Getenv(childVariable) {
	case "":
		os.Exit(m.Run())
	case "script": // its acknowledgements do not wait for the main thread
		os.Exit(onMain(func(main funnel) int { return (&child{dir: os.Args[1], main: main}).script() }))
	case "ordered": // they are made by it, in their order among the other calls
		os.Exit(onMain(func(main funnel) int { return (&child{dir: os.Args[1], main: main, out: main}).script() }))
	case "load":
		os.Exit((&child{dir: os.Args[1]}).load(os.Args[2]))
	}
	os.Exit(2)
}

// onMain runs f in another goroutine, and here what f sends through the funnel.
func onMain(f func(funnel) int) int {
	main, ended := make(funnel), make(chan int, 1)
	go func() { ended <- f(main) }()
	for {
		select {
		case g := <-main:
			g()
		case code := <-ended:
			return code
		}
	}
}

// funnel has functions run on one thread, one after the other; a nil funnel runs
// them where they are called.
type funnel chan func()

func (f funnel) run(g func()) {
	if f == nil {
		g()
		return
	}
	done := make(chan struct{})
	f <- func() { defer close(done); g() }
	<-done
}

// mainStore is a Store whose calls go through a funnel.
type mainStore struct {
	store.Store
	main funnel
}

func (s mainStore) Update(ctx context.Context, f func(store.Tx) error) (err error) {
	s.main.run(func() { err = s.Store.Update(ctx, f) })
	return err
}

func (s mainStore) View(ctx context.Context, f func(store.Tx) error) (err error) {
	s.main.run(func() { err = s.Store.View(ctx, f) })
	return err
}

func (s mainStore) Close() (err error) {
	s.main.run(func() { err = s.Store.Close() })
	return err
}

// mainFile is a file anchor whose calls go through a funnel.
type mainFile struct {
	ledger.File
	main funnel
}

func (k mainFile) Newest(ctx context.Context) (kept [][]byte, err error) {
	k.main.run(func() { kept, err = k.File.Newest(ctx) })
	return kept, err
}

func (k mainFile) Keep(ctx context.Context, checkpoint []byte) (err error) {
	k.main.run(func() { err = k.File.Keep(ctx, checkpoint) })
	return err
}

const (
	origin       = "kms.example.com/audit"
	databaseName = "cardkms.db"
	anchorName   = "anchor"
)

var logKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

func keys() (note.Signer, note.Verifier) {
	pub := logKey.Public().(ed25519.PublicKey)
	signer, err := audit.NewSigner(origin, pub, func(m []byte) ([]byte, error) { return ed25519.Sign(logKey, m), nil })
	if err != nil {
		panic(err)
	}
	vkey, err := audit.VerifierKey(origin, pub)
	if err != nil {
		panic(err)
	}
	verifier, err := audit.NewVerifier(vkey)
	if err != nil {
		panic(err)
	}
	return signer, verifier
}

// mac stands in for the token's state key.
func mac(_ context.Context, message []byte) ([]byte, error) {
	m := hmac.New(sha256.New, []byte("the state key of tests"))
	m.Write(message)
	return m.Sum(nil)[:ledger.MACSize], nil
}

// service is a ledger with the store below it.
type service struct {
	*ledger.Ledger
	store store.Store
}

// open opens the ledger of a data directory. It signs only when asked.
func open(dir string, main funnel) (s *service, err error) {
	ctx := context.Background()
	var db *sqlite.DB
	main.run(func() { db, err = sqlite.Open(ctx, filepath.Join(dir, databaseName)) })
	if err != nil {
		return nil, err
	}
	st := mainStore{db, main}
	signer, verifier := keys()
	anchor := mainFile{ledger.File{Path: filepath.Join(dir, anchorName)}, main}
	l, err := ledger.Open(ctx, ledger.Config{
		Store: st, MAC: mac, Signer: signer, Verifier: verifier, Origin: origin, Now: time.Now,
		CheckpointEvery: -1, GuardEvery: -1, Anchors: []ledger.Anchor{{Name: "file", Keeper: anchor}},
	})
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return &service{l, st}, nil
}

func (s *service) close() error {
	return errors.Join(s.Close(context.Background()), s.store.Close())
}
