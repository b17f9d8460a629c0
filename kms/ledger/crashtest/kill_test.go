package crashtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

// killMax is the longest time that a process runs under load before it is killed.
const killMax = 100 * time.Millisecond

// seedVariable repeats the moments of an earlier run, as far as a scheduler lets it.
const seedVariable = "CARDKMS_CRASH_SEED"

// randomFrom returns random numbers from the seed that the variable names, or a
// new one, and prints it.
func randomFrom(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d", seedVariable, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestKill kills the process at random moments under the load of concurrent
// callers, again and again on one directory.
func TestKill(t *testing.T) {
	cycles, dir := 25, memoryDir(t)
	if all() {
		cycles, dir = 300, t.TempDir()
	}
	r, p := randomFrom(t), newPromises()
	ready := time.Duration(0)
	for n := range cycles {
		after := time.Duration(r.Int64N(int64(killMax)))
		took, err := p.kill(dir, strconv.Itoa(n), after)
		if err == nil {
			err = examine(dir, p, fmt.Sprintf("after-%d", n))
		}
		if err != nil {
			t.Fatalf("cycle %d, killed %v after it was ready: %v", n, after, err)
		}
		ready = max(ready, took)
	}
	t.Logf("%d kills, %d entries acknowledged, 0 lost; ready at most %v after the start", cycles, len(p.acked), ready.Round(time.Millisecond))
}

// kill runs a child under load and kills it, and takes what it promised. It
// returns how long the child took to open the ledger.
func (p *promises) kill(dir, cycle string, after time.Duration) (ready time.Duration, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(exe, dir, cycle)
	cmd.Env = append(os.Environ(), childVariable+"=load")
	out := &output{ready: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	select {
	case <-out.ready:
		ready = time.Since(began)
		time.Sleep(after)
	case <-time.After(childTimeout):
		err = fmt.Errorf("the process does not start: %s", tail(out.bytes()))
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		return 0, err
	}
	if err := p.read(out.bytes()); err != nil {
		return 0, err
	}
	if len(p.errors) > 0 {
		return 0, fmt.Errorf("the process met no fault before it was killed, and says: %s", p.errors[0])
	}
	return ready, nil
}

// output keeps what a child prints.
type output struct {
	mu    sync.Mutex
	all   []byte
	seen  bool
	ready chan struct{} // closed at the line "ready"
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, b...)
	if !o.seen && bytes.Contains(o.all, []byte("ready\n")) {
		o.seen = true
		close(o.ready)
	}
	return len(b), nil
}

func (o *output) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.all)
}
