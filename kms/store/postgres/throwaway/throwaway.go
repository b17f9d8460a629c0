// Package throwaway runs a PostgreSQL server of its own in a directory, for tests and
// demonstrations: it listens on a UNIX socket only, belongs to nobody else, and can be
// killed.
//
// The programs are those of the Debian package postgresql. Because the server refuses
// to run as root, root runs it as the user postgres, whom that package makes.
package throwaway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	socket  = ".s.PGSQL.5432"
	startIn = 30 * time.Second
)

// Cluster is a server. It is not safe for concurrent use.
type Cluster struct {
	bin, dir string
	process  *exec.Cmd
	ended    chan struct{} // closed when the process has ended
}

// Start makes a cluster in a new directory and starts its server.
func Start(ctx context.Context) (c *Cluster, err error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	// Directly below the temporary directory: the path of a socket has at most 107 bytes.
	dir, err := os.MkdirTemp("", "cardkms-pg-")
	if err != nil {
		return nil, err
	}
	c = &Cluster{bin: bin, dir: dir}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	if who := credential(); who != nil {
		if err := os.Chown(dir, int(who.Uid), int(who.Gid)); err != nil {
			return nil, err
		}
	}
	initdb := c.command(ctx, "initdb", "-D", c.data(), "-U", "cardkms", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("making a PostgreSQL cluster: %w: %s", err, out)
	}
	return c, c.Restart(ctx)
}

// programs returns the directory of the newest server that is installed.
func programs() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is right
	if len(found) == 0 {
		return "", errors.New("PostgreSQL is not installed; `make setup` installs the Debian package postgresql")
	}
	newest := func(a, b string) int { return version(a) - version(b) }
	return slices.MaxFunc(found, newest), nil
}

func version(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin))) // 0 for what is no number
	return n
}

// credential returns whom root runs the server as, nil for anybody else.
func credential() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil // the server then says that it does not run as root
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32) // the C library's own numbers
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func (c *Cluster) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	// A group of its own: a signal that stops a demonstration must not stop this.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(), Setpgid: true, Pdeathsig: syscall.SIGINT}
	return cmd
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

// URL returns the connection string of a database of the cluster. The database
// postgres is always there.
func (c *Cluster) URL(database string) string {
	q := url.Values{"host": {c.dir}, "user": {"cardkms"}}
	return (&url.URL{Scheme: "postgres", Path: "/" + database, RawQuery: q.Encode()}).String()
}

// Dir returns the directory of the socket.
func (c *Cluster) Dir() string { return c.dir }

// hba has every user but the administrator show a password.
const hba = "local all cardkms trust\nlocal all all scram-sha-256\n"

// Passwords has the server ask every user for a password, but not the administrator, cardkms.
func (c *Cluster) Passwords(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(c.data(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return err
	}
	_, err := c.SQL(ctx, "postgres", "SELECT pg_reload_conf()")
	return err
}

// SQL runs statements in a database, as the operator would with psql, and returns what
// it prints.
func (c *Cluster) SQL(ctx context.Context, database, statements string) (string, error) {
	cmd := c.command(ctx, "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", c.dir, "-U", "cardkms", "-d", database, "-c", statements)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, out)
	}
	return string(out), nil
}

// Restart starts the server again after Stop or Kill, and returns when it accepts
// connections. While processes of a killed server are still ending, it refuses to start,
// and is started again.
func (c *Cluster) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startIn)
	defer cancel()
	for {
		err := c.start(ctx)
		if err == nil || !strings.Contains(err.Error(), "still in use") || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *Cluster) start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	// Not bound to ctx: it bounds the start, not the server's life.
	c.process = c.command(context.WithoutCancel(ctx), "postgres", "-D", c.data(), "-k", c.dir,
		"-c", "listen_addresses=", "-c", "max_connections=200", "-c", "shared_buffers=64MB")
	c.process.Stdout, c.process.Stderr = log, log
	if err := c.process.Start(); err != nil {
		return err
	}
	c.ended = make(chan struct{})
	go func(p *exec.Cmd, ended chan<- struct{}) { _ = p.Wait(); close(ended) }(c.process, c.ended)
	return c.await(ctx)
}

// await waits until psql gets an answer: a socket is there before the server is ready.
func (c *Cluster) await(ctx context.Context) error {
	for {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(c.dir, socket)); err == nil {
			_ = conn.Close()
			if _, err := c.SQL(ctx, "postgres", "SELECT 1"); err == nil {
				return nil
			}
		}
		select {
		case <-c.ended:
			said, _ := os.ReadFile(filepath.Join(c.dir, "log"))
			return fmt.Errorf("PostgreSQL ended: %s", said)
		case <-ctx.Done():
			return fmt.Errorf("waiting for PostgreSQL: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Signal sends a signal to the server's first process: SIGSTOP and SIGCONT, say.
func (c *Cluster) Signal(s os.Signal) error { return c.process.Process.Signal(s) }

// Stall stops every process of the server without ending it, as a host that hangs does,
// and returns what lets them go on.
func (c *Cluster) Stall() (resume func(), err error) {
	all, err := c.Processes()
	if err != nil {
		return nil, err
	}
	signal := func(s syscall.Signal) {
		for _, pid := range all {
			_ = syscall.Kill(pid, s) // one that has ended needs none
		}
	}
	signal(syscall.SIGSTOP)
	return func() { signal(syscall.SIGCONT) }, nil
}

// Processes returns the ids of the server's processes, its first one first.
func (c *Cluster) Processes() ([]int, error) {
	first := c.process.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", first))
	if err != nil {
		return nil, err
	}
	all := []int{first}
	for text := range strings.FieldsSeq(string(children)) {
		pid, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		all = append(all, pid)
	}
	return all, nil
}

// Kill kills the server's first process. The others end by themselves when they see it,
// and write nothing more.
func (c *Cluster) Kill() {
	_ = c.Signal(syscall.SIGKILL)
	<-c.ended
}

// Stop has the server end its connections and stop in order.
func (c *Cluster) Stop() {
	_ = c.Signal(syscall.SIGINT)
	<-c.ended
}

// Close stops the server and removes the directory.
func (c *Cluster) Close() error {
	if c.process != nil && c.process.ProcessState == nil && c.ended != nil {
		c.Kill()
	}
	return os.RemoveAll(c.dir)
}
