//go:build bench

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cardkms/kms/store/postgres/throwaway"
	"cardkms/kms/vault/vaulttest"
)

// TestBenchNodes measures, in one run, what a request costs on SQLite, on PostgreSQL, and
// on three nodes that share it; the same with the token's cost taken out; and Vault beside
// it. It prints a table and asserts nothing about time. On a machine whose CPUs the nodes,
// PostgreSQL, the client and the cards share, more nodes cannot give more throughput; the
// CPU of a request says what they cost.
func TestBenchNodes(t *testing.T) {
	cluster := newCluster(t)
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
	for _, n := range []*site{n1, n2, n3} {
		n.stop()
	}
	benchNull(t, s)
	benchVault(t)
}

// benchNull measures the same with a token that costs nearly nothing.
func benchNull(t *testing.T, s *site) {
	cluster := newCluster(t)
	env := append(slices.Clone(s.env), nullVariable+"="+hex.EncodeToString(s.master))
	b := &nodesBench{t: t, null: true}
	node := func(name string) *site {
		n := s.node(name, cluster)
		n.env = env
		n.configure(func(text string) string { return text + "limits: {requestsPerSecond: 1000000}\n" })
		return n
	}
	alone := node("alone")
	alone.configure(func(text string) string {
		return strings.Replace(text, "node: alone\ndatabase: {url: \""+cluster.URL("postgres")+"\"}\n", "", 1)
	})
	alone.start()
	b.run("SQLite, no token", nil, alone)
	alone.stop()
	var all []*site
	for _, name := range []string{"m1", "m2", "m3"} {
		n := node(name)
		n.start()
		if all = append(all, n); len(all) == 1 {
			b.run("PostgreSQL, 1, none", cluster, all...)
		}
	}
	b.run("PostgreSQL, 3, none", cluster, all...)
}

// benchVault measures what Vault does for 32 bytes: an HMAC of its Transit engine, over
// TLS, with its file audit device, which does not synchronise.
func benchVault(t *testing.T) {
	v := vaulttest.New(t)
	v.Write("sys/mounts/transit", map[string]any{"type": "transit"})
	v.Write("transit/keys/bench", nil)
	v.Write("sys/audit/file", map[string]any{"type": "file", "options": map[string]any{"file_path": v.AuditFile()}})
	c := v.Root()
	input := map[string]any{"input": base64.StdEncoding.EncodeToString(make([]byte, 32))}
	b := &nodesBench{t: t}
	b.measure("HMAC of 32 bytes", "Vault's Transit", func() (service, database time.Duration) { return cpuOf(v.Pid()), 0 }, 20_000, 32, func(int) error {
		_, err := c.Logical().WriteWithContext(context.Background(), "transit/hmac/bench", input)
		return err
	})
	audited, err := os.ReadFile(v.AuditFile())
	if err != nil || bytes.Count(audited, []byte("\n")) < 2*20_000 {
		t.Errorf("Vault's audit device has no request and response each: %v", err)
	}
}

type nodesBench struct {
	t     *testing.T
	null  bool                     // the nodes have no card update key
	first map[string]time.Duration // CPU where an operation was measured first
	runs  int
}

func (b *nodesBench) run(where string, c *throwaway.Cluster, nodes ...*site) {
	const connections = 32
	cpu := func() (service, database time.Duration) { return b.cpu(nodes, c) }
	each := make([]func(int) error, len(nodes))
	for i, n := range nodes {
		each[i] = n.authenticates(connections)
	}
	b.measure("authenticate", where, cpu, 6000, connections, func(w int) error { return each[w%len(nodes)](w) })
	for i, n := range nodes {
		each[i] = n.wraps(connections)
	}
	b.measure("wrap 16 APDUs", where, cpu, 3000, connections, func(w int) error { return each[w%len(nodes)](w) })
	if b.null {
		return
	}
	b.runs++
	packs := nodes[0].packsNamed(fmt.Sprintf("bench-%d", b.runs))
	b.measure("package of 1 MiB", where, cpu, 12, 4, packs)
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
func (b *nodesBench) measure(what, where string, cpu func() (service, database time.Duration), total, n int, f func(worker int) error) {
	for w := range n {
		if err := f(w); err != nil {
			b.t.Fatal(err)
		}
	}
	service, database := cpu()
	start := time.Now()
	all := timed(b.t, n, total, f)
	elapsed := time.Since(start)
	slices.Sort(all)
	done := time.Duration(len(all))
	s, d := cpu()
	s, d = (s-service)/done, (d-database)/done
	if b.first == nil {
		b.first = map[string]time.Duration{}
	}
	if _, ok := b.first[what]; !ok {
		b.first[what] = s
	}
	fmt.Printf("%-18s %-20s %8.1f/s  p50 %8s  p99 %8s  CPU %8s + %8s  of the first: %.2f, with the database %.2f\n", what, where,
		float64(done)/elapsed.Seconds(), all[len(all)/2].Round(10*time.Microsecond), all[len(all)*99/100].Round(10*time.Microsecond),
		s.Round(time.Microsecond), d.Round(time.Microsecond), float64(s)/float64(b.first[what]), float64(s+d)/float64(b.first[what]))
}
