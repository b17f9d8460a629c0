package ledger

import (
	"context"
	"crypto/subtle"
	"fmt"
	"sync"

	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// MACSize is the length in bytes of the MAC of a row.
const MACSize = 16

// macWorkers is how many MACs of one group the token computes at the same time.
const macWorkers = 4

// rowMessage is what the MAC of a row covers: the name of the log, so that a row
// of another installation is foreign, and the digest over the row's name,
// version and body.
func (l *Ledger) rowMessage(row store.Row) []byte {
	d := contentOf(row)
	return append([]byte("cardkms-row-mac/1\n"+l.cfg.Origin+"\n"), d[:]...)
}

// headMessage is what the MAC of the head covers: also the version of its row, for
// an edited one would pass as the state of another node.
func (l *Ledger) headMessage(text string, version int64) []byte {
	return fmt.Appendf(nil, "cardkms-head-mac/1\n%s\n%d\n%s", l.cfg.Origin, version, text)
}

// macs has the token compute the MACs of messages. A call of the token that hangs
// cannot be cancelled: it keeps its place, and everybody else ends with their
// context instead of waiting behind it.
func (l *Ledger) macs(ctx context.Context, messages [][]byte) ([][]byte, error) {
	select {
	case l.token <- struct{}{}:
	case <-ctx.Done():
		return nil, fault.Because(fault.TokenUnavailable, "the token does not answer", ctx.Err())
	}
	type result struct {
		macs [][]byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-l.token }()
		macs, err := l.compute(ctx, messages)
		done <- result{macs, err}
	}()
	select {
	case r := <-done:
		return r.macs, r.err
	case <-ctx.Done():
		return nil, fault.Because(fault.TokenUnavailable, "the token does not answer", ctx.Err())
	}
}

func (l *Ledger) compute(ctx context.Context, messages [][]byte) ([][]byte, error) {
	macs, errs := make([][]byte, len(messages)), make([]error, len(messages))
	var wg sync.WaitGroup
	for w := range min(macWorkers, len(messages)) {
		wg.Go(func() {
			for i := w; i < len(messages); i += macWorkers {
				macs[i], errs[i] = l.cfg.MAC(ctx, messages[i])
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("computing a MAC in the token: %w", err)
		}
		if len(macs[i]) != MACSize {
			return nil, fmt.Errorf("ledger: the token made a MAC of %d bytes", len(macs[i]))
		}
	}
	return macs, nil
}

// genuine reports whether the token made the MAC over the message.
func (l *Ledger) genuine(ctx context.Context, message, mac []byte) (bool, error) {
	want, err := l.macs(ctx, [][]byte{message})
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(want[0], mac) == 1, nil
}
