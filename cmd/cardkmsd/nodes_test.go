package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/kms/approval"
	"cardkms/kms/kmstest"
	"cardkms/kms/store/postgres/throwaway"
	"cardkms/softhsm/faulty"
)

// node makes the configuration of one more node of a set-up, which shares its token and
// the database of a cluster. It is not started.
func (s *site) node(name string, c *throwaway.Cluster) *site {
	s.t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	s.must("", err)
	addr := l.Addr().String()
	s.must("", l.Close())
	text, err := os.ReadFile(filepath.Join(s.dir, "cardkms.yaml"))
	s.must("", err)
	s.must("", os.Mkdir(filepath.Join(s.dir, "anchor-"+name), 0o700))
	y := strings.NewReplacer(
		strings.TrimPrefix(s.url, "https://"), addr, "data: data\n", "data: data-"+name+"\nnode: "+name+"\ndatabase: {url: \""+c.URL("postgres")+"\"}\n",
		"file: anchor/checkpoint", "file: anchor-"+name+"/checkpoint",
	).Replace(string(text))
	n := *s
	n.url, n.file, n.log, n.server = "https://"+addr, name+".yaml", new(kmstest.Log), nil
	s.must("", os.WriteFile(n.config(), []byte(y), 0o600))
	return &n
}

// newCluster is a PostgreSQL that ends with the test.
func newCluster(t *testing.T) *throwaway.Cluster {
	t.Helper()
	c, err := throwaway.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// start serves, with a client of its own.
func (s *site) start() {
	s.t.Helper()
	s.serve()
	s.updateServer = s.client("update-server")
}

// proves opens a channel for a card and has the card proved on it.
func (s *site) proves(c *client.Client, card interface {
	Transmit(command []byte) ([]byte, error)
}) (channel string, err error) {
	o, err := c.OpenChannel(context.Background(), devIssuer, api.OpenChannel{Key: "isd"})
	if err != nil {
		return "", err
	}
	answer, err := card.Transmit(o.InitializeUpdate)
	if err != nil {
		return "", err
	}
	_, err = c.Authenticate(context.Background(), devIssuer, o.ID, api.Authenticate{Response: answer})
	return o.ID, err
}

func codeOf(err error) api.Code {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

// TestNodes moves a set-up from SQLite to PostgreSQL and goes on there with two nodes.
func TestNodes(t *testing.T) {
	ctx := context.Background()
	cluster := newCluster(t)
	s := newSite(t)
	if _, err := s.proves(s.updateServer, s.card(1, 0)); err != nil {
		t.Fatal(err)
	}
	s.stop()

	n1, n2 := s.node("n1", cluster), s.node("n2", cluster)
	if out, err := n1.cardkmsd("", "store", "migrate", "--from", s.config(), "--config", s.config()); err == nil || !strings.Contains(out, "--config one with database.url") {
		t.Errorf("moved a database to itself: %v %s", err, out)
	}
	out := n1.must(n1.cardkmsd("", "store", "migrate", "--from", s.config(), "--config", n1.config()))
	if !strings.Contains(out, "compared them with the signed log") {
		t.Error(out)
	}
	if out, err := n1.cardkmsd("", "store", "migrate", "--from", s.config(), "--config", n1.config()); err == nil || !strings.Contains(out, "not empty") {
		t.Errorf("moved a database twice: %v %s", err, out)
	}

	n1.start()
	n2.start()
	t.Run("a channel lives on one node", func(t *testing.T) {
		id, err := n1.proves(n1.updateServer, s.card(2, 0))
		if err != nil || !strings.HasPrefix(id, "n1.") {
			t.Fatalf("channel %s, %v", id, err)
		}
		if err := n2.updateServer.CloseChannel(ctx, devIssuer, id); codeOf(err) != api.WrongNode {
			t.Errorf("the other node answers %v", err)
		}
		if err := n1.updateServer.CloseChannel(ctx, devIssuer, id); err != nil {
			t.Error(err)
		}
		if err := n2.updateServer.CloseChannel(ctx, devIssuer, "n2."+strings.TrimPrefix(id, "n1.")); codeOf(err) != api.ChannelClosed {
			t.Errorf("a channel that never was: %v", err)
		}
	})
	t.Run("the cards are the same", func(t *testing.T) {
		if _, err := n2.proves(n2.updateServer, s.card(3, 0)); err != nil {
			t.Fatal(err)
		}
		for _, n := range []*site{n1, n2} {
			for kdd := range 3 {
				if _, err := n.updateServer.Card(ctx, devIssuer, fmt.Sprintf("%020X", kdd+1)); err != nil {
					t.Errorf("%s: card %d: %v", n.file, kdd+1, err)
				}
			}
		}
	})
	t.Run("a halt reaches every node", func(t *testing.T) {
		if _, err := n2.client("security-officer").Halt(ctx); err != nil {
			t.Fatal(err)
		}
		n1.until("node n1 halts", func() bool {
			_, err := n1.proves(n1.updateServer, s.card(4, 0))
			return codeOf(err) == api.Halted
		})
		// Proposed, approved and executed on different nodes.
		p, err := n1.client("security-officer").Propose(ctx, api.Propose{Operation: "system.resume", Object: "system/halt"})
		n1.must("", err)
		_, err = n2.client("security-officer-bob").Approve(ctx, p.ID, s.signed("bob", p, approval.Approve))
		n1.must("", err)
		_, err = n1.client("security-officer-cyd").Approve(ctx, p.ID, s.signed("cyd", p, approval.Approve))
		n1.must("", err)
		if p, err = n2.client("security-officer").Execute(ctx, p.ID); err != nil || p.State != api.ProposalExecuted {
			t.Fatalf("%s, %v", p.State, err)
		}
	})
	t.Run("one dies under load", func(t *testing.T) { killUnderLoad(t, s, n1, n2) })
	n1.stop()
	n2.stop()
	n1.start() // compares every row and every entry with the log, and with its anchors
	n1.stop()
}

// killUnderLoad kills one of two nodes again and again. What was acknowledged by either
// is in the log, and the other one never stops.
func killUnderLoad(t *testing.T, s, dying, living *site) {
	var stop atomic.Bool
	var acknowledged sync.Map
	var wg sync.WaitGroup
	var through [2]atomic.Int64
	for i, n := range []*site{dying, living} {
		c := n.updateServer // which outlives the processes behind it
		for w := range 2 {
			wg.Go(func() {
				for round := 0; !stop.Load(); round++ {
					number := uint32(1000 + 10*round + 2*i + w)
					_, err := n.proves(c, s.card(number, 0))
					if err == nil {
						acknowledged.Store(fmt.Sprintf("%020X", number), true)
						through[i].Add(1)
					} else if n == living {
						t.Errorf("the node that lives: %v", err)
						return
					}
				}
			})
		}
	}
	for range 3 {
		await(t, &through[0])
		_ = dying.server.Process.Kill()
		_ = dying.server.Wait()
		await(t, &through[1])
		dying.serve()
	}
	stop.Store(true)
	wg.Wait()
	acknowledged.Range(func(kdd, _ any) bool {
		if _, err := living.updateServer.Card(context.Background(), devIssuer, kdd.(string)); err != nil {
			t.Errorf("the card %v was proved and is not there: %v", kdd, err)
		}
		return true
	})
}

// await waits until something happened ten more times.
func await(t *testing.T, n *atomic.Int64) {
	t.Helper()
	end, want := time.Now().Add(time.Minute), n.Load()+10
	for n.Load() < want {
		if time.Now().After(end) {
			t.Fatal("nothing happens any more")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestDatabaseAway: a node that starts while PostgreSQL does not answer says so, waits,
// presents no PIN, and goes on by itself; one that serves answers 503 meanwhile. A database
// that refuses it ends the start.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	cluster := newCluster(t)
	s := newSite(t)
	s.stop()
	module := s.faulty()
	n := s.node("n1", cluster)
	s.must(n.cardkmsd("", "store", "migrate", "--from", s.config(), "--config", n.config()))
	cluster.Kill()
	login := slices.Index(faulty.Functions, "C_Login")
	before := module.Calls(login)
	card := s.card(1, 1024)
	ready := n.launch()
	n.until("it is sealed", n.answers("/readyz", http.StatusServiceUnavailable, `"state":"database-down"`))
	if status, body := n.probe("/healthz"); status != http.StatusOK {
		t.Errorf("healthz: %d %s", status, body)
	}
	if _, err := n.proves(n.client("update-server"), card); codeOf(err) != api.AuditUnavailable {
		t.Errorf("a request meanwhile: %v", err)
	}
	if logins := module.Calls(login) - before; logins != 0 {
		t.Errorf("%d logins while it waited", logins)
	}
	s.must("", cluster.Restart(ctx))
	if !<-ready {
		t.Fatalf("the node ended:\n%s", n.log)
	}
	if logins := module.Calls(login) - before; logins != 1 {
		t.Errorf("%d logins", logins)
	}
	if _, err := n.proves(n.client("update-server"), card); err != nil {
		t.Error(err)
	}
	cluster.Kill()                              // and now it is away for longer than a transaction is tried again
	away := func(what string, err error) bool { // a process of it may live a moment longer
		if err != nil && codeOf(err) != api.AuditUnavailable {
			t.Fatalf("%s while the database is away: %v", what, err)
		}
		return err != nil
	}
	n.until("reads are refused", func() bool {
		_, err := n.client("update-server").Card(ctx, devIssuer, fmt.Sprintf("%020X", 1))
		return away("a read", err)
	})
	n.until("writes are refused", func() bool { _, err := n.proves(n.client("update-server"), card); return away("a write", err) })
	s.must("", cluster.Restart(ctx))
	n.until("it goes on by itself", func() bool { _, err := n.proves(n.client("update-server"), card); return err == nil })
	n.stop()
	n.configure(func(text string) string { return strings.Replace(text, "/postgres", "/nowhere", 1) })
	if out, err := n.cardkmsd("", "serve", "--config", n.config()); exitStatus(err) != exitFailure {
		t.Errorf("a database that is none: %d\n%s", exitStatus(err), out)
	}
}
