package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"cardkms/api/client"
)

// A campaign stops by itself when more than stopPercent of at least stopAfter
// cards failed: whatever it is, it is not the cards.
const (
	stopAfter   = 200
	stopPercent = 2
	// failuresShown is how many cards that failed a person is told of.
	failuresShown = 10
)

// campaign moves many cards at once.
type campaign struct {
	mu      sync.Mutex
	Total   int               `json:"total"`
	Moved   int               `json:"moved"`
	Retired int               `json:"retired"`
	Cuts    int               `json:"interruptions"`
	Failed  map[string]string `json:"failed"` // reasons, by card
}

func (a *app) fleetMoveCommand() *cobra.Command {
	var f moveFlags
	var file string
	var parallel int
	c := &cobra.Command{
		Use: "move --cards FILE", Short: "Give many cards the newest version of their keys", Args: exactly(0),
		Long: fmt.Sprintf(`Give the cards of a file, one tcp:HOST:PORT a line, the newest version of their
keys, several at a time; each as "card move" does. Run again, it finds the cards
that have it. When more than %d %% of at least %d cards failed, it starts no more.`, stopPercent, stopAfter),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cards, err := addresses(file)
			if err != nil {
				return err
			}
			return a.with(func(c *client.Client) error { return a.runCampaign(cmd.Context(), c, f, cards, parallel) })
		},
	}
	fl := c.Flags()
	fl.StringVar(&file, "cards", "", "`FILE` with the addresses of the cards")
	fl.StringVar(&f.key, "key", "isd", "name of the gp-scp03 key")
	fl.StringVar(&f.profile, "card-profile", "", "card profile of the server")
	fl.IntVar(&f.tries, "tries", 10, "how often one card may go away")
	fl.DurationVar(&f.wait, "wait", time.Second, "how long to wait for a card that went away")
	fl.BoolVar(&f.keep, "keep-old-keys", false, "leave the former keys on the cards")
	fl.IntVar(&parallel, "parallel", 8, "cards at a time")
	_ = c.MarkFlagRequired("cards")
	return c
}

func addresses(file string) (cards []string, err error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	scan := bufio.NewScanner(in)
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		if line == "" {
			continue
		}
		if !strings.HasPrefix(line, "tcp:") {
			return nil, errUsage{fmt.Errorf("%s, line %d: not tcp:HOST:PORT", file, n)}
		}
		cards = append(cards, line)
	}
	if len(cards) == 0 {
		err = fmt.Errorf("%s names no card", file)
	}
	return cards, errors.Join(err, scan.Err())
}

func (a *app) runCampaign(ctx context.Context, c *client.Client, f moveFlags, cards []string, parallel int) error {
	run := &campaign{Total: len(cards), Failed: map[string]string{}}
	bar := a.progress(int64(len(cards)), "cards")
	queue := make(chan string)
	var workers sync.WaitGroup
	for range max(1, parallel) {
		workers.Go(func() {
			for address := range queue {
				m := &mover{api: c, issuer: a.issuer, flags: f, say: func(string, ...any) {}}
				m.flags.card = address
				run.book(address, m, m.run(ctx))
				_ = bar.Add(1)
			}
		})
	}
	for _, address := range cards {
		if run.stops() || ctx.Err() != nil {
			break
		}
		queue <- address
	}
	close(queue)
	workers.Wait()
	if err := a.show(run, "%s", run.text()); err != nil {
		return err
	}
	if run.Moved < run.Total {
		return fmt.Errorf("%d of %d cards were not moved; start it again when you know why", run.Total-run.Moved, run.Total)
	}
	return ctx.Err()
}

func (r *campaign) book(address string, m *mover, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Cuts += m.moved.Interruptions
	if err != nil {
		r.Failed[address] = err.Error()
		return
	}
	r.Moved++
	if m.moved.Retired {
		r.Retired++
	}
}

func (r *campaign) stops() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := r.Moved + len(r.Failed)
	return done >= stopAfter && 100*len(r.Failed) > stopPercent*done
}

func (r *campaign) text() string {
	lines := []string{fmt.Sprintf("%d of %d cards have the newest keys and proved them; %d gave up the former ones; %d interruptions", r.Moved, r.Total, r.Retired, r.Cuts)}
	for _, address := range slices.Sorted(maps.Keys(r.Failed)) {
		if len(lines) > failuresShown {
			lines = append(lines, fmt.Sprintf("and %d more; --json lists all", len(r.Failed)-failuresShown))
			break
		}
		lines = append(lines, "not moved: "+address+": "+r.Failed[address])
	}
	return strings.Join(lines, "\n")
}
