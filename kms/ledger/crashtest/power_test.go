package crashtest

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// recordSteps runs the script and returns all that it did to files.
func recordSteps(t *testing.T) []step {
	t.Helper()
	base := memoryDir(t)
	dir, trace := filepath.Join(base, "data"), filepath.Join(base, "trace")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := runScript("ordered", strace(t), dir, "-o", trace, "-y", "-xx", "-s", "1000000", "-e", "trace="+fileCalls)
	if err != nil || r.code != 0 {
		t.Fatalf("the script fails without a fault: %v, %+v", err, r)
	}
	log, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	steps := parseSteps(t, string(log), dir)
	checkReplay(t, steps, dir)
	return steps
}

// checkReplay: a disk that loses nothing ends with the files that are there.
func checkReplay(t *testing.T, steps []step, dir string) {
	t.Helper()
	d := newDisk()
	for _, s := range steps {
		d.do(s, false)
	}
	left := d.image(loss{rand.New(rand.NewPCG(0, 0)), 1})
	for name, b := range left {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(b, want) {
			t.Fatalf("the record of %s is not what happened: %v", name, err)
		}
	}
	if len(left) != 2 {
		t.Fatalf("the record leaves %d files", len(left))
	}
}

// outage is a moment at which the power fails, and what is left.
type outage struct {
	step     int
	image    map[string][]byte
	promises *promises
}

// outages returns different images: for each step the one without anything that
// was not synchronised, the one with all of it, and n with a part.
func outages(steps []step, r *rand.Rand, n int, blind bool) (all []outage, err error) {
	d, p, seen, seed := newDisk(), newPromises(), map[uint64]bool{}, maphash.MakeSeed()
	for i, s := range steps {
		if s.printed != "" {
			if err := p.read([]byte(s.printed)); err != nil {
				return nil, err
			}
		} else {
			d.do(s, blind)
		}
		for k := range n + 2 {
			keep := r.Float64()
			if k < 2 {
				keep = float64(k)
			}
			image := d.image(loss{r, keep})
			key := hash(seed, image, p)
			if !seen[key] {
				seen[key] = true
				all = append(all, outage{i, image, p.clone()})
			}
		}
	}
	return all, nil
}

// hash tells cases apart.
func hash(seed maphash.Seed, image map[string][]byte, p *promises) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, name := range slices.Sorted(maps.Keys(image)) {
		fmt.Fprintf(&h, "%s %d\n", name, len(image[name]))
		_, _ = h.Write(image[name])
	}
	fmt.Fprint(&h, len(p.acked), p.checkpoint, p.anchored)
	return h.Sum64()
}

func (p *promises) clone() *promises {
	q := *p
	q.acked, q.failed = maps.Clone(p.acked), maps.Clone(p.failed)
	return &q
}

// run is one case.
func (o outage) run(base string) error {
	base, err := os.MkdirTemp(base, "case-")
	if err != nil {
		return err
	}
	dir := filepath.Join(base, "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for name, b := range o.image {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	if err := examine(dir, o.promises, "afterwards"); err != nil {
		return err
	}
	return os.RemoveAll(base)
}

// TestPower loses, at each step of the script, what was not synchronised.
func TestPower(t *testing.T) {
	n := 1
	if all() {
		n = 500
	}
	cases, err := outages(recordSteps(t), randomFrom(t), n, false)
	if err != nil {
		t.Fatal(err)
	}
	base := memoryDir(t)
	var tally tally
	inParallel(sample(cases, 30), func(o outage) { tally.add(fmt.Sprintf("step %d", o.step), o.run(base)) })
	tally.report(t, len(cases))
}

// TestCanaryPower has the disk forget every fsync. TestPower would be worth
// nothing if that went unnoticed.
func TestCanaryPower(t *testing.T) {
	cases, err := outages(recordSteps(t), randomFrom(t), 1, true)
	if err != nil {
		t.Fatal(err)
	}
	base := memoryDir(t)
	var tally tally
	inParallel(sample(cases, 12), func(o outage) { tally.add(fmt.Sprintf("step %d", o.step), o.run(base)) })
	if tally.failed == 0 {
		t.Errorf("a disk that forgets every fsync loses nothing in %d cases", tally.ran)
	}
	t.Logf("%d of %d cases lose something on a disk that forgets every fsync", tally.failed, tally.ran)
}
