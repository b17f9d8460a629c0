package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cardkms/deploy"
	"cardkms/kms/store/postgres/throwaway"
)

// cluster is the story of the rotation with three nodes, PostgreSQL and a load balancer,
// of which nodes and database are killed while the cards move.
type cluster struct {
	*rotation
	database *throwaway.Cluster
	nodes    []*node
	balancer *exec.Cmd
	kills    int
}

// node is one cardkmsd.
type node struct {
	name, address, config string
	process               *exec.Cmd
	ended                 chan struct{}
}

const nodesMade = 3

func runCluster(ctx context.Context, d *demo) error {
	d.initFlags = []string{"--load-balancer"}
	c := &cluster{rotation: &rotation{demo: d, patience: []string{"--wait", "250ms", "--tries", "200"}}}
	defer c.close()
	for _, step := range []func(context.Context) error{
		d.setUp, d.loadKeys, c.makeFleet, c.serveTogether, c.importFleet, c.newVersion, c.moveThroughFailures, c.deactivate, c.prove, c.verify,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	say("Done: %d cards have new keys, %d cuts of their power in steps 7 and 9, nodes and database killed %d times; no card and no entry is lost.\n"+
		"Everything above was checked, not only printed.", fleetSize, c.torn.Load(), c.kills)
	return nil
}

func (c *cluster) close() {
	if c.balancer != nil {
		_ = c.balancer.Process.Kill()
		_ = c.balancer.Wait()
	}
	for _, n := range c.nodes {
		n.kill()
	}
	if c.database != nil {
		_ = c.database.Close()
	}
}

// serveTogether moves the set-up to PostgreSQL and starts the nodes and what stands
// before them.
func (c *cluster) serveTogether(ctx context.Context) (err error) {
	say("4. The set-up moves from its SQLite file to a PostgreSQL server, and its log goes on there. Three nodes share that and the\n" +
		"   token. A load balancer (HAProxy) sends each request to the node that its channel is on, and says whose certificate it saw.")
	if c.database, err = throwaway.Start(ctx); err != nil {
		return err
	}
	old := filepath.Join(c.dir, "cardkms.yaml")
	for i := range nodesMade {
		n, err := c.makeNode(fmt.Sprintf("n%d", i+1), old)
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
	}
	if _, err := c.command(ctx, "", "cardkmsd", "store", "migrate", "--from", old, "--config", c.nodes[0].config); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := n.start(c.bin); err != nil {
			return err
		}
	}
	if err := c.balance(); err != nil {
		return err
	}
	_, err = c.command(ctx, "", "cardkms", "key", "list", "--as", "security-officer")
	return err
}

// makeNode writes the configuration of a node: the set-up's own, with a name, an address
// and the database.
func (c *cluster) makeNode(name, from string) (*node, error) {
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(c.dir, "anchor-"+name), 0o700); err != nil {
		return nil, err
	}
	n := &node{name: name, address: address, config: filepath.Join(c.dir, name+".yaml")}
	y := strings.NewReplacer(
		strings.TrimPrefix(c.url, "https://"), address,
		"data: data\n", fmt.Sprintf("data: data-%s\nnode: %[1]s\ndatabase: {url: %q}\n", name, c.database.URL("postgres")),
		"file: anchor/checkpoint", "file: anchor-"+name+"/checkpoint",
	).Replace(string(text))
	return n, os.WriteFile(n.config, []byte(y), 0o600)
}

// log is the file with what all processes of the node said.
func (n *node) log() string { return strings.TrimSuffix(n.config, ".yaml") + ".log" }

// start starts a node and returns when it listens.
func (n *node) start(bin string) error {
	log, err := os.OpenFile(n.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	n.process = exec.Command(filepath.Join(bin, "cardkmsd"), "serve", "--config", n.config) //nolint:gosec // our own program
	n.process.Env = append(os.Environ(), "SOFTHSM2_CONF=")
	n.process.Stderr, n.process.Stdout = log, log
	n.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.process.Start(); err != nil {
		return err
	}
	n.ended = make(chan struct{})
	go func(p *exec.Cmd, ended chan struct{}) { _ = p.Wait(); close(ended) }(n.process, n.ended)
	for range 300 {
		select {
		case <-n.ended:
			return fmt.Errorf("node %s ended; %s says why", n.name, n.log())
		case <-time.After(100 * time.Millisecond):
		}
		if conn, err := net.Dial("tcp", n.address); err == nil {
			return conn.Close()
		}
	}
	return fmt.Errorf("node %s does not listen after 30 seconds", n.name)
}

// kill ends a node as a loss of power would.
func (n *node) kill() {
	if n.process == nil {
		return
	}
	_ = n.process.Process.Kill()
	<-n.ended
}

// balance starts HAProxy at the address that the set-up was made for.
func (c *cluster) balance() error {
	tls := func(name string) string { return filepath.Join(c.dir, "tls", name) }
	for _, name := range []string{"server", "load-balancer"} { // HAProxy wants both in one file
		cert, err := os.ReadFile(tls(name + ".pem"))
		if err != nil {
			return err
		}
		key, err := os.ReadFile(tls(name + ".key"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(tls(name+".both"), append(cert, key...), 0o600); err != nil {
			return err
		}
	}
	// The file that is deployed, with the places of this machine.
	cfg := strings.NewReplacer(
		"bind :8443", "bind "+strings.TrimPrefix(c.url, "https://"),
		"/etc/haproxy/clients.pem", tls("server.both"), "/etc/haproxy/nodes.pem", tls("load-balancer.both"),
		"/etc/haproxy/clients-ca.pem", tls("ca.pem"), "/etc/haproxy/nodes-ca.pem", tls("ca.pem"), "check inter 1s", "check inter 200ms",
		"n1.kms.internal:8443", c.nodes[0].address, "n2.kms.internal:8443", c.nodes[1].address, "n3.kms.internal:8443", c.nodes[2].address,
		"n1.kms.internal", "localhost", "n2.kms.internal", "localhost", "n3.kms.internal", "localhost", // of one certificate
	).Replace(deploy.HAProxy)
	path := filepath.Join(c.dir, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(cfg), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(c.dir, "haproxy.log"))
	if err != nil {
		return err
	}
	balancer := exec.Command("/usr/sbin/haproxy", "-db", "-f", path) //nolint:gosec // the Debian package's
	balancer.Stdout, balancer.Stderr = log, log
	balancer.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := balancer.Start(); err != nil {
		return fmt.Errorf("starting the load balancer (make demo-cluster installs it): %w", err)
	}
	c.balancer = balancer
	for range 100 {
		if conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "https://")); err == nil {
			return conn.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	said, _ := os.ReadFile(log.Name())
	return fmt.Errorf("the load balancer does not listen:\n%s", said)
}

// moveThroughFailures moves the cards while one node after the other is killed and started
// again, and the database once.
func (c *cluster) moveThroughFailures(ctx context.Context) error {
	moving, stop := context.WithCancel(ctx)
	defer stop()
	failures := make(chan error, 1)
	go func() {
		failed := c.failures(moving)
		if failed != nil {
			stop() // the cards would wait for what does not come back
		}
		failures <- failed
	}()
	err := c.move(moving)
	stop()
	if failed := <-failures; failed != nil {
		return fmt.Errorf("what was killed did not come back: %w", failed)
	}
	if err == nil && c.kills < 3 {
		err = fmt.Errorf("the cards had moved after %d kills", c.kills)
	}
	return err
}

// failures kills what serves the cards until ctx ends. Everything runs when it returns.
func (c *cluster) failures(ctx context.Context) error {
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(1500 * time.Millisecond):
		}
		c.kills++
		if i == 1 {
			fmt.Println("    *** PostgreSQL is killed, and starts again ***")
			c.database.Kill()
			if err := c.database.Restart(context.WithoutCancel(ctx)); err != nil {
				return err
			}
			continue
		}
		n := c.nodes[i%len(c.nodes)]
		fmt.Printf("    *** node %s is killed, and starts again ***\n", n.name)
		n.kill()
		if err := n.start(c.bin); err != nil {
			return err
		}
	}
}
