package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// allVariable makes the suites run all their cases instead of a sample.
const allVariable = "CARDKMS_CRASH"

func all() bool { return os.Getenv(allVariable) != "" }

// fault is one thing that strace does to the process.
type fault string

const (
	kill      fault = "SIGKILL"           // before the call has an effect
	eio       fault = "EIO"               // this call once
	enospc    fault = "ENOSPC"            // this call once
	eioOn     fault = "EIO for good"      // this call and all later ones of its name
	enospcOn  fault = "ENOSPC for good"   // this call and all later ones of its name
	eioKilled fault = "EIO, then SIGKILL" // and killed before the next write
)

// crash is one case of TestCrash.
type crash struct {
	call  call
	fault fault
	// writes is how many pwrite64 the process makes before the call.
	writes int
}

func (c crash) String() string { return fmt.Sprintf("%s of %s", c.fault, c.call) }

// options are those of strace.
func (c crash) options() []string {
	at := fmt.Sprintf(":when=%d", c.call.n)
	inject := func(name, what string) []string { return []string{"-e", "inject=" + name + ":" + what} }
	only := []string{"-o", "/dev/null", "-e", "trace=" + c.call.name + ",pwrite64"}
	if c.call.name != "write" && c.call.name != "read" && c.fault != kill && c.fault != eioKilled {
		// Faster, but strace loses signals then, and counts in all threads; other
		// threads make none of these calls but those two.
		only = append(only, "-f", "--seccomp-bpf")
	}
	switch c.fault {
	case kill:
		return append(only, inject(c.call.name, "signal=KILL"+at)...)
	case eioKilled:
		next := fmt.Sprintf("signal=KILL:when=%d+", c.writes+1)
		return append(append(only, inject(c.call.name, "error=EIO"+at)...), inject("pwrite64", next)...)
	case eioOn:
		return append(only, inject(c.call.name, "error=EIO"+at+"+")...)
	case enospcOn:
		return append(only, inject(c.call.name, "error=ENOSPC"+at+"+")...)
	}
	return append(only, inject(c.call.name, "error="+string(c.fault)+at)...)
}

// crashes returns the cases for these calls.
func crashes(calls []call) (cases []crash) {
	writes := 0
	for _, c := range calls {
		for _, f := range faults(c.name) {
			cases = append(cases, crash{c, f, writes})
		}
		if c.name == "pwrite64" {
			writes = c.n
		}
	}
	return cases
}

// faults returns what can befall a call. A read changes nothing, and a write to a
// pipe is no file's, but would fail too if all writes did.
func faults(name string) []fault {
	switch name {
	case "pread64":
		return []fault{eio, eioOn}
	case "read":
		return []fault{eio}
	case "fsync", "fdatasync":
		return []fault{kill, eio, enospc, eioOn, enospcOn, eioKilled}
	case "write":
		return []fault{kill, eio, enospc}
	}
	return []fault{kill, eio, enospc, eioOn, enospcOn}
}

// sample returns n of the cases, or all of them.
func sample[T any](cases []T, n int) (some []T) {
	if all() || len(cases) <= n {
		return cases
	}
	for i := range n {
		some = append(some, cases[i*len(cases)/n])
	}
	return some
}

// TestCrash kills the process at every system call by which the script changes a
// file, and has every call fail by which it reads or changes one.
func TestCrash(t *testing.T) {
	s := strace(t)
	byFault := map[fault][]crash{}
	for _, c := range crashes(record(t, s)) {
		byFault[c.fault] = append(byFault[c.fault], c)
	}
	n := 6
	if os.Getenv(canaryVariable) != "" {
		n = 30
	}
	for _, f := range []fault{kill, eio, enospc, eioOn, enospcOn, eioKilled} {
		t.Run(string(f), func(t *testing.T) {
			base := memoryDir(t)
			var tally tally
			inParallel(sample(byFault[f], n), func(c crash) { tally.add(c.String(), c.run(base, s)) })
			tally.report(t, len(byFault[f]))
		})
	}
}

// run is one case. It returns what did not hold.
func (c crash) run(base, strace string) error {
	base, err := os.MkdirTemp(base, "case-")
	if err != nil {
		return err
	}
	dir := filepath.Join(base, "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	r, err := runScript("script", strace, dir, c.options()...)
	if err != nil {
		return err
	}
	p := newPromises()
	err = p.read(r.stdout)
	if err == nil {
		err = errors.Join(c.expect(r, p), examine(dir, p, "afterwards"))
	}
	if err != nil {
		return fmt.Errorf("%w\n%s\nstdout: %s\nstderr: %s", err, c.call.line, r.stdout, tail(r.stderr))
	}
	return os.RemoveAll(base)
}

func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }

// expect says whether the process behaved: it never hangs, and goes on by itself
// after a fault that came once.
func (c crash) expect(r run, p *promises) error {
	switch {
	case r.hung:
		return errors.New("the process hangs")
	case c.fault == kill && !r.killed:
		return errors.New("the process was not killed")
	case c.fault == kill || r.killed && c.fault == eioKilled:
		return nil
	case bytes.Contains(r.stderr, []byte("runtime: netpollBreak write failed")):
		return nil // the write was the runtime's own
	case c.fault == eioOn || c.fault == enospcOn:
		if r.code != 0 && r.code != 3 {
			return fmt.Errorf("the process ended with code %d", r.code)
		}
		return nil
	case !p.done || !p.probed():
		return errors.New("the process does not go on after one fault")
	}
	return nil
}

// probed reports whether the service took an entry at the end.
func (p *promises) probed() bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(p.acked)), func(n string) bool { return len(n) > 5 && n[:5] == "probe" })
}

// workers is how many cases run at the same time; they wait for the disk.
const workers = 4

// inParallel runs f for all cases.
func inParallel[T any](cases []T, f func(T)) {
	work := make(chan T)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for c := range work {
				f(c)
			}
		})
	}
	for _, c := range cases {
		work <- c
	}
	close(work)
	wg.Wait()
}

// tally counts cases and keeps what did not hold.
type tally struct {
	mu          sync.Mutex
	ran, failed int
	first       []string // the first failures, in full
}

const failuresShown = 5

func (y *tally) add(name string, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.ran++
	if err == nil {
		return
	}
	y.failed++
	if y.failed <= failuresShown {
		y.first = append(y.first, fmt.Sprintf("%s: %v", name, err))
	}
}

// report prints how many cases ran, and fails the test if one did.
func (y *tally) report(t *testing.T, of int) {
	t.Helper()
	t.Logf("%d of %d cases, %d failed", y.ran, of, y.failed)
	for _, f := range y.first {
		t.Error(f)
	}
	if y.failed > 0 || y.ran == 0 {
		t.Errorf("%d of %d cases failed", y.failed, y.ran)
	}
}
