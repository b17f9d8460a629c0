package ledger

import (
	"maps"
	"sync"
	"time"
)

// Group tells of one attempt to commit.
type Group struct {
	Entries int // that were committed, or would have been
	Took    time.Duration
	Err     error // nil if the group is durable, also if every change in it failed
}

// Stats is how far the log and those who keep its checkpoints are.
type Stats struct {
	Size   int64           // durable entries
	Signed Kept            // the newest signed checkpoint
	Kept   map[string]Kept // what each anchor and witness has, by name; zero until this process brought one
}

// Kept is a checkpoint that somebody has.
type Kept struct {
	Size   int64
	At     time.Time // when this process signed, read or brought it
	Behind time.Time // since when an anchor or a witness lacks what is signed; zero if it lacks nothing
}

// stats is what Stats shows of what belongs to who may sign, so that nobody who looks
// waits for a token or a witness.
type stats struct {
	mu   sync.Mutex
	last Kept            // guarded by mu
	has  map[string]Kept // guarded by mu
}

func (s *stats) init(cfg Config) {
	s.has = map[string]Kept{}
	for _, a := range cfg.Anchors {
		s.has[a.Name] = Kept{}
	}
	for _, w := range cfg.Witnesses {
		s.has[w.Name] = Kept{}
	}
}

func (s *stats) signed(size int64, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = Kept{Size: size, At: at}
	for name, k := range s.has {
		if k.Size < size && k.Behind.IsZero() {
			k.Behind = at
			s.has[name] = k
		}
	}
}

func (s *stats) kept(name string, size int64, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := Kept{Size: size, At: at}
	if size < s.last.Size {
		k.Behind = s.has[name].Behind
	}
	s.has[name] = k
}

// Stats returns figures of the log. It reads nothing.
func (l *Ledger) Stats() Stats {
	size := l.Size()
	l.stats.mu.Lock()
	defer l.stats.mu.Unlock()
	return Stats{Size: size, Signed: l.stats.last, Kept: maps.Clone(l.stats.has)}
}
