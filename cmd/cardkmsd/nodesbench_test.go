//go:build bench

package main

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"cardkms/kms/store/postgres/throwaway"
)

// TestBenchNodes measures, in one run, what a request costs on SQLite, on PostgreSQL, and
// on three nodes that share it. It prints a table and asserts nothing about time. On a
// machine whose CPUs the nodes, PostgreSQL, the client and the cards share, more nodes
// cannot give more throughput; the CPU of a request says what they cost.
func TestBenchNodes(t *testing.T) {
	cluster, err := throwaway.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Close() })
	s := newSite(t)
	b := &nodesBench{t: t}
	fmt.Println("One run, 32 connections. CPU is of the service's processes; behind it that of PostgreSQL's.")
	b.run("SQLite", nil, s)
	s.stop()
	n1, n2, n3 := s.node("n1", cluster), s.node("n2", cluster), s.node("n3", cluster)
	s.must(n1.cardkmsd("", "store", "migrate", "--from", s.config(), "--config", n1.config()))
	n1.start()
	b.run("PostgreSQL, 1 node", cluster, n1)
	n2.start()
	n3.start()
	b.run("PostgreSQL, 3 nodes", cluster, n1, n2, n3)
}

type nodesBench struct {
	t     *testing.T
	first map[string]time.Duration // CPU of SQLite, by operation
	runs  int
}

func (b *nodesBench) run(where string, c *throwaway.Cluster, nodes ...*site) {
	const connections = 32
	each := make([]func(int) error, len(nodes))
	for i, n := range nodes {
		each[i] = n.authenticates(connections)
	}
	b.measure("authenticate", where, c, nodes, 6000, connections, func(w int) error { return each[w%len(nodes)](w) })
	for i, n := range nodes {
		each[i] = n.wraps(connections)
	}
	b.measure("wrap 16 APDUs", where, c, nodes, 3000, connections, func(w int) error { return each[w%len(nodes)](w) })
	b.runs++
	packs := nodes[0].packsNamed(fmt.Sprintf("bench-%d", b.runs))
	b.measure("package of 1 MiB", where, c, nodes, 12, 4, packs)
}

func (b *nodesBench) cpu(nodes []*site, c *throwaway.Cluster) (service, database time.Duration) {
	for _, n := range nodes {
		service += cpuOf(n.server.Process.Pid)
	}
	if c == nil {
		return service, 0
	}
	all, err := c.Processes()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, pid := range all {
		database += cpuOf(pid)
	}
	return service, database
}

// measure runs f in n goroutines, total times in all.
func (b *nodesBench) measure(what, where string, c *throwaway.Cluster, nodes []*site, total, n int, f func(worker int) error) {
	for w := range n {
		if err := f(w); err != nil {
			b.t.Fatal(err)
		}
	}
	service, database := b.cpu(nodes, c)
	start := time.Now()
	all := timed(b.t, n, total, f)
	elapsed := time.Since(start)
	slices.Sort(all)
	done := time.Duration(len(all))
	s, d := b.cpu(nodes, c)
	s, d = (s-service)/done, (d-database)/done
	if b.first == nil {
		b.first = map[string]time.Duration{}
	}
	if _, ok := b.first[what]; !ok {
		b.first[what] = s
	}
	fmt.Printf("%-18s %-20s %8.1f/s  p50 %8s  p99 %8s  CPU %8s + %8s  of SQLite's: %.2f, with the database %.2f\n", what, where,
		float64(done)/elapsed.Seconds(), all[len(all)/2].Round(10*time.Microsecond), all[len(all)*99/100].Round(10*time.Microsecond),
		s.Round(time.Microsecond), d.Round(time.Microsecond), float64(s)/float64(b.first[what]), float64(s+d)/float64(b.first[what]))
}
