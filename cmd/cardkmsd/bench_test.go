//go:build bench

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/pkcs11"

	"cardkms/api"
	"cardkms/kms/update"
	"cardkms/softhsm"
	"cardkms/softhsm/cardsim"
)

// TestBench compares the service with the bare PKCS#11 calls that the same work
// needs, in one run on one machine: CPU of the server's process per operation
// beside CPU of a loop of C calls through the same binding and module. It prints
// a report and asserts nothing about time.
func TestBench(t *testing.T) {
	s := newSite(t)
	b := newBare(t)
	fmt.Println("All figures from one run; CPU is of the server's process (REST) or of this process (bare).")
	bareAuth := b.measure("authenticate", 4000, (*bare).authenticate)
	bareWrap := b.measure("wrap 16 APDUs of 239 bytes", 1000, (*bare).wrap)
	barePkg := b.measure("package of 1 MiB, 1024-byte chunks", 8, (*bare).pack)
	fmt.Println()
	for _, n := range []int{1, 8, 32} {
		s.rest(fmt.Sprintf("authenticate, %d connections", n), n, 3000, bareAuth, s.authenticates(n))
	}
	for _, n := range []int{1, 8, 32} {
		s.rest(fmt.Sprintf("wrap 16 APDUs of 239 bytes, %d connections", n), n, 1500, bareWrap, s.wraps(n))
	}
	s.rest("package of 1 MiB, 1 connection", 1, 6, barePkg, s.packs())
}

// next is the number of the last card made, so that no two workers share one.
var next atomic.Uint32

// figures are of one operation.
type figures struct {
	cpu  time.Duration
	rate float64
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cpuOf reads utime and stime of a process and of its children that have ended, in ticks
// of 10 ms.
func cpuOf(pid int) (sum time.Duration) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	for _, f := range strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))[11:15] {
		ticks, _ := strconv.Atoi(f)
		sum += time.Duration(ticks) * 10 * time.Millisecond
	}
	return sum
}

// bare is a SoftHSM2 token used by nothing but the calls themselves, one session,
// one goroutine.
type bare struct {
	t                *testing.T
	c                *pkcs11.Ctx
	slot             uint
	s                pkcs11.SessionHandle
	master, enc, mac pkcs11.ObjectHandle
}

func newBare(t *testing.T) *bare {
	dir := t.TempDir()
	_ = os.Unsetenv(softhsm.ConfVariable)
	if err := softhsm.Use(dir); err != nil {
		t.Fatal(err)
	}
	module, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	b := &bare{t: t, c: pkcs11.New(module)}
	b.must(b.c.Initialize())
	slots, err := b.c.GetSlotList(true)
	b.must(err)
	b.slot = slots[0]
	b.must(b.c.InitToken(b.slot, "12345678", "bare"))
	b.s, err = b.c.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	b.must(err)
	b.must(b.c.Login(b.s, pkcs11.CKU_SO, "12345678"))
	b.must(b.c.InitPIN(b.s, "12345678"))
	b.must(b.c.Logout(b.s))
	b.must(b.c.Login(b.s, pkcs11.CKU_USER, "12345678"))
	b.master = b.generate(32, pkcs11.CKA_DERIVE)
	b.enc, b.mac = b.generate(16, pkcs11.CKA_ENCRYPT), b.generate(16, pkcs11.CKA_SIGN)
	t.Cleanup(func() { _ = b.c.Finalize(); b.c.Destroy() })
	return b
}

func (b *bare) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func usage(uses ...uint) []*pkcs11.Attribute {
	t := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
	}
	for _, u := range uses {
		t = append(t, pkcs11.NewAttribute(u, true))
	}
	return t
}

func (b *bare) generate(size int, uses ...uint) pkcs11.ObjectHandle {
	h, err := b.c.GenerateKey(b.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)},
		append(usage(uses...), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, size)))
	b.must(err)
	return h
}

func (b *bare) derive(base pkcs11.ObjectHandle, uses ...uint) pkcs11.ObjectHandle {
	data := make([]byte, 16)
	p := make([]byte, 16)
	binary.NativeEndian.PutUint64(p, uint64(uintptr(unsafe.Pointer(&data[0]))))
	binary.NativeEndian.PutUint64(p[8:], 16)
	h, err := b.c.DeriveKey(b.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_ECB_ENCRYPT_DATA, p)}, base,
		append(usage(uses...), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 16)))
	b.must(err)
	return h
}

func (b *bare) encrypt(k pkcs11.ObjectHandle, mech uint, iv []byte, n int) {
	b.must(b.c.EncryptInit(b.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mech, iv)}, k))
	_, err := b.c.Encrypt(b.s, make([]byte, n))
	b.must(err)
}

func (b *bare) cmac(k pkcs11.ObjectHandle, n int) {
	b.must(b.c.SignInit(b.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_CMAC, nil)}, k))
	_, err := b.c.Sign(b.s, make([]byte, n))
	b.must(err)
}

// authenticate makes the calls of one SCP03 authentication up to EXTERNAL
// AUTHENTICATE: the host challenge, K-ENC and K-MAC of the card, the blocks for
// their CMAC, the pseudo-random card challenge, S-MAC, both cryptograms and the
// C-MAC.
func (b *bare) authenticate() {
	_, err := b.c.GenerateRandom(b.s, 8)
	b.must(err)
	kENC := b.derive(b.master, pkcs11.CKA_DERIVE, pkcs11.CKA_ENCRYPT)
	kMAC := b.derive(b.master, pkcs11.CKA_DERIVE, pkcs11.CKA_ENCRYPT)
	b.encrypt(kMAC, pkcs11.CKM_AES_ECB, nil, 32) // E(0), E(constant)
	sMAC := b.derive(kMAC, pkcs11.CKA_SIGN)
	b.cmac(sMAC, 32)                             // card cryptogram
	b.encrypt(kENC, pkcs11.CKM_AES_ECB, nil, 32) // E(0), E(constant)
	b.encrypt(kENC, pkcs11.CKM_AES_ECB, nil, 16) // card challenge
	b.cmac(sMAC, 32)                             // host cryptogram
	b.cmac(sMAC, 29)                             // C-MAC
	for _, h := range []pkcs11.ObjectHandle{kENC, kMAC, sMAC} {
		b.must(b.c.DestroyObject(b.s, h))
	}
}

var zeroIV16 = make([]byte, 16)

// wrap makes the calls for 16 commands at level 33: one encryption and one MAC
// each.
func (b *bare) wrap() {
	for range 16 {
		b.encrypt(b.enc, pkcs11.CKM_AES_CBC, zeroIV16, 16+240)
		b.cmac(b.mac, 16+5+240)
	}
}

// pack makes the calls for 1024 chunks of 1024 bytes.
func (b *bare) pack() {
	for range 1024 {
		b.encrypt(b.enc, pkcs11.CKM_AES_CBC, zeroIV16, 16+1040)
		b.cmac(b.mac, 17+5+1045)
	}
}

// measure runs f in one goroutine, and then in one for each CPU, every one with a
// session of its own. The second is what the service is compared with: its
// client keeps the other CPU busy too, and two busy hyper-threads of one core
// each do less per second of CPU.
func (b *bare) measure(what string, n int, f func(*bare)) figures {
	f(b)
	var out figures
	for _, workers := range []int{1, runtime.NumCPU()} {
		start, cpu := time.Now(), ownCPU()
		var wg sync.WaitGroup
		for range workers {
			one := *b
			var err error
			one.s, err = b.c.OpenSession(b.slot, pkcs11.CKF_SERIAL_SESSION)
			b.must(err)
			wg.Go(func() {
				for range n / workers {
					f(&one)
				}
			})
		}
		wg.Wait()
		done := n / workers * workers
		out = figures{cpu: (ownCPU() - cpu) / time.Duration(done), rate: float64(done) / time.Since(start).Seconds()}
		fmt.Printf("bare  %-48s %10s CPU  %9.1f/s\n", fmt.Sprintf("%s, %d goroutines", what, workers), out.cpu.Round(time.Microsecond), out.rate)
	}
	return out
}

// timed runs f in n goroutines, total times in all, and returns how long each run took.
func timed(t testing.TB, n, total int, f func(worker int) error) []time.Duration {
	times := make([][]time.Duration, n)
	var wg sync.WaitGroup
	for w := range n {
		wg.Go(func() {
			for range total / n {
				t0 := time.Now()
				if err := f(w); err != nil {
					t.Error(err)
					return
				}
				times[w] = append(times[w], time.Since(t0))
			}
		})
	}
	wg.Wait()
	return slices.Concat(times...)
}

// rest runs f in n goroutines, total times in all, and prints its cost beside
// the bare one.
func (s *site) rest(what string, n, total int, bare figures, f func(worker int) error) {
	s.t.Helper()
	for w := range n {
		if err := f(w); err != nil { // warm, and one connection each
			s.t.Fatal(err)
		}
	}
	pid := s.server.Process.Pid
	start, cpu := time.Now(), cpuOf(pid)
	times := timed(s.t, n, total, f)
	done := len(times)
	used := (cpuOf(pid) - cpu) / time.Duration(max(1, done))
	rate := float64(done) / time.Since(start).Seconds()
	slices.Sort(times)
	fmt.Printf("REST  %-48s %10s CPU  %9.1f/s  p50 %8s  p99 %8s  CPU ratio %.2f  throughput ratio %.2f\n", what, used.Round(time.Microsecond), rate,
		times[done/2].Round(10*time.Microsecond), times[done*99/100].Round(10*time.Microsecond),
		float64(used)/float64(bare.cpu), rate/bare.rate)
}

func (s *site) open(card *cardsim.Card, c interface {
	OpenChannel(context.Context, string, api.OpenChannel) (api.OpenedChannel, error)
	Authenticate(context.Context, string, string, api.Authenticate) (api.AuthenticatedChannel, error)
}) (string, api.AuthenticatedChannel, error) {
	ctx := context.Background()
	o, err := c.OpenChannel(ctx, "demo", api.OpenChannel{Key: "isd"})
	if err != nil {
		return "", api.AuthenticatedChannel{}, err
	}
	answer, err := card.Transmit(o.InitializeUpdate)
	if err != nil {
		return "", api.AuthenticatedChannel{}, err
	}
	a, err := c.Authenticate(ctx, "demo", o.ID, api.Authenticate{Response: answer})
	return o.ID, a, err
}

// authenticates: each worker has its own card and connection.
func (s *site) authenticates(n int) func(int) error {
	cards := make([]*cardsim.Card, n)
	for i := range cards {
		cards[i] = s.card(next.Add(1), 1024)
	}
	return func(w int) error {
		_, _, err := s.open(cards[w], s.updateServer)
		return err
	}
}

func (s *site) wraps(n int) func(int) error {
	ids := make([]string, n)
	for i := range ids {
		id, _, err := s.open(s.card(next.Add(1), 1024), s.updateServer)
		if err != nil {
			s.t.Fatal(err)
		}
		ids[i] = id
	}
	apdu := append([]byte{0x80, 0xE2, 0x00, 0x00, 239}, make([]byte, 239)...)
	script := slices.Repeat([][]byte{apdu}, 16)
	pending := make([]int, n)
	return func(w int) error {
		// Level 33 waits for the answers of what it wrapped; a channel takes 512 scripts.
		if pending[w]++; pending[w] > 400 {
			id, _, err := s.open(s.card(next.Add(1), 1024), s.updateServer)
			if err != nil {
				return err
			}
			ids[w], pending[w] = id, 1
		}
		_, err := s.updateServer.Wrap(context.Background(), "demo", ids[w], script)
		return err
	}
}

// packs streams the sealed chunks of a package of 1 MiB.
func (s *site) packs() func(int) error { return s.packsNamed("bench") }

func (s *site) packsNamed(name string) func(int) error {
	ctx := context.Background()
	content := random(1 << 20)
	d := s.image(name, content)
	_, err := s.updateServer.RegisterImage(ctx, "demo", d)
	s.must("", err)
	_, err = s.updateServer.UploadImage(ctx, "demo", name, int64(d.Size), bytes.NewReader(content))
	s.must("", err)
	card := s.card(next.Add(1), 1<<20)
	id, a, err := s.open(card, s.updateServer)
	s.must("", err)
	if _, err := card.Transmit(a.ExternalAuthenticate); err != nil {
		s.t.Fatal(err)
	}
	w, err := s.updateServer.Wrap(ctx, "demo", id, [][]byte{update.GetStatus().Bytes()})
	s.must("", err)
	status, err := card.Transmit(w[0])
	s.must("", err)
	p, err := s.updateServer.CreatePackage(ctx, "demo", api.CreatePackage{Channel: id, Image: name, UpdateKey: "upd", KVN: 0x5A, Status: status})
	s.must("", err)
	return func(int) error {
		_, err := s.updateServer.DownloadChunks(ctx, "demo", p.ID, 1, io.Discard)
		return err
	}
}
