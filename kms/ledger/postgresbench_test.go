//go:build bench

package ledger

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"cardkms/kms/store/storetest"
)

// TestBenchPostgres measures durable entries on PostgreSQL, in one run: with one node and
// with three that share the database, beside bare inserts of as many bytes that commit
// what waits. Once the MACs are made in a SoftHSM2 token, and once by Go in this process,
// so that what the token costs is out. It prints a table and asserts nothing about time.
func TestBenchPostgres(t *testing.T) {
	b := &auditBench{t: t}
	b.openToken()
	c := newCluster(t)
	fmt.Println("Durable entries on PostgreSQL, 32 writers in all; CPU is of this process, not of PostgreSQL's.")
	fmt.Printf("%-34s %10s %9s %12s %10s %10s\n", "", "entries/s", "per group", "fsyncs/entry", "CPU/entry", "CPU s")
	const span, writers = 4 * time.Second, 32
	bare := b.bareOnPostgres(c.URL("postgres"), len(b.encoded()))
	theirs := b.run(writers, endless, span, bare.commits, bare.insert)
	bare.close()
	theirs.print("bare")
	for _, token := range []bool{true, false} {
		for _, n := range []int{1, 3} {
			what := map[bool]string{true: "token", false: "no token"}[token]
			database := fmt.Sprintf("bench_%t_%d", token, n)
			if _, err := c.SQL(context.Background(), "postgres", "CREATE DATABASE "+database); err != nil {
				t.Fatal(err)
			}
			ours := b.together(c.URL(database), n, token, span, writers)
			ours.print(fmt.Sprintf("ledger, %d nodes, %s", n, what))
			fmt.Printf("%-34s %10.2f\n", "  ledger/bare", ours.rate()/theirs.rate())
		}
	}
}

// together has writers append on so many nodes.
func (b *auditBench) together(url string, nodes int, token bool, span time.Duration, writers int) cost {
	var all []*benchLedger
	for i := range nodes {
		s := storetest.NewFaulty(openPostgres(b.t, url))
		cfg := b.config(s)
		if cfg.Node = fmt.Sprintf("n%d", i); !token {
			cfg.MAC = testMAC
		}
		l, err := Open(context.Background(), cfg)
		b.must(err)
		all = append(all, &benchLedger{Ledger: l, store: s})
	}
	updates := func() (sum int) {
		for _, l := range all {
			sum += l.store.Updates()
		}
		return sum
	}
	out := b.run(writers, endless, span, updates, func(w int) error { return all[w%nodes].plain(w) })
	for _, l := range all {
		b.must(l.Close(context.Background()))
	}
	return out
}

// bareOnPostgres inserts into a table of its own, in one round trip for each group.
func (b *auditBench) bareOnPostgres(url string, bytes int) *bareLog {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	b.must(err)
	b.t.Cleanup(func() { _ = conn.Close(ctx) })
	_, err = conn.Exec(ctx, "CREATE TABLE bare (seq bigint PRIMARY KEY, body bytea NOT NULL)")
	b.must(err)
	l := &bareLog{b: b, body: make([]byte, bytes)}
	l.start(func(n int) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		batch := &pgx.Batch{}
		for range n {
			batch.Queue("INSERT INTO bare (seq, body) VALUES ($1, $2)", l.seq, l.body)
			l.seq++
		}
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		return tx.Commit(ctx)
	})
	return l
}
