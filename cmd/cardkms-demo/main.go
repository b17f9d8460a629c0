// Command cardkms-demo shows the main job on one machine, in plain words: a
// throw-away SoftHSM2 token, the real server and client as processes of their
// own, and a simulated card whose power is cut at three places. "cardkms-demo
// rogue" shows what an administrator of the database can try, and what comes of
// it; "cardkms-demo rotation" replaces a master key and moves a thousand cards;
// "cardkms-demo cluster" does so with three nodes that are killed meanwhile;
// "cardkms-demo card" is a simulated card by itself. It ends with a status other
// than zero if anything is not as it says.
package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"cardkms/softhsm/cardsim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, errUsage) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cardkms-demo: this should not have happened:", err)
		os.Exit(1)
	}
}

// demo is one run of the story.
type demo struct {
	dir, bin, url string
	card          *cardsim.Card
	address       string // of the card
	initFlags     []string
	server        *exec.Cmd
	serverEnded   chan struct{}
	cuts          atomic.Int32
	master        []byte
	updateMaster  []byte
	issuer        [3][]byte // issuer master keys of EMV: cryptograms, script integrity, script confidentiality
	oldMaster     []byte    // of SCP02
}

const (
	imageBytes = 64 << 10
	kvn        = 0x30
	cardI      = 0x70 // 8-byte challenges, pseudo-random; R-MAC and R-ENCRYPTION
	updateKVN  = 0x5A
)

var (
	isd   = []byte{0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00}
	class = [16]byte{0x10, 0xC3, 0xF0, 0xE8, 0xB0, 0x6B, 0x1D, 0x5B, 0x7E, 0x9A, 0x7D, 0x2F, 0x7C, 0x5E, 0x1A, 0x4B}
	kdd   = [10]byte{0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09}
)

var errUsage = errors.New(`usage: cardkms-demo [STORY]

  (none)     update a card whose power is cut three times, serve one of SCP02 and a bank card, verify the log
  rogue      an administrator of the database attacks it, ten times
  rotation   officers replace a master key, and 1,000 cards get keys of the new one while their power fails
  cluster    the same with three nodes, PostgreSQL and a load balancer (HAProxy), which are killed meanwhile
  card       only a simulated card, for a service that runs; "cardkms-demo card -help" lists its flags`)

func run(ctx context.Context, args []string) (err error) {
	story := map[string]func(context.Context, *demo) error{"": runUpdate, "rogue": runRogue, "rotation": runRotation, "cluster": runCluster}
	name := strings.Join(args, " ")
	switch {
	case len(args) > 0 && args[0] == "card":
		return runCard(ctx, args[1:])
	case name == "-h" || name == "--help" || name == "help":
		fmt.Println(errUsage)
		return nil
	case story[name] == nil:
		return errUsage
	}
	dir, err := os.MkdirTemp("", "cardkms-demo-")
	if err != nil {
		return err
	}
	d := &demo{dir: filepath.Join(dir, "kms")}
	defer func() {
		d.stopServer()
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "What is left, logs too, is in %s.\n", dir)
			return
		}
		if removed := os.RemoveAll(dir); removed == nil && err == nil { // with what lies beside kms
			fmt.Printf("%s, where all of it was, is removed.\n", dir)
		}
	}()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	d.bin = filepath.Dir(exe)
	fmt.Println("Everything here runs on this machine: a software token, simulated cards; this program plays all people.")
	return story[name](ctx, d)
}

// runUpdate is the main job.
func runUpdate(ctx context.Context, d *demo) error {
	for _, step := range []func(context.Context) error{
		d.setUp, d.loadKeys, d.loadOldKey, d.makeCard, d.serve, d.registerImage, d.refuseUnsigned, d.update, d.oldCard, d.payment, d.verifyLog,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	say("Done. Everything above was checked, not only printed.")
	return nil
}

func say(format string, args ...any) { fmt.Printf("\n"+format+"\n", args...) }

// program is one of our programs, set up for the service of the demonstration.
func (d *demo) program(ctx context.Context, stdin string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, name), args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "CARDKMS_SERVER="+d.url, "CARDKMS_TLS="+filepath.Join(d.dir, "tls"), "SOFTHSM2_CONF=")
	return cmd
}

// command runs one of our programs and shows what it prints, indented.
func (d *demo) command(ctx context.Context, stdin string, name string, args ...string) (string, error) {
	cmd := d.program(ctx, stdin, name, args...)
	out := &indented{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return out.all.String(), err
}

// quiet runs one of our programs and shows what it prints only if it fails.
func (d *demo) quiet(ctx context.Context, stdin string, name string, args ...string) (string, error) {
	cmd := d.program(ctx, stdin, name, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args[:min(2, len(args))], " "), err, out, errs.String())
	}
	return string(out), err
}

// indented prints what a program writes as it comes, and keeps it. One goroutine
// writes: exec uses one for both streams when they are the same value.
type indented struct{ all, line bytes.Buffer }

func (w *indented) Write(p []byte) (int, error) {
	w.all.Write(p)
	w.line.Write(p)
	for {
		line, rest, ok := bytes.Cut(w.line.Bytes(), []byte("\n"))
		if !ok {
			return len(p), nil
		}
		fmt.Printf("    %s\n", line)
		w.line = *bytes.NewBuffer(bytes.Clone(rest))
	}
}

// freePort returns an address that nobody listens at. It is below the ports that the
// system gives to whoever asks for any (32768 on Linux): a thousand simulated cards
// ask for one before the server takes this.
func freePort() (string, error) {
	const lowest, ports, tries = 20_000, 12_000, 50
	var err error
	for range tries {
		addr := fmt.Sprintf("127.0.0.1:%d", lowest+int(binary.BigEndian.Uint16(random(2)))%ports)
		var l net.Listener
		if l, err = net.Listen("tcp4", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", err
}

func (d *demo) setUp(ctx context.Context) error {
	addr, err := freePort()
	if err != nil {
		return err
	}
	d.url = "https://" + addr
	say("1. Set up: a new PKCS#11 token (SoftHSM2), the log's signing key inside it, a CA and certificates.")
	_, err = d.quiet(ctx, "", "cardkmsd", append([]string{"init", d.dir, "--listen", addr}, d.initFlags...)...)
	if err == nil {
		fmt.Printf("    made in %s\n", d.dir)
	}
	return err
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// components splits a value into two XOR components, as their custodians type them,
// and describes them for a ceremony's file.
func components(value []byte) (typed, described string) {
	return split(value, random(len(value)), checkValue)
}

func split(value, one []byte, check func([]byte) string) (typed, described string) {
	two := make([]byte, len(value))
	for i := range two {
		two[i] = value[i] ^ one[i]
	}
	described = fmt.Sprintf("{kcv: %q, components: [{custodian: alice, kcv: %q}, {custodian: bert, kcv: %q}]}", check(value), check(one), check(two))
	return hex.EncodeToString(one) + "\n" + hex.EncodeToString(two) + "\n", described
}

// checkValue is the key check value that the custodians' sheets show: AES over 16
// bytes 01, the first 3 bytes.
func checkValue(k []byte) string {
	b, err := aes.NewCipher(k)
	if err != nil {
		panic("cardkms-demo: " + err.Error())
	}
	block := bytes.Repeat([]byte{1}, 16)
	b.Encrypt(block, block)
	return fmt.Sprintf("gp-aes:%X", block[:3])
}

func (d *demo) loadKeys(ctx context.Context) error {
	d.master, d.updateMaster = random(32), random(16)
	say("2. Two custodians bring the card issuer's master keys (GlobalPlatform, updates, EMV), each a component that alone says nothing. One reviewed file\n" +
		"   says what happens; two officers sign it. The token takes the sum; from now on only operations with it come out.")
	typed, first := components(d.master)
	more, second := components(d.updateMaster)
	typed += more
	file := filepath.Join(d.dir, "masters.yaml")
	text := "ceremony: Masters of the card issuer\nconfiguration: cardkms.yaml\npresent: [ada, bob]\ntogether: true\nkeys:\n" +
		"  - {issuer: demo, key: isd, usage: gp-scp03, kvn: \"30\", algorithm: aes-256, master: " + first + "}\n" +
		"  - {issuer: demo, key: upd, usage: card-update, kvn: \"5A\", algorithm: aes-128, master: " + second + "}\n"
	for i, use := range []string{"ac", "smi", "smc"} {
		value, keys, described := tdeaMaster()
		d.issuer[i] = value
		typed += keys
		text += "  - {issuer: demo, key: " + use + ", usage: emv-" + use + ", kvn: \"01\", algorithm: tdea-2key, cardAlgorithm: tdea-2key, diversification: emv-option-a, master: " + described + "}\n"
	}
	text += "profiles:\n" + described("default", "scp03", fmt.Sprintf("i: \"%X\"\nlevel: \"33\"\nkeys: {algorithm: aes-128, diversification: kdf3, kvn: {from: \"30\", to: \"3F\"}}", cardI))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	if err := d.sign(ctx, file); err != nil {
		return err
	}
	_, err := d.command(ctx, typed, "cardkmsd", "ceremony", "run", "--yes", file)
	return err
}

// described is a card profile in a ceremony's file.
func described(name, protocol, rest string) string {
	document := fmt.Sprintf("name: %s\nprotocol: %s\naid: \"%X\"\n%s", name, protocol, isd, rest)
	return "  - issuer: demo\n    document: |\n      " + strings.ReplaceAll(document, "\n", "\n      ") + "\n"
}

// sign has two officers of the development set-up sign a file.
func (d *demo) sign(ctx context.Context, file string) error {
	officers := filepath.Join(d.dir, "officers")
	for _, name := range []string{"ada", "bob"} {
		cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "cardkms"), "ceremony", "approve", file, "--officer", name, "--yes",
			"--key", filepath.Join(officers, name), "--passphrase-file", filepath.Join(officers, "passphrase"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("signing %s: %w\n%s", file, err, out)
		}
	}
	return nil
}

func (d *demo) makeCard(ctx context.Context) error {
	keys, err := cardsim.Personalise(d.master, kdd, kvn, 16)
	if err != nil {
		return err
	}
	update, err := cardsim.PersonaliseUpdate(d.updateMaster, kdd, updateKVN, 16)
	if err != nil {
		return err
	}
	d.card, err = cardsim.New(cardsim.Config{
		KDD: kdd, ISD: isd, KeySets: []cardsim.KeySet{keys}, I: cardI, UpdateKey: update, ClassID: class,
		Component: isd, Version: [8]byte{1}, SecurityCounter: 1, Image: []byte("factory image"), BankBytes: imageBytes,
	}, nil)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d.address = "tcp:" + l.Addr().String()
	reader := &cardsim.Server{Card: d.card, Before: d.cut()}
	go func() { _ = reader.Serve(ctx, l) }()
	say("3. A factory personalises a card with keys derived from those masters, and it goes into a reader at %s.\n"+
		"   It runs version 01 of its operating system.", d.address)
	return nil
}

// cut returns what cuts the card's power: in the middle of the download, in the
// write that commits, and in the first boot of the new version.
func (d *demo) cut() func([]byte) {
	next := 0
	strike := func(what string, write int) {
		fmt.Printf("    *** power cut %d: %s ***\n", next+1, what)
		next++
		d.cuts.Add(1)
		d.card.NVM().CutAt(write, cardsim.Tears[next%len(cardsim.Tears)])
	}
	return func(frame []byte) {
		s := d.card.Status()
		storing := len(frame) > 4 && frame[1] == 0xE2
		switch {
		case next == 0 && storing && s.State == cardsim.StateStaging && len(s.Missing) == imageBytes/1024/2:
			strike("while the card writes the chunks", 100)
		case next == 1 && storing && s.State == cardsim.StateStaging && len(s.Missing) == 0:
			strike("while the card writes that the package is complete", 5)
		case next == 2 && len(frame) == 1 && s.State == cardsim.StatePending:
			strike("while the new version starts for the first time", 3)
		}
	}
}

func (d *demo) serve(ctx context.Context) error {
	say("4. The service starts. It finds out what its token can do, checks every key in it, and listens with mutual TLS.")
	if err := d.serveQuietly(ctx); err != nil {
		return err
	}
	_, err := d.command(ctx, "", "cardkms", "key", "list", "--as", "security-officer")
	return err
}

// serveQuietly starts the server and returns when it listens.
func (d *demo) serveQuietly(ctx context.Context) error {
	d.server = exec.CommandContext(ctx, filepath.Join(d.bin, "cardkmsd"), "serve", "--config", filepath.Join(d.dir, "cardkms.yaml"))
	d.server.Env = append(os.Environ(), "SOFTHSM2_CONF=")
	var log bytes.Buffer
	d.server.Stderr, d.server.Stdout = &log, &log
	d.server.Cancel = func() error { return d.server.Process.Signal(syscall.SIGTERM) }
	if err := d.server.Start(); err != nil {
		return err
	}
	d.serverEnded = make(chan struct{})
	go func() { _ = d.server.Wait(); close(d.serverEnded) }()
	for range 100 {
		select {
		case <-d.serverEnded:
			return fmt.Errorf("the server ended:\n%s", log.String())
		case <-time.After(100 * time.Millisecond):
		}
		conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "https://"))
		if err == nil {
			return conn.Close()
		}
	}
	return errors.New("the server does not listen after 10 seconds")
}

func (d *demo) stopServer() {
	if d.server == nil || d.server.Process == nil {
		return
	}
	_ = d.server.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.serverEnded:
	case <-time.After(10 * time.Second):
		_ = d.server.Process.Kill()
	}
}

func (d *demo) registerImage(ctx context.Context) error {
	say("5. The vendor signs version 02, and the service checks the signature, the digest and the CRC before it takes it.")
	content, description := filepath.Join(d.dir, "cos-02.bin"), filepath.Join(d.dir, "cos-02.json")
	if err := os.WriteFile(content, random(imageBytes), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "cardkms"), "image", "sign", "--name", "cos-02", "--content", content,
		"--release-key", filepath.Join(d.dir, "release", "release.key"), "--class", hex.EncodeToString(class[:]),
		"--from", "0100000000000000", "--to", "0200000000000000", "--security-counter", "2")
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("signing the image: %w", err)
	}
	if err := os.WriteFile(description, out, 0o600); err != nil {
		return err
	}
	_, err = d.command(ctx, "", "cardkms", "image", "register", description, "--content", content)
	return err
}

func (d *demo) refuseUnsigned(ctx context.Context) error {
	say("6. An image whose description was changed after signing is refused:")
	b, err := os.ReadFile(filepath.Join(d.dir, "cos-02.json"))
	if err != nil {
		return err
	}
	forged := filepath.Join(d.dir, "forged.json")
	text := strings.ReplaceAll(string(b), `"cos-02"`, `"cos-99"`)
	text = strings.ReplaceAll(text, `"securityCounter": 2`, `"securityCounter": 9`)
	if err := os.WriteFile(forged, []byte(text), 0o600); err != nil {
		return err
	}
	out, err := d.command(ctx, "", "cardkms", "image", "register", forged, "--content", filepath.Join(d.dir, "cos-02.bin"))
	if err == nil || !strings.Contains(out, "image_unverified") {
		return errors.New("the forged image was not refused as unverified")
	}
	return nil
}

func (d *demo) update(ctx context.Context) error {
	before := cardsim.GoldenTranscript(d.card)
	say("7. The update. Card and service prove themselves to each other; the token derives this card's keys and the keys of\n" +
		"   this one package from the two challenges; the card gets ciphertext. We cut its power three times.")
	start := time.Now()
	if _, err := d.command(ctx, "", "cardkms", "update", "--card", d.address, "--image", "cos-02", "--wait", "100ms"); err != nil {
		return err
	}
	if n := d.cuts.Load(); n != 3 {
		return fmt.Errorf("the power was cut %d times, not three times", n)
	}
	if v := d.card.Status().Version; v != [8]byte{2} {
		return fmt.Errorf("the card runs version %X", v)
	}
	say("   The card runs version 02 after %.1f seconds and three power cuts. Its normal functions: ", time.Since(start).Seconds())
	d.card.PowerOff()
	if err := cardsim.SameTranscript(before, cardsim.GoldenTranscript(d.card)); err != nil {
		return fmt.Errorf("the normal functions changed: %w", err)
	}
	fmt.Printf("   %d exchanges (files, PIN, applet, authentication at every level) answer as before the update.\n", len(before))
	return nil
}

func (d *demo) verifyLog(ctx context.Context) error {
	say("10. An auditor checks the log with nothing but its public key: every entry is there, unchanged, in order.")
	if _, err := d.command(ctx, "", "cardkms", "audit", "tail", "-n", "1", "--as", "auditor"); err != nil {
		return err
	}
	out, err := d.command(ctx, "", "cardkms", "audit", "verify", "--as", "auditor", "--log-key", filepath.Join(d.dir, "log.vkey"))
	if err == nil && !strings.Contains(out, "verified:") {
		err = errors.New("the log was not verified")
	}
	return err
}
