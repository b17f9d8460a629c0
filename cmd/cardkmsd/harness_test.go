package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	"cardkms/api/client"
	"cardkms/kms/kmstest"
	"cardkms/softhsm/cardsim"
)

// childVariable makes the test binary behave as cardkmsd, so that tests run the
// real program in a process of its own.
const childVariable = "CARDKMSD_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(providerVariable) != "" {
		providerMain()
	}
	if os.Getenv(childVariable) != "" {
		if every, err := time.ParseDuration(os.Getenv("CARDKMSD_TEST_FILES_EVERY")); err == nil {
			filesEvery = every
		}
		if wait, err := time.ParseDuration(os.Getenv("CARDKMSD_TEST_CALL_WAIT")); err == nil {
			callWait = wait
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		endProfile := startProfile()
		code := run(ctx, os.Args[1:])
		endProfile()
		stop()
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// startProfile writes a CPU profile of the child to the file that this variable
// names, for whoever looks into a figure of the benchmark.
func startProfile() func() {
	path := os.Getenv("CARDKMSD_TEST_PROFILE")
	if path == "" || os.Args[1] != "serve" {
		return func() {}
	}
	f, err := os.Create(path)
	if err != nil {
		return func() {}
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return func() {}
	}
	return pprof.StopCPUProfile
}

// site is a development set-up with keys that the test knows. Sites share nothing, so tests
// that wait for a bound of the service to pass run beside each other (t.Parallel).
type site struct {
	t            testing.TB
	dir, url     string
	server       *exec.Cmd
	log          *kmstest.Log
	master, upd  []byte
	updateServer *client.Client
	env          []string // of every command, beside the test's own
	file         string   // name of the configuration; empty for cardkms.yaml
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// cardkmsd runs one command of the program and returns what it printed.
func (s *site) cardkmsd(stdin string, args ...string) (string, error) {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), childVariable+"=1", "SOFTHSM2_CONF="), s.env...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *site) must(out string, err error) string {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// freeAddress returns an address of this machine that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newSite makes a set-up with these lines more in its configuration, loads the masters and
// starts the server.
func newSite(t testing.TB, lines ...string) *site {
	t.Helper()
	addr := freeAddress(t)
	s := &site{t: t, dir: filepath.Join(t.TempDir(), "kms"), url: "https://" + addr, master: random(32), upd: random(16), log: new(kmstest.Log)}
	s.must(s.cardkmsd("", "init", s.dir, "--listen", addr))
	s.configure(func(text string) string { return text + strings.Join(lines, "\n") })
	s.loadKeys()
	s.serve()
	s.updateServer = s.client("update-server")
	return s
}

// configure changes the text of the configuration.
func (s *site) configure(change func(string) string) {
	s.t.Helper()
	b, err := os.ReadFile(s.config())
	s.must("", err)
	s.must("", os.WriteFile(s.config(), []byte(change(string(b))), 0o600))
}

func (s *site) config() string { return filepath.Join(s.dir, cmp.Or(s.file, "cardkms.yaml")) }

// loadKeys makes the masters that the test knows, each from two components, in a
// ceremony that two officers signed.
func (s *site) loadKeys() {
	s.t.Helper()
	var y yamlKeys
	y.components("isd", "gp-scp03", "30", s.master)
	y.components("upd", "card-update", "5A", s.upd)
	file := s.ceremony("first", "together: true\nkeys:\n"+y.text+devProfiles)
	s.must(s.cardkmsd(y.stdin, "ceremony", "run", "--yes", file))
}

func (s *site) serve() {
	s.t.Helper()
	if !<-s.launch() {
		s.t.Fatalf("the server did not start:\n%s", s.log)
	}
}

// launch starts the server. The channel gets true when it serves, and is closed when it
// has printed its last line.
func (s *site) launch() <-chan bool {
	s.t.Helper()
	s.server = exec.Command(os.Args[0], "serve", "--config", s.config())
	s.server.Env = append(append(os.Environ(), childVariable+"=1", "SOFTHSM2_CONF="), s.env...)
	pipe, err := s.server.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.server.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.stop)
	ready := make(chan bool, 1)
	go func() {
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			fmt.Fprintln(s.log, lines.Text())
			if strings.Contains(lines.Text(), `"msg":"serving"`) {
				ready <- true
			}
		}
		close(ready)
	}()
	return ready
}

func (s *site) stop() {
	if s.server == nil {
		return
	}
	_ = s.server.Process.Signal(syscall.SIGTERM)
	_ = s.server.Wait()
	s.server = nil
}

func (s *site) client(role string) *client.Client {
	s.t.Helper()
	pem, err := os.ReadFile(filepath.Join(s.dir, "tls", "ca.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	cas := x509.NewCertPool()
	cas.AppendCertsFromPEM(pem)
	c, err := client.New(client.Config{
		BaseURL: s.url, RootCAs: cas, Timeout: time.Minute,
		CertFile: filepath.Join(s.dir, "tls", role+".pem"), KeyFile: filepath.Join(s.dir, "tls", role+".key"),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

var isdAID = []byte{0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00}

// card makes a card of the issuer, number n.
func (s *site) card(n uint32, bank int) *cardsim.Card {
	s.t.Helper()
	cfg := cardsim.Config{
		KDD: [10]byte{6: byte(n >> 24), 7: byte(n >> 16), 8: byte(n >> 8), 9: byte(n)}, ISD: isdAID, I: 0x70,
		ClassID: [16]byte{1}, Component: isdAID, Version: [8]byte{1}, SecurityCounter: 1, Image: []byte("factory"), BankBytes: bank,
	}
	set, err := cardsim.Personalise(s.master, cfg.KDD, 0x30, 16)
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.KeySets = []cardsim.KeySet{set}
	if cfg.UpdateKey, err = cardsim.PersonaliseUpdate(s.upd, cfg.KDD, 0x5A, 16); err != nil {
		s.t.Fatal(err)
	}
	c, err := cardsim.New(cfg, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	c.PowerOn()
	return c
}
