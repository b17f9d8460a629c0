package main

import (
	"context"
	"net"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"cardkms/softhsm/cardsim"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"cardkms": func() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the command line as its users do: what it prints, where, and
// with which exit status. The server's side is tested in cmd/cardkmsd and shown
// by cmd/cardkms-demo.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "flip": flip, "grow": grow, "lose": lose, "cosign": cosign, "tell": tell, "begin": begin, "bootstrap": bootstrap, "lie": lie, "seal": seal},
	})
}

// TestCard speaks to the simulated card as the update command does.
func TestCard(t *testing.T) {
	key := make([]byte, 16)
	sim, err := cardsim.New(cardsim.Config{
		KDD: [10]byte{1}, ISD: []byte{0xA0, 0, 0, 1, 0x51}, KeySets: []cardsim.KeySet{{KVN: 0x30, ENC: key, MAC: key, DEK: key}},
		I: 0x70, UpdateKey: cardsim.UpdateKey{KVN: 0x5A, ID: 1, Value: key}, Component: []byte{0xA0, 0, 0, 1, 0x51}, Image: []byte("image"),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- (&cardsim.Server{Card: sim}).Serve(ctx, l) }()
	defer func() { cancel(); <-ended }()

	c, err := dialCard(ctx, "tcp:"+l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r, err := c.transmit([]byte{0x80, 0xCA, 0x00, 0x66, 0x00})
		if err != nil || len(r) < 3 || r[len(r)-2] != 0x90 {
			t.Fatalf("GET DATA: %X, %v", r, err)
		}
		if err := c.reset(); err != nil {
			t.Fatal(err)
		}
	}
	// INITIALIZE UPDATE raises the sequence counter: the first write cuts the power.
	sim.NVM().CutAt(1, cardsim.TearLost)
	if _, err := c.transmit([]byte{0x80, 0x50, 0x00, 0x00, 0x08, 1, 2, 3, 4, 5, 6, 7, 8, 0x00}); exitCode(err) != exitTryLater {
		t.Errorf("a card without power: %v", err)
	}
	c.close()
	if _, err := dialCard(ctx, "usb:1"); exitCode(err) != exitUsage {
		t.Errorf("another kind of address: %v", err)
	}
}
