package crashtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fileCalls are the system calls by which a process reads and changes files, on the
// machines that we know; "?" has strace accept a name that this machine does not
// have.
const fileCalls = "read,pread64,?open,openat,write,pwrite64,fsync,fdatasync,ftruncate,fallocate,?rename,renameat,renameat2," +
	"?unlink,unlinkat,?link,linkat,?chmod,fchmod,fchmodat,fchown,?mkdir,mkdirat"

// strace returns the program, or fails the test.
func strace(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is not installed; make setup installs it")
	}
	return path
}

// childTimeout is how long a child may take that meets a fault. It is longer than
// all that the ledger may wait for.
const childTimeout = 60 * time.Second

// run is what is left of a process.
type run struct {
	stdout, stderr []byte
	killed         bool
	hung           bool
	code           int
}

// memoryDir returns a directory in memory where there is one: to a process that is
// killed the disk makes no difference but time.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "cardkms-crash-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// runScript runs a script on a directory below strace with these options.
func runScript(kind, strace, dir string, options ...string) (run, error) {
	exe, err := os.Executable()
	if err != nil {
		return run{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), childTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, strace, append(append([]string{"-qq"}, options...), exe, dir)...)
	cmd.Env = append(os.Environ(), childVariable+"="+kind)
	return finish(ctx, cmd)
}

// finish runs a command and all that it starts to its end.
func finish(ctx context.Context, cmd *exec.Cmd) (run, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	r := run{stdout: stdout.Bytes(), stderr: stderr.Bytes(), hung: ctx.Err() != nil, code: cmd.ProcessState.ExitCode()}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	r.killed = status.Signaled() && status.Signal() == syscall.SIGKILL
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return r, err
	}
	return r, nil
}

// call is one system call on a file of the data directory.
type call struct {
	name string
	n    int // the n-th of this name in the process, from 1
	line string
}

// record runs the script without a fault and returns its calls. strace follows the
// main thread only.
func record(t testing.TB, strace string) []call {
	t.Helper()
	base := memoryDir(t)
	dir, trace := filepath.Join(base, "data"), filepath.Join(base, "trace")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := runScript("script", strace, dir, "-o", trace, "-y", "-s", "256", "-e", "trace="+fileCalls)
	if err != nil || r.code != 0 || !bytes.HasSuffix(r.stdout, []byte("done\n")) {
		t.Fatalf("the script fails without a fault: %v, %+v", err, r)
	}
	log, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	return parseCalls(string(log), dir)
}

var callName = regexp.MustCompile(`^([a-z0-9_]+)\(`)

// parseCalls counts the calls of each name, and returns those on files in dir.
func parseCalls(log, dir string) (calls []call) {
	count := map[string]int{}
	for line := range strings.Lines(log) {
		m := callName.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		count[m[1]]++
		if strings.Contains(line, dir) {
			calls = append(calls, call{m[1], count[m[1]], strings.TrimSpace(strings.ReplaceAll(line, dir, "DIR"))})
		}
	}
	return calls
}

func (c call) String() string { return fmt.Sprintf("%s %d", c.name, c.n) }
