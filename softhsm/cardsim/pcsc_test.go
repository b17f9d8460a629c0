//go:build pcsc

package cardsim

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPCSC puts the card into vpcd, the virtual reader of a real pcscd, and asks
// it through opensc-tool, a client that is not ours. vpcd listens on all
// addresses, so `make test-pcsc` runs this in a network namespace of its own.
func TestPCSC(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pcscd := exec.Command("pcscd", "-f", "--config", "/etc/reader.conf.d")
	var log bytes.Buffer
	pcscd.Stdout, pcscd.Stderr = &log, &log
	if err := pcscd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pcscd.Process.Signal(syscall.SIGTERM); _ = pcscd.Wait() }()
	key := bytes.Repeat([]byte{0x40}, 16)
	card, err := New(Config{
		KDD: [10]byte{1, 2, 3}, ISD: []byte{0xA0, 0, 0, 1, 0x51, 0, 0, 0}, KeySets: []KeySet{{KVN: 0x30, ENC: key, MAC: key, DEK: key}},
		I: 0x70, UpdateKey: UpdateKey{KVN: 0x5A, ID: 1, Value: key}, Component: []byte{0xA0, 0, 0, 1, 0x51}, Image: []byte("image"),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for ctx.Err() == nil { // vpcd needs a moment before it listens
			_ = (&Server{Card: card}).Dial(ctx, "127.0.0.1:35963")
			time.Sleep(100 * time.Millisecond)
		}
	}()
	ask := func(args ...string) string {
		for {
			out, err := exec.CommandContext(ctx, "opensc-tool", args...).CombinedOutput()
			if err == nil {
				return string(out)
			}
			if ctx.Err() != nil {
				t.Fatalf("opensc-tool %v: %v\n%s\n%s", args, err, out, log.String())
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	if out := ask("-a"); !strings.Contains(strings.ToLower(out), "3b:80:01:81") {
		t.Errorf("the answer to reset is %s", out)
	}
	out := ask("-s", "80:50:00:00:08:01:02:03:04:05:06:07:08:00")
	if !strings.Contains(out, "SW1=0x90, SW2=0x00") || !strings.Contains(out, "01 02 03 00") {
		t.Errorf("INITIALIZE UPDATE through PC/SC:\n%s", out)
	}
}
