package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"cardkms/kms/store"
	"cardkms/kms/store/postgres"
	"cardkms/kms/store/postgres/throwaway"
)

func newCluster(t testing.TB) *throwaway.Cluster {
	t.Helper()
	c, err := throwaway.Start(context.Background())
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

func openPostgres(t testing.TB, url string) store.Store {
	t.Helper()
	db, err := postgres.Open(context.Background(), postgres.Config{URL: url})
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	return db
}

// TestPostgresNodes is TestNodes over the database that real nodes share.
func TestPostgresNodes(t *testing.T) {
	c := newCluster(t)
	all, stores := nodesOf(t, 3, func() store.Store { return openPostgres(t, c.URL("postgres")) })
	workTogether(t, all, stores)
}

// wire stands between a ledger and its server, and cuts connections at a COMMIT: before
// the server has it, or when it has answered.
type wire struct {
	t      *testing.T
	socket string
	cut    atomic.Int32 // what happens at the next COMMIT
	cuts   atomic.Int32
}

const (
	cutNever int32 = iota
	cutBefore
	cutAfter
)

// listen returns the URL of the database behind the wire.
func (w *wire) listen(c *throwaway.Cluster) string {
	w.t.Helper()
	w.socket = filepath.Join(c.Dir(), ".s.PGSQL.5432")
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(w.t, err)
	var serving sync.WaitGroup
	w.t.Cleanup(func() { must(w.t, l.Close()); serving.Wait() })
	serving.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { w.serve(client) })
		}
	})
	return tcpURL(l.Addr().String())
}

func tcpURL(address string) string {
	return (&url.URL{Scheme: "postgres", User: url.User("cardkms"), Host: address, Path: "/postgres", RawQuery: "sslmode=disable"}).String()
}

// serve forwards both ways. A COMMIT travels alone: the client waits for its answer.
func (w *wire) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", w.socket)
	if err != nil {
		return
	}
	defer server.Close()
	var lose atomic.Bool // the next answer of the server
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if err != nil {
				_ = server.Close()
				return
			}
			if bytes.Contains(buf[:n], []byte("COMMIT\x00")) {
				switch w.cut.Swap(cutNever) {
				case cutBefore:
					w.cuts.Add(1)
					_ = server.Close()
					_ = client.Close()
					return
				case cutAfter:
					lose.Store(true)
				}
			}
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if lose.Load() {
			w.cuts.Add(1)
			return
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

// TestPostgresCommitCut cuts the connection at a COMMIT in both ways. The ledger finds out
// which of them it was: what was applied is acknowledged, once, and what was not is refused.
func TestPostgresCommitCut(t *testing.T) {
	w := &wire{t: t}
	l := mustOpen(t, config(t, openPostgres(t, w.listen(newCluster(t)))))
	mustDo(t, l, mark("first"))
	for i, cut := range []int32{cutAfter, cutBefore, cutAfter, cutBefore} {
		w.cut.Store(cut)
		name := fmt.Sprintf("r%d", i)
		seq, err := l.Do(context.Background(), mark(name))
		if w.cuts.Load() != int32(i+1) {
			t.Fatalf("%d cuts, want %d", w.cuts.Load(), i+1)
		}
		if applied := cut == cutAfter; applied != (err == nil) || applied && seq != l.Size()-1 {
			t.Errorf("%s: Do = %d, %v, and the log has %d entries", name, seq, err, l.Size())
		}
		if found := exists(t, l.cfg.Store, name); found != (cut == cutAfter) {
			t.Errorf("%s: the row exists: %v", name, found)
		}
		mustDo(t, l, mark(name+"-after"))
	}
}

// load has writers change rows until stop, and keeps what each call said.
type load struct {
	mu                             sync.Mutex
	acknowledged, refused, unknown []string
	done                           atomic.Int64
	stop                           atomic.Bool
	writers                        sync.WaitGroup
}

func (w *load) start(l *Ledger, writers int) {
	for i := range writers {
		w.writers.Go(func() {
			for n := 0; !w.stop.Load(); n++ {
				name := fmt.Sprintf("w%d-%d", i, n)
				ctx, cancel := context.WithTimeout(context.Background(), 2*AnswerWithin)
				_, err := l.Do(ctx, mark(name))
				cancel()
				w.book(name, err)
				if err != nil {
					time.Sleep(10 * time.Millisecond) // a client waits too
				}
			}
		})
	}
}

func (w *load) book(name string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.acknowledged = append(w.acknowledged, name)
		w.done.Add(1)
	case errors.Is(err, store.ErrUnknown):
		w.unknown = append(w.unknown, name)
	default:
		w.refused = append(w.refused, name)
	}
}

// await waits until calls succeed again.
func (w *load) await(t *testing.T) {
	t.Helper()
	end, want := time.Now().Add(time.Minute), w.done.Load()+20
	for w.done.Load() < want {
		if time.Now().After(end) {
			t.Fatal("the ledger does not come back")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// check compares what the callers heard with what is there.
func (w *load) check(t *testing.T, l *Ledger) {
	t.Helper()
	w.stop.Store(true)
	w.writers.Wait()
	times := map[string]int{}
	for _, r := range requests(t, l) {
		times[r]++
	}
	for _, name := range w.acknowledged {
		if times[name] != 1 || !exists(t, l.cfg.Store, name) {
			t.Errorf("%s was acknowledged and is %d times in the log", name, times[name])
		}
	}
	for _, name := range w.refused {
		if times[name] != 0 || exists(t, l.cfg.Store, name) {
			t.Errorf("%s was refused and is %d times in the log", name, times[name])
		}
	}
	for _, name := range w.unknown {
		if times[name] > 1 {
			t.Errorf("%s is %d times in the log", name, times[name])
		}
	}
	if found, err := l.Scrub(context.Background()); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
	if err := l.Ready(); err != nil {
		t.Error(err)
	}
	t.Logf("%d acknowledged, %d refused, %d unknown", len(w.acknowledged), len(w.refused), len(w.unknown))
}

// TestPostgresFaults kills, restarts and stalls the server under a ledger that writes.
// Nothing acknowledged is lost, nothing refused happened, nothing happened twice, and the
// ledger goes on by itself.
func TestPostgresFaults(t *testing.T) {
	c := newCluster(t)
	l := mustOpen(t, config(t, openPostgres(t, c.URL("postgres"))))
	var w load
	w.start(l, 8)
	rounds := 3
	if os.Getenv("CARDKMS_LONG") != "" {
		rounds = 100
	}
	for range rounds {
		for name, fault := range map[string]func(){
			"killed":    func() { c.Kill(); must(t, c.Restart(context.Background())) },
			"restarted": func() { c.Stop(); must(t, c.Restart(context.Background())) },
			"stalled": func() {
				resume, err := c.Stall()
				must(t, err)
				time.Sleep(GroupTimeout / 2)
				resume()
			},
		} {
			w.await(t)
			time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond) //nolint:gosec // where it strikes need not be secret
			t.Log(name)
			fault()
		}
	}
	w.await(t)
	w.check(t, l)
	if len(w.refused)+len(w.unknown) == 0 {
		t.Error("the faults reached nobody")
	}
}

// TestPostgresNetwork breaks and delays the connections to the server.
func TestPostgresNetwork(t *testing.T) {
	c := newCluster(t)
	behind := (&wire{t: t}).listen(c) // because a proxy speaks TCP and the server does not
	u, err := url.Parse(behind)
	must(t, err)
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.New(io.Discard)), "postgres", "127.0.0.1:0", u.Host)
	must(t, proxy.Start())
	t.Cleanup(proxy.Stop)
	l := mustOpen(t, config(t, openPostgres(t, tcpURL(proxy.Listen))))
	var w load
	w.start(l, 8)
	for range 2 {
		for _, toxic := range []string{
			`{"type": "reset_peer", "stream": "upstream", "attributes": {"timeout": 0}}`,
			`{"type": "reset_peer", "stream": "downstream", "attributes": {"timeout": 20}}`,
			`{"type": "timeout", "stream": "downstream", "attributes": {"timeout": 0}}`,
			`{"type": "latency", "stream": "downstream", "attributes": {"latency": 300, "jitter": 200}}`,
			`{"type": "limit_data", "stream": "upstream", "attributes": {"bytes": 3000}}`,
			`{"type": "slicer", "stream": "downstream", "attributes": {"average_size": 7, "size_variation": 5, "delay": 10}}`,
		} {
			w.await(t)
			name := addToxic(t, proxy, toxic)
			time.Sleep(500 * time.Millisecond)
			must(t, proxy.Toxics.RemoveToxic(context.Background(), name))
		}
	}
	w.await(t)
	w.check(t, l)
}

func addToxic(t *testing.T, p *toxiproxy.Proxy, toxic string) string {
	t.Helper()
	added, err := p.Toxics.AddToxicJson(strings.NewReader(toxic))
	must(t, err)
	return added.Name
}
