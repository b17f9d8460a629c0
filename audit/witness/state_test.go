package witness

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"cardkms/audit"
	"golang.org/x/mod/sumdb/note"
)

// TestRestart: what a witness cosigned it knows after a restart, of each log
// apart, and what is damaged it does not take for a fork or for nothing.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	h, second := newHistory(t, origin, 20, 99), newHistory(t, "second", 20, 3)
	s, c := serve(t, dir, io.Discard)
	if _, err := h.ask(c, 0, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := second.ask(c, 0, 7); err != nil {
		t.Fatal(err)
	}
	if _, err := NewServer(Config{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Errorf("a second server on one directory: %v", err)
	}
	if err := Forget(dir, origin); !errors.Is(err, ErrLocked) {
		t.Errorf("forgetting under a server: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, c = serve(t, dir, io.Discard)
	var size *SizeError
	if _, err := h.ask(c, 0, 20); !errors.As(err, &size) || size.Size != 10 {
		t.Errorf("%v", err)
	}
	if _, err := second.ask(c, 7, 20); err != nil {
		t.Error(err)
	}
	notes, err := Remembered(dir)
	if err != nil || len(notes) != 2 {
		t.Fatalf("%d remembered, %v", len(notes), err)
	}
	for _, msg := range notes {
		if _, err := audit.CosignatureTime(msg, c.Verifier); err != nil {
			t.Error(err)
		}
	}
	_ = s.Close()
	if err := Forget(dir, origin); err != nil {
		t.Fatal(err)
	}
	if err := Forget(dir, origin); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("forgetting twice: %v", err)
	}
	s, c = serve(t, dir, io.Discard)
	if _, err := h.ask(c, 0, 5); err != nil {
		t.Errorf("after forgetting: %v", err)
	}
	_ = s.Close()
	if err := os.WriteFile(fileOf(dir, origin), h.checkpoint(5)[:30], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewServer(Config{Dir: dir, Logs: []note.Verifier{verifier(t, origin)}}); !errors.Is(err, ErrState) {
		t.Errorf("a damaged file: %v", err)
	}
	if _, err := Remembered(dir); !errors.Is(err, ErrState) {
		t.Errorf("showing a damaged file: %v", err)
	}
}

// TestCrash: when the process dies, or the disk fails, before the rename, nobody
// gets a cosignature and the witness remembers the old checkpoint; after it, the
// new one, and the log learns of that by its size.
func TestCrash(t *testing.T) {
	for _, after := range []bool{false, true} {
		dir := t.TempDir()
		h := newHistory(t, origin, 20, 99)
		s, c := serve(t, dir, io.Discard)
		if _, err := h.ask(c, 0, 10); err != nil {
			t.Fatal(err)
		}
		s.state.(*state).rename = func(from, to string) error {
			if after {
				return errors.Join(os.Rename(from, to), errors.New("power lost"))
			}
			return errors.New("power lost")
		}
		if msg, err := h.ask(c, 10, 15); !errors.Is(err, ErrAnswer) || msg != nil {
			t.Errorf("%v", err)
		}
		_ = s.Close()
		_, c = serve(t, dir, io.Discard)
		want := int64(10)
		if after {
			want = 15
		}
		var size *SizeError
		if _, err := h.ask(c, 0, 20); !errors.As(err, &size) || size.Size != want {
			t.Errorf("after %v: %v, want size %d", after, err, want)
		}
		if _, err := h.ask(c, want, 20); err != nil {
			t.Error(err)
		}
	}
}

// TestConcurrent: of many requests from one size, each to another, exactly one is
// cosigned, and two forks never are.
func TestConcurrent(t *testing.T) {
	h, fork := newHistory(t, origin, 40, 99), newHistory(t, origin, 40, 12)
	_, c := serve(t, t.TempDir(), io.Discard)
	if _, err := h.ask(c, 0, 10); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var cosigned atomic.Int64
	for i := range int64(20) {
		history, to := h, 13+i
		if i%2 == 0 {
			history = fork
		}
		wg.Go(func() {
			_, err := history.ask(c, 10, to)
			var size *SizeError
			switch {
			case err == nil:
				cosigned.Add(1)
			case !errors.As(err, &size):
				t.Errorf("to %d: %v", to, err)
			}
		})
	}
	wg.Wait()
	if cosigned.Load() != 1 {
		t.Errorf("%d checkpoints were cosigned", cosigned.Load())
	}
}
