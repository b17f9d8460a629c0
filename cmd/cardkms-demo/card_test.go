package main

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"cardkms/softhsm/cardsim"
)

// TestCardUsage: wrong flags are usage, which main tells from a story that went wrong.
func TestCardUsage(t *testing.T) {
	master := strings.Repeat("40", 16)
	for line, want := range map[string]string{
		"":                            "-master is an AES key",
		"--master 4041":               "-master is an AES key",
		"--master zz":                 "-master is an AES key",
		"--master " + master + " now": `"now" is no flag`,
		"--master " + master + " --update-master 40":            "-update-master is an AES key",
		"--master " + master + " --kdd 00":                      "-kdd has 20",
		"--master " + master + " --kdd 0001020304050607080900":  "-kdd has 20",
		"--master " + master + " --kvn 0x130":                   "-kvn is",
		"--master " + master + " --kvn 0":                       "-kvn is",
		"--mister " + master:                                    "not defined: -mister",
		"--master " + master + " --kvn 48 --listen 127.0.0.1:x": "",
	} {
		err := run(t.Context(), append([]string{"card"}, strings.Fields(line)...))
		if usage := want != ""; err == nil || errors.Is(err, errUsage) != usage || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), master) {
			t.Errorf("card %s: %v, want %q", line, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // whoever ends it
	if err := run(ctx, []string{"card", "--master", master, "--listen", "127.0.0.1:0"}); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the right flags: %v", err)
	}
}

func TestIntroduction(t *testing.T) {
	c := cardsim.Config{
		KDD: [10]byte{9: 1}, ClassID: [16]byte{15: 2}, Component: []byte{0xA0, 0x01}, Version: [8]byte{1}, SecurityCounter: 7, KeySets: []cardsim.KeySet{{KVN: 0x30}},
	}
	const want = "A card of class 00000000000000000000000000000002, component A001, version 0100000000000000, security counter 7, " +
		"KDD 00000000000000000001 and KVN 30 is in the reader tcp:127.0.0.1:9000; it forgets everything when this ends."
	if got := introduction(c, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9000}); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
