package kms_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/derive/emv"
	"cardkms/kms"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/softhsm/cardsim"
)

// format1Flow goes from issuer master keys and a transaction to its script in Format 1: see
// the file of derive/emv for who computed it.
type format1Flow struct {
	Profile     string
	IMKAC       derivetest.Octets `json:"imk_ac"`
	IMKSMI      derivetest.Octets `json:"imk_smi"`
	IMKSMC      derivetest.Octets `json:"imk_smc"`
	PAN, PSN    string
	ATC, Data   derivetest.Octets
	ARQC, ARPC  derivetest.Octets
	CSU         derivetest.Octets
	Proprietary derivetest.Octets
	Commands    []struct {
		Plain, Secured derivetest.Octets
		Encipher       bool
	}
}

func format1Flows(t *testing.T) []format1Flow {
	t.Helper()
	b, err := os.ReadFile("../derive/emv/testdata/format1.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Flows []format1Flow }
	if err := json.Unmarshal(b, &file); err != nil || len(file.Flows) < 3 {
		t.Fatalf("%d flows, %v", len(file.Flows), err)
	}
	return file.Flows
}

// load makes the issuer master keys of a flow.
func (v format1Flow) load(h *harness, suffix string) error {
	a, option := key.TDEA2, "emv-option-b"
	if v.Profile == "aes-c" {
		a, option = key.AES128, "emv-option-c"
	}
	for _, k := range []struct {
		name  string
		usage key.Usage
		value []byte
	}{{"ac", key.EMVAC, v.IMKAC}, {"smi", key.EMVSMI, v.IMKSMI}, {"smc", key.EMVSMC, v.IMKSMC}} {
		_, err := h.service.LoadKey(h.ctx, "test", kms.NewKey{
			Issuer: h.issuer, Name: k.name + suffix, Usage: k.usage, Algorithm: a, CardAlgorithm: a, Diversification: diversify.Method(option), KVN: 1,
		}, known{h.token, k.value})
		if err != nil {
			return err
		}
	}
	return nil
}

func (v format1Flow) input(t *testing.T, issuer, suffix string) kms.EMVScriptInput {
	t.Helper()
	in := kms.EMVScriptInput{
		ARPCInput: kms.ARPCInput{
			Transaction: kms.Transaction{
				Issuer: issuer, Profile: v.Profile, Key: "ac" + suffix, DKI: 1, Card: emv.Card{PAN: v.PAN, PSN: v.PSN},
				Input: emv.Input{ATC: binary.BigEndian.Uint16(v.ATC), ARQC: v.ARQC}, Data: v.Data,
			},
			Code: v.CSU, Proprietary: v.Proprietary,
		},
		SMI: "smi" + suffix, SMC: "smc" + suffix,
	}
	for _, c := range v.Commands {
		p, err := apdu.ParseCommand(c.Plain)
		if err != nil {
			t.Fatal(err)
		}
		in.Commands = append(in.Commands, emv.Command{CLA: p.CLA, INS: p.INS, P1: p.P1, P2: p.P2, Data: p.Data, Encipher: c.Encipher})
	}
	return in
}

// TestFormat1 goes from ARQC to a script in Format 1 inside SoftHSM2, under 3DES and AES,
// with bytes that no code of ours computed; without experimental: true nothing is done.
func TestFormat1(t *testing.T) {
	for n, v := range format1Flows(t) {
		t.Run(fmt.Sprintf("%d %s", n, v.Profile), func(t *testing.T) {
			h := newHarness(t, func(h *harness) { h.experimental = true })
			before := h.token.LiveObjects() // of other tests
			h.must(v.load(h, ""))
			in := v.input(t, h.issuer, "")
			h.must(h.service.VerifyARQC(h.ctx, h.req(), in.Transaction))
			arpc, err := h.service.ARPC(h.ctx, h.req(), in.ARPCInput)
			if err != nil || !bytes.Equal(arpc, v.ARPC) {
				t.Errorf("ARPC %X, %v", arpc, err)
			}
			bad := in
			bad.Commands = append(in.Commands[:1:1], emv.Command{CLA: 0x80, INS: 0xDA, Data: make([]byte, 243)})
			_, err = h.service.SecureEMVScript(h.ctx, h.req(), bad)
			h.want("a command that is too long", err, fault.InvalidInput)
			out, err := h.service.SecureEMVScript(h.ctx, h.req(), in)
			if err != nil || !bytes.Equal(out.ARPC, v.ARPC) || len(out.Commands) != len(v.Commands) {
				t.Fatalf("%X, %v", out, err)
			}
			for i, c := range v.Commands {
				if !bytes.Equal(out.Commands[i], c.Secured) {
					t.Errorf("command %d is %X, want %X", i+1, out.Commands[i], c.Secured)
				}
			}
			_, err = h.service.SecureEMVScript(h.ctx, h.req(), in)
			h.want("a second script", err, fault.CardCounter)
			if n := h.token.LiveObjects() - before; n > 0 {
				t.Errorf("%d objects are left", n)
			}
		})
	}
}

// TestExperimental: keys of option C and profiles of Format 1 are refused in every operation
// until the configuration asks for them, and again when it no longer does.
func TestExperimental(t *testing.T) {
	h := newHarness(t)
	set := func(on bool) { h.stop(); h.experimental = on; h.start() }
	flows := format1Flows(t)
	tdea, aes := flows[0], flows[2]
	off := func(what string, v format1Flow, suffix string) {
		t.Helper()
		in := v.input(t, h.issuer, suffix)
		_, arpc := h.service.ARPC(h.ctx, h.req(), in.ARPCInput)
		_, script := h.service.SecureEMVScript(h.ctx, h.req(), in)
		for op, err := range map[string]error{"verify": h.service.VerifyARQC(h.ctx, h.req(), in.Transaction), "arpc": arpc, "script": script} {
			h.want(what+", "+op, err, fault.NotFound)
			if !strings.Contains(fmt.Sprint(err), "experimental: true") {
				t.Errorf("%s, %s: %v does not say how", what, op, err)
			}
		}
	}
	h.must(tdea.load(h, "-3des")) // the keys are those of other profiles
	off("3DES while it is off", tdea, "-3des")
	h.want("a key while it is off", aes.load(h, "-aes"), fault.NotFound)
	off("AES while it is off", aes, "-aes")

	set(true)
	h.must(aes.load(h, "-aes"))
	in := aes.input(t, h.issuer, "-aes")
	wrong := in.Transaction
	wrong.ARQC = append([]byte{in.ARQC[0] ^ 1}, in.ARQC[1:]...)
	h.want("a wrong cryptogram", h.service.VerifyARQC(h.ctx, h.req(), wrong), fault.ProofFailed)
	h.must(h.service.VerifyARQC(h.ctx, h.req(), in.Transaction))
	h.want("the same again", h.service.VerifyARQC(h.ctx, h.req(), in.Transaction), fault.CardCounter)
	short := in.ARPCInput
	short.Code = unhex("0010")
	_, err := h.service.ARPC(h.ctx, h.req(), short)
	h.want("an ARC where a CSU is due", err, fault.InvalidInput)
	mixed := in
	mixed.SMI, mixed.SMC = "smi-3des", "smc-3des"
	_, err = h.service.SecureEMVScript(h.ctx, h.req(), mixed)
	h.want("a script under keys of another option", err, fault.KeyState)

	set(false)
	off("a key that is there, after it was turned off", aes, "-aes")
	off("3DES, after it was turned off", tdea, "-3des")
}

// TestFormat1Card has a card that shares no code with the service take scripts in Format 1,
// and nothing out of order.
func TestFormat1Card(t *testing.T) {
	h := newHarness(t, func(h *harness) { h.experimental = true })
	v := format1Flows(t)[1]
	h.must(v.load(h, ""))
	card, err := cardsim.PersonaliseEMV(v.IMKAC, v.IMKSMI, v.IMKSMC, v.PAN, v.PSN)
	h.must(err)
	for n := range 3 {
		in := v.input(t, h.issuer, "")
		in.ATC, in.ARQC = card.Transact(in.Data)
		pin := unhex(fmt.Sprintf("24999%dFFFFFFFFFF", n))
		in.Commands = []emv.Command{{CLA: 0x84, INS: 0x18}, {CLA: 0x84, INS: 0x24, P2: 0x02, Data: pin, Encipher: true}, {CLA: 0x04, INS: 0xDA, P1: 0x9F, P2: 0x10, Data: random(100 * n)}}
		out, err := h.service.SecureEMVScript(h.ctx, h.req(), in)
		h.must(err)
		h.takes(card, out.Commands, pin)
	}
}
