// Package kmstest is how tests of several packages watch what goes on beside them: they
// read what it logs, and wait until something holds. Only tests import it.
package kmstest

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// Log collects what is written to it by several goroutines. The zero value is empty.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// patience is how long anything may take on a busy machine.
const patience = 90 * time.Second

// Until waits until something holds, and ends the test if that takes too long: then it
// prints what is said about it.
func Until(t testing.TB, what string, holds func() bool, said func() string) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s\n%s", what, said())
		}
	}
}
