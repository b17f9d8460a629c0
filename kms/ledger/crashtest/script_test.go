package crashtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"cardkms/audit"
	"cardkms/kms/ledger"
	"cardkms/kms/store"
)

// child is a process under test. Each line that it prints is a promise that the
// checker holds the ledger to:
//
//	ack SEQ NAME      the entry NAME is durable at SEQ
//	failed NAME       the entry NAME is not there and never will be
//	unknown NAME      it may be there or not
//	checkpoint SIZE   a checkpoint of SIZE entries is stored
//	anchored SIZE     and the anchor keeps one
//
// Lines that start with "error" say what it met; "done" is the last one.
type child struct {
	dir  string
	main funnel // for calls on files
	out  funnel // for what it prints
	*service
}

// say prints a line before anything else happens.
func (c *child) say(format string, args ...any) {
	line := fmt.Appendf(nil, format+"\n", args...)
	c.out.run(func() {
		if _, err := os.Stdout.Write(line); err != nil {
			os.Exit(4)
		}
	})
}

// do has the ledger take an entry, and says how that went.
func (c *child) do(name string, change ledger.Change) (seq int64, ok bool) {
	seq, err := c.Do(context.Background(), change)
	switch {
	case err == nil:
		c.say("ack %d %s", seq, name)
		return seq, true
	case errors.Is(err, store.ErrUnknown):
		c.say("unknown %s", name)
	default:
		c.say("failed %s", name)
	}
	c.say("error %s: %q", name, err.Error())
	return 0, false
}

func entry(name string) audit.Entry {
	return audit.Entry{Actor: audit.ActorService, Operation: "card.count", Object: "cards/none", Request: name,
		Decision: audit.Allowed, Outcome: audit.OutcomeOK}
}

// plain is an entry without a row.
func plain(name string) ledger.Change {
	return func(store.Rows) (audit.Entry, error) { return entry(name), nil }
}

// row changes a card to its next version, whose body is the entry's name. The
// entry says which card and version, so that the checker knows what must be there.
func row(name, card string) ledger.Change { return rowAs(entry(name), card) }

func rowAs(e audit.Entry, card string) ledger.Change {
	return func(rows store.Rows) (audit.Entry, error) {
		r, err := rows.Get(store.Ref{Kind: "card", ID: card})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return audit.Entry{}, err
		}
		r = store.Row{Ref: store.Ref{Kind: "card", ID: card}, Version: r.Version + 1, Body: []byte(e.Request)}
		e := e
		e.Object, e.Detail = "cards/"+card, map[string]string{"version": strconv.FormatInt(r.Version, 10)}
		return e, rows.Put(r)
	}
}

// intent and outcome are the two entries of one operation.
func intent(name string) ledger.Change {
	e := entry(name)
	e.Outcome = audit.OutcomePending
	return func(store.Rows) (audit.Entry, error) { return e, nil }
}

func outcome(name, card string, closes int64) ledger.Change {
	e := entry(name)
	e.Intent = &closes
	return rowAs(e, card)
}

var errRefused = errors.New("crashtest: the change refuses")

// refusing changes a row and then thinks better of it.
func refusing(name string) ledger.Change {
	return func(rows store.Rows) (audit.Entry, error) {
		_, err := row(name, "refused")(rows)
		return audit.Entry{}, errors.Join(err, errRefused)
	}
}

// script is what a child of TestCrash does: two lives of a service, so that SQLite
// also moves its WAL into the file and starts a new one.
func (c *child) script() int {
	if !c.life(c.firstLife) || !c.life(c.secondLife) {
		return 3
	}
	c.say("done")
	return 0
}

// life opens, at the second attempt if need be, and closes.
func (c *child) life(f func()) bool {
	for attempt := 0; ; attempt++ {
		s, err := open(c.dir, c.main)
		if err == nil {
			c.service = s
			break
		}
		c.say("error open: %q", err.Error())
		if attempt == 1 {
			return false
		}
	}
	f()
	if err := c.close(); err != nil {
		c.say("error close: %q", err.Error())
	}
	return true
}

func (c *child) firstLife() {
	c.do("a1", row("a1", "a"))
	c.do("p1", plain("p1"))
	if seq, ok := c.do("i1", intent("i1")); ok {
		c.do("o1", outcome("o1", "a", seq))
	}
	c.checkpoint()
	c.do("b1", row("b1", "b"))
	c.do("r1", refusing("r1"))
	c.anchor()
	c.do("i2", intent("i2")) // the next life closes it
	c.do("a2", row("a2", "a"))
}

func (c *child) secondLife() {
	c.do("c1", row("c1", "c"))
	if seq, ok := c.do("i3", intent("i3")); ok {
		c.do("p2", plain("p2"))
		c.do("o3", outcome("o3", "c", seq))
	}
	c.anchor()
	c.do("a3", row("a3", "a"))
	c.checkpoint()
	c.do("p3", plain("p3"))
	c.do("i4", intent("i4")) // stays open
	for i := range 3 {
		if name := fmt.Sprintf("probe%d", i); c.probe(name) {
			return
		}
	}
}

// probe shows that the ledger goes on after a fault.
func (c *child) probe(name string) bool {
	_, ok := c.do(name, row(name, "probe"))
	return ok
}

func (c *child) checkpoint() {
	note, err := c.Checkpoint(context.Background())
	if err != nil {
		c.say("error checkpoint: %q", err.Error())
		return
	}
	_, verifier := keys()
	cp, err := audit.OpenCheckpoint(note, origin, verifier)
	if err != nil {
		c.say("error checkpoint: %q", err.Error())
		return
	}
	c.say("checkpoint %d", cp.Size)
}

// anchor says how many entries the anchor must cover: those before the call.
func (c *child) anchor() {
	size := c.Size()
	if err := c.Anchored(context.Background()); err != nil {
		c.say("error anchored: %q", err.Error())
		return
	}
	c.say("anchored %d", size)
}

// callers is how many goroutines call a child of TestKill at the same time.
const callers = 8

// load is what a child of TestKill does: each caller changes a card of its own and
// one that all share, and makes operations of intent and outcome, until the
// process is killed. The cycle makes the names differ from those of other children.
func (c *child) load(cycle string) int {
	s, err := open(c.dir, nil)
	if err != nil {
		c.say("error open: %q", err.Error())
		return 3
	}
	c.service = s
	c.say("ready")
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for n := 0; ; n++ {
				c.work(fmt.Sprintf("%s.%d.%d", cycle, i, n), fmt.Sprintf("own%d", i), n)
			}
		})
	}
	wg.Go(func() {
		for {
			c.anchor()
		}
	})
	wg.Wait()
	return 0
}

func (c *child) work(name, own string, n int) {
	switch n % 4 {
	case 0:
		c.do(name, row(name, own))
	case 1:
		c.do(name, plain(name))
	case 2:
		c.do(name, row(name, "shared"))
	case 3:
		if seq, ok := c.do(name+".intent", intent(name+".intent")); ok {
			c.do(name, outcome(name, own, seq))
		}
	}
}
