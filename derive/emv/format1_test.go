package emv_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/emv"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// format1Script is a script in Format 1 under ICC master keys.
type format1Script struct {
	Profile  string
	SMI      octets `json:"smi_mk"`
	SMC      octets `json:"smc_mk"`
	ARQC     octets
	Commands []format1Command
}

type format1Command struct {
	Plain, Secured octets
	Encipher       bool
}

// format1Flow goes from issuer master keys and a transaction to its script.
type format1Flow struct {
	Profile                    string
	IMKAC                      octets `json:"imk_ac"`
	IMKSMI                     octets `json:"imk_smi"`
	IMKSMC                     octets `json:"imk_smc"`
	PAN, PSN                   string
	ATC, Data, ARQC, CSU, ARPC octets
	Proprietary                octets
	Commands                   []format1Command
}

// derivedC is a key under AES that follows from another.
type derivedC struct {
	Key, ATC, ARQC, Derived octets
	PAN, PSN                string
}

func profileOf(t *testing.T, name string) (emv.Profile, key.Algorithm) {
	t.Helper()
	p, err := emv.ProfileOf(name)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Format1 || !p.Experimental() {
		t.Errorf("%s: %+v", name, p)
	}
	if p.Option == emv.OptionC {
		return p, key.AES128
	}
	return p, key.TDEA2
}

// want secures the commands as one script and compares.
func want(t *testing.T, tok *derivetest.Token, p emv.Profile, s emv.Script, commands []format1Command) {
	t.Helper()
	for _, c := range commands {
		plain, err := apdu.ParseCommand(c.Plain)
		if err != nil {
			t.Fatal(err)
		}
		s.Commands = append(s.Commands, emv.Command{CLA: plain.CLA, INS: plain.INS, P1: plain.P1, P2: plain.P2, Data: plain.Data, Encipher: c.Encipher})
	}
	out, used, err := p.SecureScript(ctx, tok, s)
	if err != nil || len(out) != len(commands) || len(used) < 2 {
		t.Fatalf("%d commands, %d keys, %v", len(out), len(used), err)
	}
	for n, c := range commands {
		same(t, fmt.Sprintf("command %d", n+1), out[n], c.Secured, nil)
	}
}

// TestFormat1 runs what card42 prints, and flows that no code of ours computed.
func TestFormat1(t *testing.T) {
	var file struct {
		Published []format1Script
		Derived   []derivedC
		Flows     []format1Flow
	}
	derivetest.ReadVectors(t, "format1.json", &file)
	if len(file.Published) < 2 || len(file.Derived) < 4 || len(file.Flows) < 3 {
		t.Fatalf("%d scripts, %d keys, %d flows", len(file.Published), len(file.Derived), len(file.Flows))
	}
	for n, v := range file.Published {
		t.Run(fmt.Sprintf("published %d %s", n, v.Profile), func(t *testing.T) {
			p, a := profileOf(t, v.Profile)
			var tok derivetest.Token
			want(t, &tok, p, emv.Script{
				SMI: emv.MasterOf(tok.Add("smi", a, derive.Static, v.SMI)), SMC: emv.MasterOf(tok.Add("smc", a, derive.Static, v.SMC)),
				Input: emv.Input{ARQC: v.ARQC},
			}, v.Commands)
		})
	}
	for n, v := range file.Derived {
		t.Run(fmt.Sprintf("derived %d", n), v.run)
	}
	for n, v := range file.Flows {
		t.Run(fmt.Sprintf("flow %d %s", n, v.Profile), v.run)
	}
}

func (v derivedC) run(t *testing.T) {
	var tok derivetest.Token
	k := tok.Add("k", key.AES128, derive.Static, v.Key)
	switch {
	case v.PAN != "":
		m, err := emv.NewMaster(emv.OptionC, k, emv.Card{PAN: v.PAN, PSN: v.PSN})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "the ICC master key", tok.Value(m.Key()), v.Derived, nil)
	case len(v.ATC) == 2:
		sk, err := emv.MasterOf(k).MAC(emv.CSK, emv.Input{ATC: binary.BigEndian.Uint16(v.ATC)}, false)
		if err != nil || sk.AES.Class() != derive.SessionMAC {
			t.Fatalf("%+v, %v", sk, err)
		}
		same(t, "the key of cryptograms", tok.Value(sk.AES), v.Derived, nil)
	default:
		sk, err := emv.MasterOf(k).ENC(emv.CSK, emv.Input{ARQC: v.ARQC})
		if err != nil || sk.Class() != derive.SessionENC {
			t.Fatalf("%v, %v", sk, err)
		}
		same(t, "the key of scripts", tok.Value(sk), v.Derived, nil)
	}
}

func (v format1Flow) run(t *testing.T) {
	p, a := profileOf(t, v.Profile)
	var tok derivetest.Token
	master := func(label string, value []byte) emv.Master {
		m, err := emv.NewMaster(p.Option, tok.Add(label, a, derive.Static, value), emv.Card{PAN: v.PAN, PSN: v.PSN})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	in := emv.Input{ATC: binary.BigEndian.Uint16(v.ATC), ARQC: v.ARQC}
	ac := master("ac", v.IMKAC)
	k, err := ac.MAC(p.Cryptogram, in, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := emv.Verify(ctx, &tok, k, p.Padding, v.Data, v.ARQC); err != nil {
		t.Errorf("the ARQC: %v", err)
	}
	got, err := p.Answer(ctx, &tok, ac, in, v.CSU, v.Proprietary)
	same(t, "the ARPC", got, v.ARPC, err)
	want(t, &tok, p, emv.Script{SMI: master("smi", v.IMKSMI), SMC: master("smc", v.IMKSMC), Input: in}, v.Commands)
}

// TestFormat1Chains: a command that is left out, exchanged or repeated has another MAC than
// the card expects, and the one before decides the next.
func TestFormat1Chains(t *testing.T) {
	for _, name := range []string{"ccd-5", "aes-c"} {
		p, a := profileOf(t, name)
		var tok derivetest.Token
		s := emv.Script{
			SMI: emv.MasterOf(tok.Add("smi", a, derive.Static, []byte("sixteen bytes!!!"))), SMC: emv.MasterOf(tok.Add("smc", a, derive.Static, []byte("sixteen others!!"))),
			Input: emv.Input{ATC: 7, ARQC: []byte("8 bytes!")},
		}
		secure := func(ins ...byte) [][]byte {
			s.Commands = nil
			for _, i := range ins {
				s.Commands = append(s.Commands, emv.Command{CLA: 0x80, INS: i})
			}
			out, _, err := p.SecureScript(ctx, &tok, s)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		whole, twice := secure(0x18, 0x24, 0x1E), secure(0x18, 0x18)
		if !bytes.Equal(secure(0x18)[0], whole[0]) || !bytes.Equal(secure(0x18, 0x24)[1], whole[1]) {
			t.Errorf("%s: what follows changes what was before", name)
		}
		if bytes.Equal(twice[0], twice[1]) || bytes.Equal(secure(0x24)[0], whole[1]) || bytes.Equal(secure(0x18, 0x1E)[1], whole[2]) {
			t.Errorf("%s: a command does not depend on those before it", name)
		}
	}
}

// TestFormat1BadInput: what is no command of Format 1 is refused, the whole script with it,
// and the keys that it used are named.
func TestFormat1BadInput(t *testing.T) {
	for _, name := range []string{"ccd-5", "aes-c"} {
		p, a := profileOf(t, name)
		var tok derivetest.Token
		m := emv.MasterOf(tok.Add("imk", a, derive.Static, make([]byte, 16)))
		fine := emv.Command{CLA: 0x80, INS: 0xDA, Data: make([]byte, 242)}
		for what, c := range map[string]struct {
			arqc, first int
			command     emv.Command
		}{
			"a short ARQC":             {7, 0, fine},
			"a long ARQC":              {9, 0, fine},
			"no ARQC":                  {0, 0, fine},
			"no room for the MAC":      {8, 2, emv.Command{Data: make([]byte, 243)}},
			"more than an APDU":        {8, 2, emv.Command{Data: make([]byte, 70_000)}},
			"encrypted more than fits": {8, 2, emv.Command{Data: make([]byte, 240), Encipher: true}},
			"nothing to encrypt":       {8, 2, emv.Command{Encipher: true}},
		} {
			s := emv.Script{SMI: m, SMC: m, Input: emv.Input{ARQC: make([]byte, c.arqc)}, Commands: []emv.Command{fine, c.command}}
			out, used, err := p.SecureScript(ctx, &tok, s)
			if fault.CodeOf(err) != fault.InvalidInput || out != nil || (len(used) > 0) != (c.first > 0) {
				t.Errorf("%s, %s: %d commands, %d keys, %v", name, what, len(out), len(used), err)
			}
		}
	}
}

// TestOptionCKeys: under AES there is one way to a session key, and one length.
func TestOptionCKeys(t *testing.T) {
	var tok derivetest.Token
	aes := func(a key.Algorithm) emv.Master {
		return emv.MasterOf(tok.Add(string(a), a, derive.Static, make([]byte, a.Size())))
	}
	in := emv.Input{UN: make([]byte, 4), ARQC: make([]byte, 8)}
	for _, d := range []emv.Derivation{emv.MasterItself, emv.SKD, emv.VisaXOR} {
		for _, script := range []bool{false, true} {
			if _, err := aes(key.AES128).MAC(d, in, script); fault.CodeOf(err) != fault.InvalidInput {
				t.Errorf("MAC by %s, script %v: %v", d, script, err)
			}
		}
		if _, err := aes(key.AES128).ENC(d, in); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("ENC by %s: %v", d, err)
		}
	}
	for _, a := range []key.Algorithm{key.AES192, key.AES256} {
		if _, err := aes(a).MAC(emv.CSK, in, false); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%s: %v", a, err)
		}
	}
}
