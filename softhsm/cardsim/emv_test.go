package cardsim

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEMVCard runs vector emv-mc-cvn20 of pyemv, whose functions were checked against
// a payment HSM: ATC 001C, ARQC, ARPC and PIN CHANGE/UNBLOCK to 9999.
func TestEMVCard(t *testing.T) {
	c, err := PersonaliseEMV(fromHex(t, "0123456789ABCDEFFEDCBA9876543210"), fromHex(t, "FEDCBA98765432100123456789ABCDEF"), fromHex(t, "89ABCDEF0123456776543210FEDCBA98"), "1234567890123456", "00")
	if err != nil {
		t.Fatal(err)
	}
	c.atc = 0x1B
	atc, arqc := c.Transact(fromHex(t, "00000000999900000000000001248000000000012420990600ABCDEF121800001CA00003220000"))
	if atc != 0x1C || !bytes.Equal(arqc, fromHex(t, "CD29615D6452E70E")) {
		t.Errorf("ATC %04X, ARQC %X", atc, arqc)
	}
	if err := c.Authorise(fromHex(t, "DFD0956606B68D64"), [2]byte{0x00, 0x10}); err != nil {
		t.Error(err)
	}
	if c.Authorise(fromHex(t, "DFD0956606B68D65"), [2]byte{0x00, 0x10}) == nil || c.Authorise(fromHex(t, "DFD0956606B68D64"), [2]byte{0x00, 0x11}) == nil {
		t.Error("a wrong ARPC was taken")
	}
	change := fromHex(t, "84240002107647E71F85AA6A35AE4B4E838666773D")
	for i := range change {
		bad := bytes.Clone(change)
		bad[i] ^= 1
		if c.Script(bad) == nil {
			t.Errorf("byte %d altered: the command was taken", i)
		}
	}
	if err := c.Script(change); err != nil || !bytes.Equal(c.PIN(), fromHex(t, "249999FFFFFFFFFF")) {
		t.Errorf("%v, PIN block %X", err, c.PIN())
	}
	if c.Script(change) == nil {
		t.Error("the command was taken twice")
	}
}

// TestEMVFormat1 gives the card a script in Format 1 that pyca/cryptography computed, and what
// is none: see format1.json in the testdata of derive/emv.
func TestEMVFormat1(t *testing.T) {
	c, err := PersonaliseEMV(fromHex(t, "8211B636092D661A5777F3E7506395F0"), fromHex(t, "E261C2D32AAAD8F072CB020A3DB5B8F6"), fromHex(t, "11AB9A57CBCF074A581831B23797F10A"), "1234567890123456", "00")
	if err != nil {
		t.Fatal(err)
	}
	c.atc = 0x1B
	if _, arqc := c.Transact(fromHex(t, "00000000999900000000000001248000000000012420990600ABCDEF1218000000")); !bytes.Equal(arqc, fromHex(t, "13BDD62A09685186")) {
		t.Fatalf("ARQC %X", arqc)
	}
	unblock, change, put := fromHex(t, "8C1800000A8E087751EF884505DA19"), fromHex(t, "8C2400021D87110120DE77EAE3B07E2490CD23FEB62F84E68E08B962ABD9A98AF1C3"), fromHex(t, "0CDA9F140D8101008E085B41C5B3FE08A10B")
	none := func(what string, command []byte) {
		t.Helper()
		if c.Script(command) == nil {
			t.Errorf("%s was taken: %X", what, command)
		}
	}
	// with returns unblock with n bytes after the length of its MAC.
	with := func(n int) []byte {
		mac := append(bytes.Clone(unblock[7:]), 0)
		return append([]byte{0x8C, 0x18, 0, 0, byte(2 + n), 0x8E, byte(n)}, mac[:n]...)
	}
	none("the second command first", change)
	for n := range unblock {
		none("a truncated command", unblock[:n])
	}
	none("a MAC of 3 bytes", with(3))
	none("a MAC of 9 bytes", with(9))
	none("an Le", append(bytes.Clone(unblock), 0))
	none("an Lc of one more", append([]byte{0x8C, 0x18, 0, 0, 0x0B}, unblock[5:]...))
	none("an Le object", fromHex(t, "8C1800000D9701008E087751EF884505DA19"))
	for n := 4; n <= 8; n++ {
		chain := c.chain
		if err := c.Script(with(n)); err != nil {
			t.Errorf("a MAC of %d bytes: %v", n, err)
		}
		c.chain = chain
	}
	for _, command := range [][]byte{unblock, change, put} {
		for i := range command {
			bad := bytes.Clone(command)
			bad[i] ^= 1
			none("an altered command", bad)
		}
		if err := c.Script(command); err != nil {
			t.Fatal(err)
		}
		none("a command twice", command)
	}
	if !bytes.Equal(c.PIN(), fromHex(t, "249999FFFFFFFFFF")) {
		t.Errorf("PIN block %X", c.PIN())
	}
}
