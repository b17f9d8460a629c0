package cardsim

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// SweptCuts is the number of power cuts that each sweep made, by its name.
var SweptCuts sync.Map

// profile is one kind of card memory and package size for a sweep.
type profile struct {
	name         string
	page         int
	chunk        int
	size1, size2 int
	suite        byte
}

var profiles = []profile{
	{"byte-alterable", 0, 64, 150, 200, suiteAES},
	{"flash page 128", 128, 128, 500, 300, suiteAES},
	{"flash page 512", 512, 512, 500, 512, suiteAES},
	{"flash suite 00", 128, 128, 500, 300, suiteChannel},
	{"byte-alterable, large", 0, 128, 612, 512, suiteAES},
}

func longRun() bool { return os.Getenv("CARDKMS_LONG") == "1" }

// cutCase is one disturbance: the campaign before a step, the step, and where in it the power goes.
type cutCase struct {
	before *campaign
	step   step
	update int
	write  int // 0: between this step and the one before
	tear   Tear
}

func (x cutCase) String() string {
	return fmt.Sprintf("%s, write %d, tear %d", x.step.name, x.write, x.tear)
}

// cuts runs the campaign once undisturbed and lists every write of every step with every tear mode, and every gap between
// two steps.
func cuts(m *campaign) ([]cutCase, error) {
	var list []cutCase
	for _, s := range m.steps() {
		before := m.twin()
		x := cutCase{before: before, step: s, update: int(s.name[len("update ")] - '1')}
		start := m.u.card.nvm.Writes()
		if err := s.run(m); err != nil {
			return nil, fmt.Errorf("undisturbed: %s: %w", s.name, err)
		}
		list = append(list, x)
		for x.write = 1; x.write <= m.u.card.nvm.Writes()-start; x.write++ {
			for _, x.tear = range Tears {
				list = append(list, x)
			}
		}
	}
	return list, m.check(2, 2)
}

// tear makes the disturbance and returns the campaign with the card off or torn.
func (x cutCase) disturb() (*campaign, error) {
	m := x.before.twin()
	if x.write == 0 {
		return m, nil
	}
	m.u.card.nvm.CutAt(x.write, x.tear)
	if err := x.step.run(m); !errors.Is(err, ErrTorn) {
		return nil, fmt.Errorf("the cut did not strike: %w", err)
	}
	return m, nil
}

// verify makes one disturbance, checks the card, completes the updates and checks again.
func (x cutCase) verify() error {
	m, err := x.disturb()
	if err == nil {
		err = m.check(x.update, x.update+1)
	}
	if err == nil {
		err = m.finish()
	}
	if err != nil {
		return fmt.Errorf("%v: %w", x, err)
	}
	return nil
}

// sweep verifies all cuts of a profile on all processors and returns their number and the first failure.
func sweep(p profile, f faults) (int, error) {
	m, err := newCampaign(sweepConfig(), p.page, p.chunk, p.size1, p.size2, f)
	if err != nil {
		return 0, err
	}
	m.u.suite = p.suite
	list, err := cuts(m)
	if err != nil {
		return 0, err
	}
	return parallel(len(list), func(i int) error { return list[i].verify() })
}

// parallel calls f for 0 to n-1 until one fails. It returns the number of calls made.
func parallel(n int, f func(int) error) (int, error) {
	var (
		mu    sync.Mutex // guards next and first
		next  int
		first error
		wg    sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				if i >= n || first != nil {
					mu.Unlock()
					return
				}
				next++
				mu.Unlock()
				if err := f(i); err != nil {
					mu.Lock()
					first = err
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return next, first
}

// TestSweep cuts the power at every write of two updates in every tear mode, and between every two commands. After each cut
// the card boots the old or the new image, answers its ordinary commands as before, and the updates can be completed.
func TestSweep(t *testing.T) {
	for _, p := range profiles {
		t.Run(p.name, func(t *testing.T) {
			n, err := sweep(p, faults{})
			if err != nil {
				t.Fatal(err)
			}
			SweptCuts.Store(p.name, n)
			t.Logf("%d power cuts", n)
		})
	}
	total := 0
	for _, p := range profiles {
		n, _ := SweptCuts.Load(p.name)
		count, _ := n.(int)
		total += count
	}
	if total < 10000 {
		t.Errorf("only %d power cuts: the sweep has shrunk", total)
	}
	t.Logf("%d power cuts in all profiles", total)
}

// TestSweepPairs cuts twice: anywhere in the updates, and again anywhere in their completion. With CARDKMS_LONG=1 all pairs of
// the page models, and a sample of the byte model; otherwise a short sample.
func TestSweepPairs(t *testing.T) {
	for _, p := range profiles[:3] {
		t.Run(p.name, func(t *testing.T) {
			m, err := newCampaign(sweepConfig(), p.page, p.chunk, p.size1, p.size2, faults{})
			if err != nil {
				t.Fatal(err)
			}
			list, err := cuts(m)
			if err != nil {
				t.Fatal(err)
			}
			pairs := pairsOf(list, p.page > 0)
			var both atomic.Int64
			n, err := parallel(len(pairs), func(i int) error {
				struck, err := pairs[i].verify()
				if struck {
					both.Add(1)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			SweptCuts.Store("pairs, "+p.name, int(both.Load()))
			t.Logf("%d pairs of power cuts; in %d more the update was over before the second", both.Load(), n-int(both.Load()))
		})
	}
}

// pair is a cut and a second one, so many writes later.
type pair struct {
	cutCase
	second int
	tear2  Tear
}

// pairsOf lists the pairs to try: all, or a sample.
func pairsOf(list []cutCase, all bool) []pair {
	rng := rand.New(rand.NewSource(3))
	var pairs []pair
	if !longRun() || !all {
		n := 400
		if longRun() {
			n = 20000
		}
		for range n {
			pairs = append(pairs, pair{list[rng.Intn(len(list))], 1 + rng.Intn(len(list)/len(Tears)), Tears[rng.Intn(len(Tears))]})
		}
		return pairs
	}
	// A completion may write more than the undisturbed course: it authenticates again and erases what was torn.
	secondMax := len(list)/len(Tears) + 40
	for _, x := range list {
		for second := 1; second <= secondMax; second++ {
			for _, tear := range Tears {
				pairs = append(pairs, pair{x, second, tear})
			}
		}
	}
	return pairs
}

// verify is cutCase.verify with the second cut armed during the boot after the first and the completion. It reports whether
// the second cut struck.
func (x pair) verify() (struck bool, err error) {
	m, err := x.disturb()
	if err == nil {
		m.u.card.nvm.CutAt(x.second, x.tear2)
		if err = m.reset(); errors.Is(err, ErrTorn) {
			err = m.reset()
		}
	}
	if err == nil {
		struck, err = m.finishTorn()
	}
	if err != nil {
		return struck, fmt.Errorf("%v, then write %d, tear %d: %w", x.cutCase, x.second, x.tear2, err)
	}
	return struck, nil
}

// finishTorn completes the updates with one more cut to come, or already made; the last check is made without it.
func (m *campaign) finishTorn() (struck bool, err error) {
	for range 20 {
		done, err := m.advance()
		switch {
		case errors.Is(err, ErrTorn), errors.Is(err, ErrOff):
			k := versionIndex(m.u.card.Status().Version)
			if err := m.check(k, k+1); err != nil {
				return true, err
			}
		case err != nil:
			return false, err
		case done:
			struck = m.u.card.nvm.cutAt == 0
			m.u.card.nvm.ClearFaults()
			return struck, m.check(2, 2)
		}
	}
	return false, errors.New("update does not come to an end")
}
