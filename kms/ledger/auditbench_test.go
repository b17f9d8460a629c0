//go:build bench

package ledger

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/secret"
	"cardkms/kms/store"
	"cardkms/kms/store/storetest"
	"cardkms/softhsm"
)

// TestBenchAudit measures what an entry costs, in one run: with a MAC made in a
// real token, beside bare inserts of as many bytes, and at growing sizes of the log
// and of the state map. It prints tables and asserts nothing about time.
func TestBenchAudit(t *testing.T) {
	b := &auditBench{t: t}
	b.openToken()
	fmt.Printf("One run on %d CPUs. MAC and checkpoint signature are made in a SoftHSM2 token; a checkpoint every second.\n", runtime.NumCPU())
	fmt.Printf("An entry has %d bytes, a card's row %d. CPU is of this process, the token's included.\n", len(b.encoded()), cardBytes)
	fmt.Println("Not compared with an audit device of another product: no Vault-compatible server at hand.")
	b.beside()
	b.logSizes()
	b.mapSizes()
}

// cardBytes is the size of the body of a card's row.
const cardBytes = 400

// auditBench is the token and the keys of all measurements.
type auditBench struct {
	t     *testing.T
	token *hsm.Token
	state *derive.Key
	log   *hsm.SigningKey
}

func (b *auditBench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *auditBench) encoded() []byte {
	e := benchEntry()
	e.Sequence, e.Time = 1000, start
	leaf, err := e.Encode()
	b.must(err)
	return leaf
}

func (b *auditBench) openToken() {
	ctx, pin := context.Background(), func() secret.Bytes { return secret.New([]byte("648219")) }
	module, err := softhsm.Module()
	b.must(err)
	b.must(os.Unsetenv(softhsm.ConfVariable))
	b.must(softhsm.Use(filepath.Join(b.t.TempDir(), "softhsm")))
	b.must(hsm.Format(module, "bench", secret.New([]byte("7362514890")), pin()))
	b.token, err = hsm.Open(ctx, hsm.Config{Module: module, Label: "bench", PIN: pin()})
	b.must(err)
	b.t.Cleanup(b.token.Close)
	root, err := b.token.Generate(ctx, "state", key.AES256, derive.SessionMAC)
	b.must(err)
	b.state = derive.FromRoot(root)
	b.log, err = b.token.GenerateSigning(ctx, "log", key.P256)
	b.must(err)
}

// config is that of a service, but for the guard, which is measured by itself.
func (b *auditBench) config(s store.Store) Config {
	cfg := configFor(b.t, s, testKey)
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), b.log.Public)
	b.must(err)
	cfg.Signer, err = audit.NewECDSASigner(origin, pub, func(m []byte) ([]byte, error) { return b.log.Sign(context.Background(), m) })
	b.must(err)
	vkey, err := audit.VerifierKey(origin, pub)
	b.must(err)
	cfg.Verifier, err = audit.NewVerifier(vkey)
	b.must(err)
	cfg.MAC = func(ctx context.Context, m []byte) ([]byte, error) { return b.token.MAC(ctx, b.state, m) }
	cfg.Now, cfg.CheckpointEvery = time.Now, 0
	return cfg
}

// benchLedger is one open ledger.
type benchLedger struct {
	*Ledger
	store *storetest.Faulty
	cfg   Config
	dir   string
}

func (b *auditBench) open(dir string) *benchLedger {
	s := storetest.NewFaulty(openDir(b.t, dir))
	cfg := b.config(s)
	l, err := Open(context.Background(), cfg)
	b.must(err)
	return &benchLedger{l, s, cfg, dir}
}

func (b *auditBench) close(l *benchLedger) {
	b.must(l.Close(context.Background()))
	b.must(l.store.Close())
}

// cost is what a number of entries cost.
type cost struct {
	entries, updates int
	wall, cpu        time.Duration
}

func (c cost) rate() float64 { return float64(c.entries) / c.wall.Seconds() }

func (c cost) cpuPerEntry() time.Duration { return c.cpu / time.Duration(max(1, c.entries)) }

func (c cost) group() float64 { return float64(c.entries) / float64(max(1, c.updates)) }

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// run has so many writers call f, n times in all or until the time is over.
func (b *auditBench) run(writers, n int, most time.Duration, updates func() int, f func(writer int) error) cost {
	var done atomic.Int64
	var wg sync.WaitGroup
	began, cpu, before := time.Now(), cpuTime(), updates()
	for w := range writers {
		wg.Go(func() {
			for i := w; i < n && time.Since(began) < most; i += writers {
				if err := f(w); err != nil {
					b.t.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	return cost{int(done.Load()), updates() - before, time.Since(began), cpuTime() - cpu}
}

const (
	forever = time.Hour
	endless = 1 << 40
)

// plain appends an entry.
func (l *benchLedger) plain(int) error {
	e := benchEntry()
	_, err := l.Do(context.Background(), func(store.Rows) (audit.Entry, error) { return e, nil })
	return err
}

// cards are rows that change; each writer has its own.
type cards struct {
	*benchLedger
	each int // cards of a writer
	next [256]int
}

func cardRef(writer, n int) store.Ref {
	return store.Ref{Kind: "card", Issuer: "acme", ID: fmt.Sprintf("%03d-%08d", writer, n)}
}

// change appends an entry and changes one of the writer's cards, or makes it.
func (c *cards) change(writer int) error {
	ref := cardRef(writer, c.next[writer]*7919%c.each)
	c.next[writer]++
	e := benchEntry()
	_, err := c.Do(context.Background(), func(rows store.Rows) (audit.Entry, error) { return e, putCard(rows, ref) })
	return err
}

func putCard(rows store.Rows, ref store.Ref) error {
	row, err := rows.Get(ref)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return rows.Put(store.Row{Ref: ref, Version: row.Version + 1, Body: make([]byte, cardBytes)})
}

// beside compares the ledger with bare inserts at the same number of writers.
func (b *auditBench) beside() {
	const span = 3 * time.Second
	fmt.Println("\nDurable entries on SQLite; one transaction is one fsync (and some more when the WAL is moved into the file).")
	fmt.Println("Bare is a loop that inserts one row of as many bytes for each entry and commits what waits, without anything else.")
	fmt.Printf("%-34s %10s %9s %12s %10s %10s\n", "", "entries/s", "per group", "fsyncs/entry", "CPU/entry", "CPU s")
	for _, rows := range []bool{false, true} {
		for _, writers := range []int{1, 8, 32} {
			l := b.open(b.t.TempDir())
			f, what, bytes := l.plain, "no row", len(b.encoded())
			if rows {
				f, what, bytes = (&cards{benchLedger: l, each: 1000}).change, "one row", bytes+cardBytes
			}
			ours := b.run(writers, endless, span, l.store.Updates, f)
			b.close(l)
			bare := newBareLog(b, bytes)
			theirs := b.run(writers, endless, span, bare.commits, bare.insert)
			bare.close()
			ours.print(fmt.Sprintf("ledger, %2d writers, %s", writers, what))
			theirs.print(fmt.Sprintf("bare,   %2d writers, %d bytes", writers, bytes))
			fmt.Printf("%-34s %10.2f %34s %.2f\n", "  ledger/bare", ours.rate()/theirs.rate(), "CPU", float64(ours.cpuPerEntry())/float64(theirs.cpuPerEntry()))
		}
	}
}

func (c cost) print(what string) {
	fmt.Printf("%-34s %10.0f %9.1f %12.3f %10s %10.2f\n", what, c.rate(), c.group(), 1/c.group(), c.cpuPerEntry().Round(100*time.Nanosecond), c.cpu.Seconds())
}

// bareLog inserts rows into a table and commits them in groups, with the pragmas of
// the store.
type bareLog struct {
	b     *auditBench
	db    *sql.DB
	body  []byte
	queue chan chan error
	ended chan struct{}
	seq   int
	txs   atomic.Int64
	// commit inserts and commits n rows, from seq on.
	commit func(n int) error
}

func newBareLog(b *auditBench, bytes int) *bareLog {
	path := filepath.Join(b.t.TempDir(), "bare.db")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=wal_autocheckpoint(4000)&_txlock=immediate")
	b.must(err)
	db.SetMaxOpenConns(1)
	_, err = db.Exec(`CREATE TABLE bare (seq INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT`)
	b.must(err)
	l := &bareLog{b: b, db: db, body: make([]byte, bytes)}
	l.start(l.insertSQLite)
	return l
}

func (l *bareLog) start(commit func(n int) error) {
	l.commit, l.queue, l.ended = commit, make(chan chan error, QueueMax), make(chan struct{})
	go l.write()
}

func (l *bareLog) commits() int { return int(l.txs.Load()) }

func (l *bareLog) insert(int) error {
	answer := make(chan error, 1)
	l.queue <- answer
	return <-answer
}

func (l *bareLog) close() {
	close(l.queue)
	<-l.ended
	if l.db != nil {
		l.b.must(l.db.Close())
	}
}

func (l *bareLog) write() {
	defer close(l.ended)
	for first := range l.queue {
		group := l.gather([]chan error{first})
		l.txs.Add(1)
		err := l.commit(len(group))
		for _, answer := range group {
			answer <- err
		}
	}
}

// gather waits as the ledger does.
func (l *bareLog) gather(group []chan error) []chan error {
	for len(group) < GroupMax {
		if len(l.queue) == 0 {
			runtime.Gosched()
		}
		select {
		case answer, ok := <-l.queue:
			if !ok {
				return group
			}
			group = append(group, answer)
		default:
			return group
		}
	}
	return group
}

func (l *bareLog) insertSQLite(n int) error {
	tx, err := l.db.Begin()
	if err != nil {
		return err
	}
	stmt, err := tx.Prepare(`INSERT INTO bare (seq, body) VALUES (?, ?)`)
	if err != nil {
		return err
	}
	for range n {
		if _, err := stmt.Exec(l.seq, l.body); err != nil {
			return err
		}
		l.seq++
	}
	return tx.Commit()
}

// sizes of logs and state maps that are measured.
func sizes() []int {
	all := []int{1_000, 100_000, 1_000_000}
	if os.Getenv("CARDKMS_LONG") != "" {
		all = append(all, 10_000_000)
	}
	return all
}

const (
	measured     = 20_000 // entries that are measured at each size
	benchWriters = 32
	buildWriters = 256
)

// logSizes measures one log as it grows.
func (b *auditBench) logSizes() {
	fmt.Printf("\nA log that grows: the next %d entries by %d writers, no rows.\n", measured, benchWriters)
	fmt.Printf("%9s %10s %10s %6s %9s %9s %9s %9s %9s %10s %10s %10s\n", "entries", "entries/s", "CPU/entry", "ratio",
		"open", "scrub", "heap", "inclusion", "growth", "proof", "verify", "verify CPU")
	l, first := b.open(b.t.TempDir()), cost{}
	for _, size := range sizes() {
		b.run(buildWriters, size-int(l.Size()), forever, l.store.Updates, l.plain)
		b.close(l)
		var opened aged
		l, opened = b.reopen(l.dir)
		c := b.run(benchWriters, measured, forever, l.store.Updates, l.plain)
		if first.entries == 0 {
			first = c
		}
		inclusion, growth, hashes := b.proofs(l)
		wall, cpu := b.verify(l)
		fmt.Printf("%9d %10.0f %10s %6.2f %9s %9s %9s %9s %9s %4.1f*32 B %8.0f/s %8.0f/s\n", size, c.rate(), c.cpuPerEntry().Round(100*time.Nanosecond),
			float64(c.cpuPerEntry())/float64(first.cpuPerEntry()), opened.open.Round(time.Millisecond), opened.scrub.Round(time.Millisecond), kibibytes(opened.heap),
			inclusion.Round(time.Microsecond), growth.Round(time.Microsecond), hashes, float64(l.Size())/wall.Seconds(), float64(l.Size())/cpu.Seconds())
	}
	b.close(l)
}

// aged is what it takes to open a ledger of some size.
type aged struct {
	open, scrub time.Duration
	heap        int64
}

func kibibytes(n int64) string { return fmt.Sprintf("%d KiB", n>>10) }

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func (b *auditBench) reopen(dir string) (*benchLedger, aged) {
	before := heapInUse()
	began := time.Now()
	l := b.open(dir)
	a := aged{open: time.Since(began)}
	a.heap = heapInUse() - before
	began = time.Now()
	found, err := l.Scrub(context.Background())
	b.must(err)
	if len(found) > 0 {
		b.t.Fatal(found)
	}
	a.scrub = time.Since(began)
	return l, a
}

// proofs returns the time that a proof takes, and the number of its hashes.
func (b *auditBench) proofs(l *benchLedger) (inclusion, growth time.Duration, hashes float64) {
	const n = 200
	ctx, size, r := context.Background(), l.Size(), rand.New(rand.NewPCG(1, 2))
	began, sum := time.Now(), 0
	for range n {
		proof, err := l.InclusionProof(ctx, r.Int64N(size), size)
		b.must(err)
		sum += len(proof)
	}
	inclusion = time.Since(began) / n
	began = time.Now()
	for range n {
		_, err := l.ConsistencyProof(ctx, 1+r.Int64N(size-1), size)
		b.must(err)
	}
	return inclusion, time.Since(began) / n, float64(sum) / n
}

// verify returns what it takes to verify the whole log from memory.
func (b *auditBench) verify(l *benchLedger) (wall, cpu time.Duration) {
	ctx := context.Background()
	checkpoint, err := l.Checkpoint(ctx)
	b.must(err)
	var leaves [][]byte
	for int64(len(leaves)) < l.Size() {
		page, err := l.Leaves(ctx, int64(len(leaves)), 4096)
		b.must(err)
		leaves = append(leaves, page...)
	}
	began, used := time.Now(), cpuTime()
	report, err := audit.VerifyLog(checkpoint, l.cfg.Verifier, audit.Log{Origin: origin, Entries: func(yield func([]byte, error) bool) {
		for _, leaf := range leaves {
			if !yield(leaf, nil) {
				return
			}
		}
	}})
	b.must(err)
	if report.Entries != l.Size() {
		b.t.Fatalf("%d entries verified", report.Entries)
	}
	return time.Since(began), cpuTime() - used
}

// mapSizes measures one state map as it grows.
func (b *auditBench) mapSizes() {
	fmt.Printf("\nA state map that grows: the next %d entries by %d writers, each with one row changed, evenly over all.\n", measured, benchWriters)
	fmt.Printf("%9s %10s %10s %6s %9s %9s %9s\n", "rows", "entries/s", "CPU/entry", "ratio", "open", "scrub", "heap")
	l, first, have := b.open(b.t.TempDir()), cost{}, 0
	for _, size := range sizes() {
		if size > 1_000_000 {
			break
		}
		have = b.fill(l, have, size/benchWriters)
		b.close(l)
		var opened aged
		l, opened = b.reopen(l.dir)
		c := b.run(benchWriters, measured, forever, l.store.Updates, (&cards{benchLedger: l, each: have}).change)
		if first.entries == 0 {
			first = c
		}
		fmt.Printf("%9d %10.0f %10s %6.2f %9s %9s %9s\n", size, c.rate(), c.cpuPerEntry().Round(100*time.Nanosecond),
			float64(c.cpuPerEntry())/float64(first.cpuPerEntry()), opened.open.Round(time.Millisecond), opened.scrub.Round(time.Millisecond), kibibytes(opened.heap))
	}
	b.close(l)
}

// fill makes cards, until each writer has so many; 50 with each entry.
func (b *auditBench) fill(l *benchLedger, have, want int) int {
	const batch = 50
	var next [benchWriters]int
	b.run(benchWriters, benchWriters*((want-have+batch-1)/batch), forever, l.store.Updates, func(w int) error {
		from := have + next[w]
		next[w] += batch
		e := benchEntry()
		_, err := l.Do(context.Background(), func(rows store.Rows) (audit.Entry, error) {
			for n := from; n < min(from+batch, want); n++ {
				if err := putCard(rows, cardRef(w, n)); err != nil {
					return audit.Entry{}, err
				}
			}
			return e, nil
		})
		return err
	})
	return want
}
