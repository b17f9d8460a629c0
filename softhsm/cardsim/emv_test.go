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
