package ledger

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"cardkms/audit"
	"cardkms/kms/store"
)

// benchEntry has the size of a usual entry of the data plane.
func benchEntry() audit.Entry {
	return audit.Entry{
		Actor: "spiffe://example.com/update-server/7", Role: "update-server", Issuer: "acme",
		Operation: "channel.authenticate", Object: "channels/n1-00c4", Key: "issuers/acme/keys/isd/versions/3",
		Request: "4bf92f3577b34da6", Digest: audit.Digest{1}, Decision: audit.Allowed, Outcome: audit.OutcomeOK,
		Algorithm: audit.Approved, Card: "6d1c0de5a1f00d42", Detail: map[string]string{"apdus": "1", "level": "33"},
	}
}

// spread runs n calls of f by that many callers.
func spread(b *testing.B, callers int, f func() error) {
	b.Helper()
	var wg sync.WaitGroup
	for i := range callers {
		share := b.N / callers
		if i < b.N%callers {
			share++
		}
		wg.Go(func() {
			for range share {
				if err := f(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkDo measures durable entries. "updates/op" is the share of a
// transaction, and so of an fsync, that an entry pays.
func BenchmarkDo(b *testing.B) {
	for _, callers := range []int{1, 8, 32, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := newStore(b)
			cfg := config(b, s)
			cfg.CheckpointEvery = 0
			l := mustOpen(b, cfg)
			e := benchEntry()
			change := func(store.Rows) (audit.Entry, error) { return e, nil }
			b.ReportAllocs()
			b.ResetTimer()
			spread(b, callers, func() error {
				_, err := l.Do(context.Background(), change)
				return err
			})
			b.StopTimer()
			b.ReportMetric(float64(s.Updates())/float64(b.N), "updates/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkDoWithRow is BenchmarkDo with a row of 400 bytes changed by each.
func BenchmarkDoWithRow(b *testing.B) {
	for _, callers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := newStore(b)
			l := mustOpen(b, config(b, s))
			e, body := benchEntry(), make([]byte, 400)
			var n atomic.Int64
			b.ResetTimer()
			spread(b, callers, func() error {
				id := fmt.Sprint(n.Add(1))
				_, err := l.Do(context.Background(), func(tx store.Rows) (audit.Entry, error) {
					return e, tx.Put(store.Row{Ref: ref(id), Version: 1, Body: body})
				})
				return err
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkBareInsert is what BenchmarkDo is compared with: the same number of
// bytes inserted as rows, in transactions of the group size, by one goroutine.
func BenchmarkBareInsert(b *testing.B) {
	for _, group := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("group=%d", group), func(b *testing.B) {
			s := newStore(b)
			body := make([]byte, 560)
			b.ResetTimer()
			for n := 0; n < b.N; n += group {
				err := s.Update(context.Background(), func(tx store.Tx) error {
					for i := n; i < min(n+group, b.N); i++ {
						if err := tx.Put(store.Row{Ref: ref(fmt.Sprintf("%09d", i)), Version: 1, Body: body}); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
