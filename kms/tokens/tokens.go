// Package tokens sends each key to the PKCS#11 token that holds it.
//
// There is one main token, which has no name, and there may be further ones with names. A
// derive.Key says which token its root is in, and everything that follows from it is
// computed there: nothing goes from one token to another, so an operation with keys of two
// of them is refused before either is asked.
//
// The main token is open before a Set is made. A further one that cannot be opened takes
// only its own keys out of service: they answer fault.TokenUnavailable, and Tend tries it
// again, at intervals that grow to RetryMax. One whose opener says that another attempt
// could do harm (a refused PIN, an object that is not what it should be) is not opened again by
// this process. What a token that was open does when it is lost is its own matter.
//
// The package knows no PKCS#11 and no configuration. A Set is safe for concurrent use.
package tokens

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"cardkms/derive"
	"cardkms/kms/fault"
)

// Token is what the service needs of a token for the keys in it.
type Token interface {
	derive.TDEAToken
	derive.Wrapper
	derive.Challenger
	derive.Agreer
	// Random returns n bytes of the token's random number generator.
	Random(ctx context.Context, n int) ([]byte, error)
	// Ready looks that the token answers, and connects one again that was lost.
	Ready(ctx context.Context) error
	Close()
}

// Opener opens a further token and looks that its keys are what they should be. final
// says that it must not be called again.
type Opener[T Token] func(ctx context.Context) (t T, final bool, err error)

// The least and the longest time between two attempts to open a token.
const (
	RetryMin = time.Second
	RetryMax = 30 * time.Second
)

// Set is the tokens of a service.
type Set[T Token] struct {
	main    T
	further map[string]*member[T]
	now     func() time.Time
	logger  *slog.Logger
}

// member is a further token.
type member[T Token] struct {
	opening sync.Mutex // held while it is opened or looked at
	open    Opener[T]
	pause   time.Duration // before next, guarded by opening
	next    time.Time     // attempt to open, guarded by opening

	mu     sync.RWMutex
	token  T
	opened bool
	final  bool
	err    error // of the newest look, nil if it serves
}

// New makes a set. Nothing is opened before Tend.
func New[T Token](main T, further map[string]Opener[T], now func() time.Time, logger *slog.Logger) *Set[T] {
	s := &Set[T]{main: main, further: map[string]*member[T]{}, now: now, logger: logger}
	for name, open := range further {
		s.further[name] = &member[T]{open: open, err: errAway}
	}
	return s
}

var errAway = errors.New("tokens: not opened yet")

// Names returns the names of the further tokens, sorted.
func (s *Set[T]) Names() []string { return slices.Sorted(maps.Keys(s.further)) }

// Get returns a token, the main one for "".
func (s *Set[T]) Get(name string) (t T, err error) {
	if name == "" {
		return s.main, nil
	}
	m := s.further[name]
	if m == nil {
		return t, fault.New(fault.TokenUnavailable, "the configuration does not have the token of this key")
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var said *fault.Error
	switch {
	case m.opened:
		return m.token, nil
	case errors.As(m.err, &said) && said.Code == fault.TokenUnavailable:
		return t, said
	}
	return t, fault.Because(fault.TokenUnavailable, "the token of this key is not there", m.err)
}

// Tend opens each further token that is not open and whose time has come, and looks at
// those that are. It returns when all of them were tried.
func (s *Set[T]) Tend(ctx context.Context) {
	var all sync.WaitGroup
	for name, m := range s.further {
		all.Go(func() {
			m.opening.Lock()
			defer m.opening.Unlock()
			before := m.err
			if !s.tend(ctx, m) {
				return
			}
			switch {
			case m.err == nil && before != nil:
				s.logger.Info("a token serves", "token", name)
			case m.err != nil && (before == nil || before == errAway): //nolint:errorlint // the very value
				s.logger.Error("a token does not serve", "token", name, "for good", m.final, "error", m.err)
			}
		})
	}
	all.Wait()
}

// tend looks at one token and reports whether it did. The caller holds opening.
func (s *Set[T]) tend(ctx context.Context, m *member[T]) bool {
	switch {
	case m.opened:
		m.is(m.token, true, false, m.token.Ready(ctx))
		return true
	case m.final || s.now().Before(m.next):
		return false
	}
	t, final, err := m.open(ctx)
	m.is(t, err == nil, final, err)
	m.pause = min(max(2*m.pause, RetryMin), RetryMax)
	m.next = s.now().Add(m.pause)
	return true
}

func (m *member[T]) is(t T, opened, final bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.token, m.opened, m.final, m.err = t, opened, final, err
}

// Close closes the tokens that are open, the main one last.
func (s *Set[T]) Close() {
	for _, m := range s.further {
		m.opening.Lock()
		if m.opened {
			m.token.Close()
		}
		var none T
		m.is(none, false, true, errClosed)
		m.opening.Unlock()
	}
	s.main.Close()
}

var errClosed = errors.New("tokens: closed")
