package kms_test

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"cardkms/derive/emv"
	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/store"
	"cardkms/softhsm/cardsim"
	"cardkms/softhsm/testtoken"
)

// The issuer's keys and the transaction of vector emv-mc-cvn16 of derive/emv: pyemv,
// checked against a payment HSM.
var (
	imkAC  = unhex("0123456789ABCDEFFEDCBA9876543210")
	imkSMI = unhex("FEDCBA98765432100123456789ABCDEF")
	imkSMC = unhex("89ABCDEF0123456776543210FEDCBA98")
)

const (
	mchipARPC = "73F6BBF389A6586C"
	mchipPIN  = "842400021000859B8FE53F316DEB4B64C36BF88E39"
)

func mchip(issuer string) kms.Transaction {
	return kms.Transaction{
		Issuer: issuer, Profile: "mchip-16", Key: "ac", DKI: 1, Card: emv.Card{PAN: "1234567890123456", PSN: "00"},
		Input: emv.Input{ATC: 0x1C, UN: unhex("ABCDEF12"), ARQC: unhex("24CCF3DEE3158C70")},
		Data:  unhex("00000000999900000000000001248000000000012420990600ABCDEF121800001CA00003220000"),
	}
}

// loadEMV makes the issuer master keys.
func (h *harness) loadEMV() {
	h.t.Helper()
	for name, k := range map[string]struct {
		usage key.Usage
		value []byte
	}{"ac": {key.EMVAC, imkAC}, "smi": {key.EMVSMI, imkSMI}, "smc": {key.EMVSMC, imkSMC}} {
		_, err := h.service.LoadKey(h.ctx, "test", kms.NewKey{
			Issuer: h.issuer, Name: name, Usage: k.usage, Algorithm: key.TDEA2, CardAlgorithm: key.TDEA2, Diversification: "emv-option-a", KVN: 1,
		}, known{h.token, k.value})
		h.must(err)
	}
}

func (h *harness) pinScript(in kms.Transaction) kms.EMVScriptInput {
	return kms.EMVScriptInput{
		ARPCInput: kms.ARPCInput{Transaction: in, Code: unhex("0010")}, SMI: "smi", SMC: "smc",
		Commands: []emv.Command{{CLA: 0x80, INS: 0x24, P2: 0x02, Data: unhex("249999FFFFFFFFFF"), Encipher: true}},
	}
}

// TestEMVScript goes from ARQC to secured script in one call, inside SoftHSM2, with
// the bytes that another implementation computed.
func TestEMVScript(t *testing.T) {
	h := newHarness(t)
	h.loadEMV()
	in := mchip(h.issuer)
	h.must(h.service.VerifyARQC(h.ctx, h.req(), in))
	arpc, err := h.service.ARPC(h.ctx, h.req(), kms.ARPCInput{Transaction: in, Code: unhex("0010")})
	if err != nil || !bytes.Equal(arpc, unhex(mchipARPC)) {
		t.Errorf("ARPC %X, %v", arpc, err)
	}
	script := h.pinScript(in)
	script.Commands = append(script.Commands, script.Commands[0])
	out, err := h.service.SecureEMVScript(h.ctx, h.req(), script)
	if err != nil || !bytes.Equal(out.ARPC, unhex(mchipARPC)) || len(out.Commands) != 2 || !bytes.Equal(out.Commands[0], unhex(mchipPIN)) {
		t.Errorf("%X, %v", out, err)
	}
	if err == nil && bytes.Equal(out.Commands[0], out.Commands[1]) {
		t.Error("two commands of a script are secured by the same keys")
	}
	entries, err := h.ledger.Leaves(h.ctx, 0, 1000)
	h.must(err)
	for _, e := range entries {
		if strings.Contains(string(e), in.Card.PAN) || strings.Contains(string(e), "9999FF") {
			t.Errorf("an entry says too much:\n%s", e)
		}
	}
	e := h.lastEntry()
	if e.Operation != "emv.script" || e.Card == "" || e.Detail["atc"] != "001C" || e.Detail["apdus"] != "2" || e.Algorithm != "legacy" {
		t.Errorf("%+v", e)
	}
}

// TestEMVReplay: a cryptogram serves each operation once, and an ATC that does not rise
// serves none, whatever was altered.
func TestEMVReplay(t *testing.T) {
	h := newHarness(t)
	h.loadEMV()
	in := mchip(h.issuer)
	verify := func(in kms.Transaction) error { return h.service.VerifyARQC(h.ctx, h.req(), in) }
	h.must(verify(in))
	h.want("the same again", verify(in), fault.CardCounter)
	altered := in
	altered.Data = bytes.Clone(in.Data)
	altered.Data[5] ^= 1
	h.want("another amount", verify(altered), fault.ProofFailed)
	later := in
	later.ATC++
	h.want("an ATC that the cryptogram is not of", verify(later), fault.ProofFailed)
	h.restart()
	h.want("the same after a restart", verify(in), fault.CardCounter)
	_, err := h.service.SecureEMVScript(h.ctx, h.req(), h.pinScript(in))
	h.must(err)
	_, err = h.service.SecureEMVScript(h.ctx, h.req(), h.pinScript(in))
	h.want("a second script", err, fault.CardCounter)
	// A cryptogram that verified earlier, with a lower ATC: the vector is of 1C.
	next := h.arqc(in, 0x1D)
	h.must(verify(next))
	h.want("the older one", verify(in), fault.CardCounter)
}

// TestEMVAnswersAgain: a request whose answer was lost has it again under its Idempotency-Key,
// from a process that knows the database alone; what differs in anything does not.
func TestEMVAnswersAgain(t *testing.T) {
	h := newHarness(t)
	h.loadEMV()
	in := h.pinScript(mchip(h.issuer))
	r := h.req()
	r.Idempotency = "lost"
	h.must(h.service.VerifyARQC(h.ctx, r, in.Transaction))
	arpc, err := h.service.ARPC(h.ctx, r, in.ARPCInput)
	h.must(err)
	first, err := h.service.SecureEMVScript(h.ctx, r, in)
	h.must(err)
	h.restart()
	h.must(h.service.VerifyARQC(h.ctx, r, in.Transaction))
	if again, err := h.service.ARPC(h.ctx, r, in.ARPCInput); err != nil || !bytes.Equal(again, arpc) {
		t.Errorf("%X, %v, want %X", again, err, arpc)
	}
	if again, err := h.service.SecureEMVScript(h.ctx, r, in); err != nil || !reflect.DeepEqual(again, first) {
		t.Errorf("%X, %v, want %X", again, err, first)
	}
	if e := h.lastEntry(); e.Detail["again"] != "true" || e.Outcome != "ok" {
		t.Errorf("%+v", e)
	}
	script := func(r kms.Request, in kms.EMVScriptInput) error {
		out, err := h.service.SecureEMVScript(h.ctx, r, in)
		if len(out.ARPC)+len(out.Commands) > 0 != (err == nil) {
			t.Errorf("%+v with %v", out, err)
		}
		return err
	}
	other := in
	other.Commands = []emv.Command{{CLA: 0x84, INS: 0x24, Data: unhex("249999FFFFFFFFFF"), Encipher: true}}
	h.want("another script", script(r, other), fault.CardCounter)
	other = in
	other.Code = unhex("3035")
	h.want("another decision", script(r, other), fault.CardCounter)
	anybody := r
	anybody.Caller.ID += "x"
	h.want("another caller", script(anybody, in), fault.CardCounter)
	h.want("another key", script(h.req(), in), fault.CardCounter)
	next := in
	next.Transaction = h.arqc(in.Transaction, in.ATC+1)
	h.must(script(r, next))
	h.want("after the card's next transaction", script(r, in), fault.CardCounter)
	h.must(h.service.VerifyARQC(h.ctx, r, next.Transaction))
	if e := h.lastEntry(); e.Detail["again"] != "" {
		t.Errorf("what was asked of the last transaction is given again for this one: %+v", e.Detail)
	}
}

// arqc returns a transaction of another ATC, with the cryptogram that the service
// itself would ask for: what is tested with it is the counter alone.
func (h *harness) arqc(in kms.Transaction, atc uint16) kms.Transaction {
	h.t.Helper()
	in.ATC = atc
	arqc, err := h.service.Cryptogram(h.ctx, in)
	h.must(err)
	in.ARQC = arqc
	return in
}

// TestEMVCounterEnds: the end of an ATC is told from 80 % on, and FFFF is the last.
func TestEMVCounterEnds(t *testing.T) {
	h := newHarness(t)
	h.loadEMV()
	in := mchip(h.issuer)
	for _, c := range []struct {
		atc    uint16
		ending bool
	}{{0x7FFF, false}, {0xCCCC, true}, {0xFFFF, true}} {
		h.must(h.service.VerifyARQC(h.ctx, h.req(), h.arqc(in, c.atc)))
		if e := h.lastEntry(); (e.Detail["counter"] == "ending") != c.ending {
			t.Errorf("ATC %04X: %+v", c.atc, e.Detail)
		}
	}
	h.want("what comes after the end", h.service.VerifyARQC(h.ctx, h.req(), h.arqc(in, 0)), fault.CardCounter)
}

// TestEMVRefusals: nothing comes back, and the entry says why.
func TestEMVRefusals(t *testing.T) {
	h := newHarness(t)
	h.loadEMV()
	good := h.pinScript(mchip(h.issuer))
	for name, c := range map[string]struct {
		change func(*kms.EMVScriptInput)
		want   fault.Code
	}{
		"an unknown profile":              {func(in *kms.EMVScriptInput) { in.Profile = "visa-14" }, fault.NotFound},
		"a profile of another option":     {func(in *kms.EMVScriptInput) { in.Profile = "visa-22" }, fault.KeyState},
		"Visa's script keys":              {func(in *kms.EMVScriptInput) { in.Profile = "visa-10" }, fault.ProofFailed},
		"an unknown key":                  {func(in *kms.EMVScriptInput) { in.Key = "none" }, fault.NotFound},
		"a key of another usage":          {func(in *kms.EMVScriptInput) { in.Key = "smi" }, fault.NotFound},
		"an integrity key that is none":   {func(in *kms.EMVScriptInput) { in.SMI = "smc" }, fault.NotFound},
		"another derivation key index":    {func(in *kms.EMVScriptInput) { in.DKI = 2 }, fault.NotFound},
		"no PAN":                          {func(in *kms.EMVScriptInput) { in.Card.PAN = "" }, fault.InvalidInput},
		"a CSU where an ARC is due":       {func(in *kms.EMVScriptInput) { in.Code = unhex("00000000") }, fault.InvalidInput},
		"no commands":                     {func(in *kms.EMVScriptInput) { in.Commands = nil }, fault.TooLarge},
		"too many commands":               {func(in *kms.EMVScriptInput) { in.Commands = make([]emv.Command, 17) }, fault.TooLarge},
		"nothing to encrypt":              {func(in *kms.EMVScriptInput) { in.Commands[0].Data = nil }, fault.InvalidInput},
		"a wrong cryptogram":              {func(in *kms.EMVScriptInput) { in.ARQC = unhex("24CCF3DEE3158C71") }, fault.ProofFailed},
		"a cryptogram of 7 bytes":         {func(in *kms.EMVScriptInput) { in.ARQC = unhex("24CCF3DEE3158C") }, fault.ProofFailed},
		"a wrong sequence number of PANs": {func(in *kms.EMVScriptInput) { in.Card.PSN = "01" }, fault.ProofFailed},
	} {
		in := good
		in.Commands = []emv.Command{good.Commands[0]}
		c.change(&in)
		size := h.ledger.Size()
		out, err := h.service.SecureEMVScript(h.ctx, h.req(), in)
		if fault.CodeOf(err) != c.want || len(out.ARPC)+len(out.Commands) > 0 {
			t.Errorf("%s: %X, %v", name, out, err)
		}
		if h.ledger.Size() != size+1 || h.lastEntry().Outcome != string(c.want) {
			t.Errorf("%s: %d entries, the last is %+v", name, h.ledger.Size()-size, h.lastEntry())
		}
	}
	ranged := h.req()
	ranged.Caller.Cards.From[0] = 1
	h.want("a caller of a card range", h.service.VerifyARQC(h.ctx, ranged, good.Transaction), fault.Forbidden)
	_, err := h.service.SecureEMVScript(h.ctx, h.req(), good)
	h.must(err) // nothing of the above used it up
}

// TestEMVCard has a card that shares no code with the service transact, take scripts of
// several commands, and refuse what was sent twice or left out.
func TestEMVCard(t *testing.T) {
	h := newHarness(t)
	h.loadEMV()
	card, err := cardsim.PersonaliseEMV(imkAC, imkSMI, imkSMC, "4929717171717171", "01")
	h.must(err)
	for n := range 3 {
		in := mchip(h.issuer)
		in.Profile, in.Card, in.UN = "mchip-20", emv.Card{PAN: "4929717171717171", PSN: "01"}, nil
		in.ATC, in.ARQC = card.Transact(in.Data)
		script := h.pinScript(in)
		pin := unhex(fmt.Sprintf("24999%dFFFFFFFFFF", n))
		script.Commands = []emv.Command{{CLA: 0x84, INS: 0x18}, {CLA: 0x84, INS: 0x24, P2: 0x02, Data: pin, Encipher: true}, {CLA: 0x84, INS: 0xDA, P1: 0x9F, P2: 0x10, Data: random(n + 1)}}
		out, err := h.service.SecureEMVScript(h.ctx, h.req(), script)
		h.must(err)
		h.must(card.Authorise(out.ARPC, [2]byte{0x00, 0x10}))
		h.takes(card, out.Commands, pin)
	}
}

// takes has a card take a script, each command once and in order, that gives it this PIN block.
func (h *harness) takes(card *cardsim.EMVCard, commands [][]byte, pin []byte) {
	h.t.Helper()
	if card.Script(commands[1]) == nil {
		h.t.Error("the card took the second command first")
	}
	for _, c := range commands {
		h.must(card.Script(c))
		if card.Script(c) == nil {
			h.t.Error("the card took a command twice")
		}
	}
	if !bytes.Equal(card.PIN(), pin) {
		h.t.Errorf("the card's PIN block is %X, want %X", card.PIN(), pin)
	}
}

// TestEMVHoweverWritten: a cryptogram serves once, however the card's number is written,
// and whatever counter is claimed for it.
func TestEMVHoweverWritten(t *testing.T) {
	h := newHarness(t)
	h.loadEMV()
	in := mchip(h.issuer)
	h.must(h.service.VerifyARQC(h.ctx, h.req(), in))
	for _, card := range []emv.Card{{PAN: "1234567890123456"}, {PAN: "9934567890123456", PSN: "00"}, {PAN: "71234567890123456", PSN: "00"}} {
		same := in
		same.Card = card
		h.want("another way to write the card", h.service.VerifyARQC(h.ctx, h.req(), same), fault.CardCounter)
	}
	// CVN 10 computes with the master key, which no counter is in: vector
	// emv-visa-cvn10.
	visa := in
	visa.Profile, visa.UN, visa.ARQC = "visa-10", nil, unhex("29CCA15AE665FA2E")
	visa.Card.PAN, visa.Key = "1234567890123456", "ac"
	visa.Data = unhex("0000000040000000000000000124800004800001241911050152BF45851800001C03A06010")
	for _, atc := range []uint16{0x1B, 0x1D, 0xFFFF} {
		visa.ATC = atc
		h.want("a counter that the data has not", h.service.VerifyARQC(h.ctx, h.req(), visa), fault.InvalidInput)
	}
	visa.ATC = 0x1C
	h.want("after another profile's cryptogram of that counter", h.service.VerifyARQC(h.ctx, h.req(), visa), fault.CardCounter)
}

// TestEMVMakesNoRows: a wrong cryptogram makes no row, whoever's card is named.
func TestEMVMakesNoRows(t *testing.T) {
	h := newHarness(t)
	h.loadEMV()
	in := mchip(h.issuer)
	rows := func() (n int) {
		h.must(h.db.View(h.ctx, func(tx store.Tx) error { all, err := tx.List("emv-card", h.issuer, "", 100); n = len(all); return err }))
		return n
	}
	for n := range 5 {
		in.Card.PAN = fmt.Sprintf("492900000000%04d", n)
		h.want("a card of nobody", h.service.VerifyARQC(h.ctx, h.req(), in), fault.ProofFailed)
	}
	if rows() != 0 {
		t.Errorf("%d rows of cards that proved nothing", rows())
	}
}

// TestVisaScript: a script whose keys are an exclusive or of the master key is secured by
// a token that has one inside, with the bytes of vector emv-visa-cvn10; another token
// refuses it, and the cryptogram serves afterwards.
func TestVisaScript(t *testing.T) {
	for name, token := range map[string]*hsm.Token{"softhsm": testtoken.SoftHSM(t), "nss": testtoken.NSS(t)} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, func(h *harness) { h.token = token })
			h.loadEMV()
			before := token.LiveObjects() // of other tests
			in := mchip(h.issuer)
			in.Profile, in.UN, in.ARQC = "visa-10", nil, unhex("29CCA15AE665FA2E")
			in.Data = unhex("0000000040000000000000000124800004800001241911050152BF45851800001C03A06010")
			script := h.pinScript(in)
			script.Code, script.Commands = unhex("3030"), []emv.Command{{CLA: 0x84, INS: 0x18}}
			out, err := h.service.SecureEMVScript(h.ctx, h.req(), script)
			if name == "nss" {
				if err != nil || len(out.Commands) != 1 || !bytes.Equal(out.Commands[0], unhex("8418000008DB56BA60087CEFD3")) || !bytes.Equal(out.ARPC, unhex("28993816AFAE4AEB")) {
					t.Errorf("%X, %v", out, err)
				}
			} else {
				h.want("a token without", err, fault.TokenUnable)
				if len(out.ARPC)+len(out.Commands) > 0 {
					t.Errorf("something came back: %X", out)
				}
				h.must(h.service.VerifyARQC(h.ctx, h.req(), in))
			}
			if n := token.LiveObjects() - before; n > 0 {
				t.Errorf("%d objects are left", n)
			}
		})
	}
}
