package secret

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
)

// Locked is memory for key components: pages of its own outside Go's heap, so that the
// garbage collector copies nothing, locked so that they are never swapped, and left
// out of core dumps.
type Locked struct {
	mu   sync.Mutex
	page []byte
	used int
}

// madvDontDump is MADV_DONTDUMP of Linux.
const madvDontDump = 16

// NewLocked makes room for n bytes. Free wipes and returns it.
func NewLocked(n int) (*Locked, error) {
	size := (n + os.Getpagesize() - 1) / os.Getpagesize() * os.Getpagesize()
	page, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("secret: making room: %w", err)
	}
	if err := errors.Join(syscall.Mlock(page), syscall.Madvise(page, madvDontDump)); err != nil {
		_ = syscall.Munmap(page)
		return nil, fmt.Errorf("secret: locking memory (is RLIMIT_MEMLOCK too low?): %w", err)
	}
	return &Locked{page: page}, nil
}

// Take returns the next n bytes as a secret. It panics when there is no room, which
// the caller's sum excludes.
func (l *Locked) Take(n int) Bytes {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used+n > len(l.page) {
		panic("secret: no room left in locked memory")
	}
	b := l.page[l.used : l.used+n : l.used+n]
	l.used += n
	return New(b)
}

// Free wipes everything that was taken. No secret of it may be used afterwards.
func (l *Locked) Free() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.page == nil {
		return
	}
	clear(l.page)
	_ = syscall.Munlock(l.page)
	_ = syscall.Munmap(l.page)
	l.page = nil
}
