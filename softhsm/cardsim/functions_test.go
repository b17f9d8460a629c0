package cardsim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// TestFunctions: the ordinary functions and their refusals.
func TestFunctions(t *testing.T) {
	c := newTestCard(t, testConfig(), 0)
	if _, err := c.Transmit(nil); !errors.Is(err, ErrOff) {
		t.Errorf("card without power: %v", err)
	}
	if got := c.PowerOn(); !bytes.Equal(got, unhex(t, "3B800181")) {
		t.Errorf("ATR %X", got)
	}
	for _, v := range []struct{ name, capdu, want string }{
		{"SELECT ISD", "00A4040008 A000000151000000 00", "6F10 8408A000000151000000 A5049F6501FF 9000"},
		{"SELECT default", "00A4040000", "6F10 8408A000000151000000 A5049F6501FF 9000"},
		{"SELECT absent", "00A4040005 0102030405", "6A82"},
		{"SELECT by path", "00A4080002 0101", "6A86"},
		{"GENERATE in ISD", "80AE000000", "6985"},
		{"READ without file", "00B0000000", "6985"},
		{"UPDATE without file", "00D6000001 01", "6985"},
		{"SELECT other file", "00A4000002 0102", "6A82"},
		{"SELECT file", "00A4000002 0101", "620B 80020040 820101 83020101 9000"},
		{"READ past the end", "00B0004001", "6B00"},
		{"READ 2 at 62", "00B0003E00", "0000 9000"},
		{"UPDATE without PIN", "00D6000001 01", "6982"},
		{"VERIFY P2", "0020008104 31323334", "6A86"},
		{"VERIFY tries", "00200080", "63C3"},
		{"VERIFY wrong", "0020008004 31323335", "63C2"},
		{"VERIFY shorter", "0020008003 313233", "63C1"},
		{"VERIFY", "0020008004 31323334", "9000"},
		{"UPDATE", "00D6003E02 ABCD", "9000"},
		{"UPDATE past the end", "00D6003F02 ABCD", "6B00"},
		{"UPDATE nothing", "00D60000", "6700"},
		{"READ back", "00B0003D05", "00ABCD 9000"},
		{"SELECT applet", "00A4040009 F04341524453494D01", "6F11 8409F04341524453494D01 A5049F6501FF 9000"},
		{"GENERATE", "80AE000000", "0001 9000"},
		{"GENERATE", "80AE000000", "0002 9000"},
		{"key information", "80CA00E000", "E02A C00401308810 C00402308810 C00403308810 C00401318810 C00402318810 C00403318810 C004015A8810 9000"},
		{"GET DATA absent", "80CA00C200", "6A88"},
		{"status without session", "80CA00E500", "6982"},
		{"status in class 00", "00CA00E500", "6A88"},
		{"unknown instruction", "80FF0000", "6D00"},
		{"VERIFY wrong", "0020008004 00000000", "63C2"},
		{"UPDATE after wrong PIN", "00D6000001 01", "6982"},
		{"VERIFY wrong", "0020008004 00000000", "63C1"},
		{"VERIFY wrong", "0020008004 00000000", "63C0"},
		{"VERIFY blocked", "0020008004 31323334", "6983"},
	} {
		got := transmit(t, c, unhex(t, v.capdu))
		if want := unhex(t, v.want); !bytes.Equal(got, want) {
			t.Errorf("%s: %X, want %X", v.name, got, want)
		}
	}
	c.layout.atc.store(c.nvm, []byte{0xFF, 0xFF})
	if r := transmit(t, c, unhex(t, "80AE000000")); !bytes.Equal(r, []byte{0x69, 0x85}) {
		t.Errorf("transaction counter at its end: %X", r)
	}
}

// functionsState is what the ordinary functions keep.
type functionsState struct {
	tries byte
	atc   uint16
	file  string
}

func stateOf(c *Card) functionsState {
	atc, _ := c.layout.atc.load(c.nvm)
	file, _ := c.layout.file.load(c.nvm)
	return functionsState{c.loadByte(c.layout.pin), binary.BigEndian.Uint16(atc), string(bytes.TrimRight(file, "\x00"))}
}

// TestTearFunctions cuts the power at every write of the ordinary commands: each value is the one before or the one after,
// and a PIN try is never won.
func TestTearFunctions(t *testing.T) {
	cut := 0
	for _, page := range []int{0, 64} {
		for _, v := range []struct {
			capdu string
			after []functionsState
		}{
			{"80AE000000", []functionsState{{3, 1, ""}}},
			{"00D6000003 616263", []functionsState{{3, 0, "abc"}}},
			{"0020008004 00000000", []functionsState{{2, 0, ""}}},
			{"0020008004 31323334", []functionsState{{2, 0, ""}, {3, 0, ""}}},
		} {
			for write, struck := 1, true; struck; write++ {
				for _, tear := range Tears {
					c := newTestCard(t, testConfig(), page)
					c.PowerOn()
					transmit(t, c, unhex(t, "00A4000002 0101"))
					transmit(t, c, unhex(t, "0020008004 31323334"))
					transmit(t, c, append(unhex(t, "00A4040009"), counterAID...))
					before := stateOf(c)
					c.nvm.CutAt(write, tear)
					r, err := c.Transmit(unhex(t, v.capdu))
					if struck = err != nil; struck && (!errors.Is(err, ErrTorn) || r != nil) {
						t.Fatal(err)
					}
					cut++
					got, ok := stateOf(c), !struck
					for _, s := range append(v.after, before) {
						ok = ok || got == s
					}
					if !ok {
						t.Errorf("%s, write %d, tear %d: %+v", v.capdu, write, tear, got)
					}
					if c.PowerOn() == nil {
						t.Fatal("card is mute")
					}
				}
			}
		}
	}
	t.Logf("%d power cuts", cut)
}
