package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"cardkms/derive"
	"cardkms/derive/emv"
	"cardkms/kms/key"
)

// emvKCVBytes is how much of a check value these vectors print.
const emvKCVBytes = 2

// word is how these files name a derivation.
var word = map[string]emv.Derivation{"mk": emv.MasterItself, "csk": emv.CSK, "mc": emv.SKD, "visa": emv.VisaXOR}

// emvAlgorithms run the vectors of group emv. Each gives one verdict; those of a
// profile give another one for its script, and for a change of a known PIN.
var emvAlgorithms = map[string]func(*bench, standard) error{
	"emv_flow": runEMVFlow, "emv_arqc": runEMVOne, "emv_arpc": runEMVOne, "emv_smmac": runEMVOne,
	"emv_cvn": runEMVProfile, "emv_cvn/script": runEMVScript, "emv_cvn/current-pin": runEMVCurrentPIN,
}

func (v standard) parse(in, out any) error {
	if err := errors.Join(json.Unmarshal(v.In, in), json.Unmarshal(v.Out, out)); err != nil {
		return fmt.Errorf("reading the vector: %w", err)
	}
	return nil
}

// counterOf returns an ATC, 0 for none.
func counterOf(atc []byte) uint16 {
	if len(atc) != 2 {
		return 0
	}
	return binary.BigEndian.Uint16(atc)
}

// icc imports an issuer master key and refers to the master key of a card.
func (b *bench) icc(option string, imk []byte, pan, psn string) (emv.Master, error) {
	k, err := b.tdeaOf(derive.Static, imk)
	if err != nil {
		return emv.Master{}, err
	}
	return emv.NewMaster(emv.Option(option), k, emv.Card{PAN: pan, PSN: psn})
}

// equals compares bytes, which must be there.
func equals(what string, got, want []byte, err error) error {
	switch {
	case err != nil:
		return err
	case len(want) == 0:
		return errNoAnswer
	case !bytes.Equal(got, want):
		return mismatch(what, got, want)
	}
	return nil
}

// kcv compares the beginning of the check value of a key of the retail MAC: the MAC of
// one zero block is the block encrypted.
func (b *bench) kcv(what string, k emv.MACKey, want []byte) error {
	mac, err := b.token.RetailMAC(b.ctx, k.Retail, make([]byte, 8))
	if err != nil || len(want) != emvKCVBytes {
		return errors.Join(err, equals(what, nil, want, nil))
	}
	return equals(what, mac[:emvKCVBytes], want, nil)
}

// known compares a key of the retail MAC with its known value by what both compute.
func (b *bench) known(what string, k emv.MACKey, want []byte) error {
	if len(want) != key.TDEA2.Size() {
		return errNoAnswer
	}
	twin, err := b.retailKey(want)
	if err != nil {
		return err
	}
	message := []byte("two blocks long.")
	expected, err := b.token.RetailMAC(b.ctx, twin, message)
	if err != nil {
		return err
	}
	got, err := b.token.RetailMAC(b.ctx, k.Retail, message)
	return equals("the MAC under "+what, got, expected, err)
}

// runEMVFlow runs one whose R is given: that is the session key of a script whose
// cryptogram is R.
func runEMVFlow(b *bench, v standard) error {
	var in struct {
		IMK, R, Data, ARC, Prop octets
		Opt, PAN, PSN           string
		Pad                     int
		ARPCKey                 string `json:"arpc_key"`
		ARPCMethod              int    `json:"arpc_method"`
	}
	var out struct {
		ARQC, ARPC octets
		MKCV       octets `json:"mk_kcv"`
		SKCV       octets `json:"sk_kcv"`
	}
	if err := v.parse(&in, &out); err != nil {
		return err
	}
	m, err := b.icc(in.Opt, in.IMK, in.PAN, in.PSN)
	if err != nil {
		return err
	}
	mk, err := m.MAC(emv.MasterItself, emv.Input{}, false)
	if err != nil {
		return err
	}
	sk, err := m.MAC(emv.CSK, emv.Input{ARQC: in.R}, true)
	if err != nil {
		return err
	}
	if err := errors.Join(b.kcv("the check value of the ICC master key", mk, out.MKCV), b.kcv("that of the session key", sk, out.SKCV)); err != nil {
		return err
	}
	got, err := emv.Cryptogram(b.ctx, b.token, sk, emv.Padding(in.Pad), in.Data)
	if err := equals("the ARQC", got, out.ARQC, err); err != nil {
		return err
	}
	answering := sk
	if in.ARPCKey == "mk" {
		answering = mk
	}
	got, err = b.arpc(in.ARPCMethod, answering, out.ARQC, in.ARC, in.Prop)
	return equals("the ARPC", got, out.ARPC, err)
}

func (b *bench) arpc(method int, k emv.MACKey, arqc, code, proprietary []byte) ([]byte, error) {
	switch {
	case method == 2:
		return emv.ARPC2(b.ctx, b.token, k, arqc, code, proprietary)
	case method == 1 && len(proprietary) == 0:
		return emv.ARPC1(b.ctx, b.token, k.Retail, arqc, code)
	}
	return nil, errors.New("there are the methods 1, without proprietary data, and 2")
}

// runEMVOne runs an ARQC, an ARPC or the MAC of a script command.
func runEMVOne(b *bench, v standard) error {
	var in struct {
		IMK, ATC, UN, Data, ARQC, ARC octets
		Opt, PAN, PSN, Key            string
		ACSK                          string `json:"ac_sk"`
		SMSK                          string `json:"sm_sk"`
		Pad, Method                   int
	}
	var out struct{ ARQC, ARPC, MAC octets }
	if err := v.parse(&in, &out); err != nil {
		return err
	}
	m, err := b.icc(in.Opt, in.IMK, in.PAN, in.PSN)
	if err != nil {
		return err
	}
	said := emv.Input{ATC: counterOf(in.ATC), UN: in.UN, ARQC: in.ARQC}
	name := map[string]string{"emv_arqc": in.ACSK, "emv_arpc": in.Key, "emv_smmac": in.SMSK}[v.Alg]
	k, err := m.MAC(word[name], said, v.Alg == "emv_smmac")
	if err != nil {
		return err
	}
	var got []byte
	switch v.Alg {
	case "emv_arqc":
		got, err = emv.Cryptogram(b.ctx, b.token, k, emv.Padding(in.Pad), in.Data)
		return equals("the ARQC", got, out.ARQC, err)
	case "emv_arpc":
		got, err = b.arpc(in.Method, k, in.ARQC, in.ARC, nil)
		return equals("the ARPC", got, out.ARPC, err)
	}
	const head = 5 + 2 + 8 // header | ATC | ARQC
	if len(in.Data) < head || !bytes.Equal(in.Data[5:head], append(bytes.Clone(in.ATC), in.ARQC...)) {
		return errors.New("the data of the MAC is not that of the transaction")
	}
	got, err = emv.Profile{}.ScriptMAC(b.ctx, b.token, k, in.Data[:5], said, in.Data[head:])
	return equals("the MAC", got, out.MAC, err)
}

// emvProfile is a vector of one profile.
type emvProfile struct {
	IMK                     struct{ AC, SMI, SMC octets }
	Data, ATC, UN, ARC, Hdr octets
	Opt, PAN, PSN, PIN      string
	ACSK                    string `json:"ac_sk"`
	ARPCKey                 string `json:"arpc_key"`
	SMSK                    string `json:"sm_sk"`
	SMEnc                   string `json:"sm_enc"`
	PINFmt                  string `json:"pin_fmt"`
	ARPCMethod              int    `json:"arpc_method"`
	Pad                     int
	MACCtx                  bool `json:"mac_ctx"`

	out struct {
		ARQC, ARPC, MAC octets
		PIN             octets `json:"pin_cmd"`
		PINCurrent      octets `json:"pin_cmd_cur"`
	}
	profile emv.Profile
	said    emv.Input
}

// emvProfiles names the profiles by the ids of the vectors.
var emvProfiles = map[string]string{
	"emv-visa-cvn10": "visa-10", "emv-visa-cvn18": "visa-18", "emv-visa-cvn22": "visa-22",
	"emv-mc-cvn16": "mchip-16", "emv-mc-cvn17": "mchip-17", "emv-mc-cvn20": "mchip-20", "emv-mc-cvn21": "mchip-21",
	"emv-interac-cvn133": "interac-133",
}

// emvProfileOf reads a vector and compares what it says of its profile with ours.
func emvProfileOf(v standard) (in emvProfile, err error) {
	if err := v.parse(&in, &in.out); err != nil {
		return in, err
	}
	if in.profile, err = emv.ProfileOf(emvProfiles[v.ID]); err != nil {
		return in, err
	}
	arpc := word[in.ARPCKey]
	said := emv.Profile{
		Option: emv.Option(in.Opt), Cryptogram: word[in.ACSK], Padding: emv.Padding(in.Pad), Method: emv.Method(in.ARPCMethod), ARPC: arpc,
		Script: word[in.SMSK], Encipherment: map[string]emv.Encipherment{"visa": emv.ECB, "mc": emv.CBC}[in.SMEnc], Unbound: !in.MACCtx,
		ATCAt: in.profile.ATCAt, // of which the vectors say nothing but the data itself
	}
	if said != in.profile {
		return in, fmt.Errorf("the profile is %+v, the vector says %+v", in.profile, said)
	}
	in.said = emv.Input{ATC: counterOf(in.ATC), UN: in.UN, ARQC: in.out.ARQC}
	return in, nil
}

func runEMVProfile(b *bench, v standard) error {
	in, err := emvProfileOf(v)
	if err != nil {
		return err
	}
	if err := in.profile.Binds(in.said, in.Data); err != nil {
		return err
	}
	m, err := b.icc(in.Opt, in.IMK.AC, in.PAN, in.PSN)
	if err != nil {
		return err
	}
	k, err := m.MAC(in.profile.Cryptogram, in.said, false)
	if err != nil {
		return err
	}
	got, err := emv.Cryptogram(b.ctx, b.token, k, in.profile.Padding, in.Data)
	if err := equals("the ARQC", got, in.out.ARQC, err); err != nil {
		return err
	}
	got, err = in.profile.Answer(b.ctx, b.token, m, in.said, in.ARC, nil)
	return equals("the ARPC", got, in.out.ARPC, err)
}

// runEMVScript runs the script half of a vector: the MAC of a command without data, and
// PIN CHANGE/UNBLOCK with an ISO format 2 block where it has one.
func runEMVScript(b *bench, v standard) error {
	in, err := emvProfileOf(v)
	if err != nil {
		return err
	}
	smi, err := b.icc(in.Opt, in.IMK.SMI, in.PAN, in.PSN)
	if err != nil {
		return err
	}
	smc, err := b.icc(in.Opt, in.IMK.SMC, in.PAN, in.PSN)
	if err != nil {
		return err
	}
	keys, err := in.profile.Keys(smi, smc, in.said)
	if err != nil {
		return err
	}
	got, err := in.profile.ScriptMAC(b.ctx, b.token, keys.MAC, in.Hdr, in.said, nil)
	if err := equals("the MAC", got, in.out.MAC, err); err != nil {
		return err
	}
	if in.PINFmt == "vis" { // see runEMVCurrentPIN
		return nil
	}
	block, err := hex.DecodeString(fmt.Sprintf("2%X%sFFFFFFFFFFFFFF", len(in.PIN), in.PIN)[:16])
	if err != nil || in.PINFmt != "iso2" {
		return errors.New("only PIN blocks of ISO format 2 are run")
	}
	got, err = in.profile.Secure(b.ctx, b.token, keys, in.said, emv.Command{CLA: 0x84, INS: 0x24, P2: 0x02, Data: block, Encipher: true})
	return equals("PIN CHANGE/UNBLOCK", got, in.out.PIN, err)
}

// runEMVCurrentPIN is the PIN change that proves the current PIN, which Visa alone has.
func runEMVCurrentPIN(_ *bench, v standard) error {
	in, err := emvProfileOf(v)
	if err == nil && len(in.out.PINCurrent) == 0 {
		err = errNoAnswer
	}
	if err != nil {
		return err
	}
	return skip("Visa's PIN block holds bytes of the ICC master key, which no token gives out")
}

// emvPeer is a case of interop-emv-1: what programs of others agree on.
type emvPeer struct {
	ID, Op string
	Input  struct {
		IMK, Rand, ATC, UN, Data, ARQC, ARC, CSU, Header, SK octets
		PAN, PSN                                             string
		ICCMK                                                octets `json:"icc_mk"`
		SKAC                                                 octets `json:"sk_ac"`
		SKSMI                                                octets `json:"sk_smi"`
		SKSMC                                                octets `json:"sk_smc"`
		Proprietary                                          octets `json:"proprietary_auth_data"`
		MACInput                                             octets `json:"mac_input"`
	}
	Output octets
}

// emvPeers run the operations of interop-emv-1.
var emvPeers = map[string]func(*bench, emvPeer) error{
	"icc_mk_option_a":   func(b *bench, c emvPeer) error { return b.peerMaster(c, "A") },
	"icc_mk_option_b":   func(b *bench, c emvPeer) error { return b.peerMaster(c, "B") },
	"sk_csk_sm":         func(b *bench, c emvPeer) error { return b.peerSession(c, emv.CSK, true) },
	"sk_csk_ac":         func(b *bench, c emvPeer) error { return b.peerSession(c, emv.CSK, false) },
	"sk_mastercard_skd": func(b *bench, c emvPeer) error { return b.peerSession(c, emv.SKD, false) },
	"sk_visa_sm":        func(b *bench, c emvPeer) error { return b.peerSession(c, emv.VisaXOR, true) },
	"sk_emv2000_tree": func(*bench, emvPeer) error {
		return skip("the tree of session keys of EMV 2000 takes key values as data, which no token does")
	},
	"arqc_emv_padding":          func(b *bench, c emvPeer) error { return b.peerCryptogram(c, emv.Padding2) },
	"arqc_visa_padding":         func(b *bench, c emvPeer) error { return b.peerCryptogram(c, emv.Padding1) },
	"arqc_aes_cmac":             (*bench).peerAES,
	"arpc_method_1":             func(b *bench, c emvPeer) error { return b.peerARPC(c, 1, c.Input.ARC) },
	"arpc_method_2":             func(b *bench, c emvPeer) error { return b.peerARPC(c, 2, c.Input.CSU) },
	"script_mac":                (*bench).peerScriptMAC,
	"script_encrypt_mastercard": (*bench).peerEncipher,
	"chain_mchip_cvn10":         (*bench).peerChain,
}

func runEMVPeer(ctx context.Context, t derive.VectorToken, raw json.RawMessage) error {
	var c emvPeer
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("reading the case: %w", err)
	}
	f := emvPeers[c.Op]
	if f == nil {
		return skip("the operation " + c.Op + " is not supported")
	}
	b := &bench{ctx: ctx, token: t}
	defer b.close()
	return f(b, c)
}

func (c emvPeer) said() emv.Input {
	return emv.Input{ATC: counterOf(c.Input.ATC), UN: c.Input.UN, ARQC: c.Input.ARQC}
}

func (b *bench) peerMaster(c emvPeer, option string) error {
	m, err := b.icc(option, c.Input.IMK, c.Input.PAN, c.Input.PSN)
	if err != nil {
		return err
	}
	k, err := m.MAC(emv.MasterItself, emv.Input{}, false)
	if err != nil {
		return err
	}
	return b.known("the ICC master key", k, c.Output)
}

func (b *bench) peerSession(c emvPeer, d emv.Derivation, script bool) error {
	mk, err := b.tdeaOf(derive.Static, c.Input.ICCMK)
	if err != nil {
		return err
	}
	said := c.said()
	if script {
		said.ARQC = c.Input.Rand
	}
	if d == emv.VisaXOR { // of a master key that is there itself only whole keys follow
		k, err := emv.MasterOf(mk).ENC(d, said)
		if err != nil {
			return err
		}
		return b.equalKey("the session key", k, c.Output)
	}
	k, err := emv.MasterOf(mk).MAC(d, said, script)
	if err != nil {
		return err
	}
	return b.known("the session key", k, c.Output)
}

func (b *bench) peerCryptogram(c emvPeer, p emv.Padding) error {
	k, err := b.retailOf(c.Input.SKAC)
	if err != nil {
		return err
	}
	got, err := emv.Cryptogram(b.ctx, b.token, k, p, c.Input.Data)
	return equals("the cryptogram", got, c.Output, err)
}

func (b *bench) peerAES(c emvPeer) error {
	k, err := b.aes(derive.SessionMAC, c.Input.SKAC)
	if err != nil {
		return err
	}
	got, err := emv.Cryptogram(b.ctx, b.token, emv.MACKey{AES: k}, emv.Padding2, c.Input.Data)
	return equals("the cryptogram", got, c.Output, err)
}

func (b *bench) peerARPC(c emvPeer, method int, code []byte) error {
	k, err := b.retailOf(c.Input.SK)
	if err != nil {
		return err
	}
	got, err := b.arpc(method, k, c.Input.ARQC, code, c.Input.Proprietary)
	return equals("the ARPC", got, c.Output, err)
}

func (b *bench) peerScriptMAC(c emvPeer) error {
	whole := bytes.Join([][]byte{c.Input.Header, c.Input.ATC, c.Input.ARQC, c.Input.Data}, nil)
	if err := equals("the input of the MAC", whole, c.Input.MACInput, nil); err != nil {
		return err
	}
	k, err := b.retailOf(c.Input.SKSMI)
	if err != nil {
		return err
	}
	got, err := emv.Profile{}.ScriptMAC(b.ctx, b.token, k, c.Input.Header, c.said(), c.Input.Data)
	return equals("the MAC", got, c.Output, err)
}

func (b *bench) peerEncipher(c emvPeer) error {
	k, err := b.tdeaOf(derive.SessionENC, c.Input.SKSMC)
	if err != nil {
		return err
	}
	got, err := emv.Encipher(b.ctx, b.token, k, emv.CBC, c.Input.Data)
	return equals("the data", got, c.Output, err)
}

// peerChain goes from issuer master key to ARPC; M/Chip 16 is 10 in hexadecimal.
func (b *bench) peerChain(c emvPeer) error {
	p, err := emv.ProfileOf("mchip-16")
	if err != nil {
		return err
	}
	m, err := b.icc(string(p.Option), c.Input.IMK, c.Input.PAN, c.Input.PSN)
	if err != nil {
		return err
	}
	mk, err := m.MAC(emv.MasterItself, emv.Input{}, false)
	if err != nil {
		return err
	}
	k, err := m.MAC(p.Cryptogram, c.said(), false)
	if err != nil {
		return err
	}
	if err := errors.Join(b.known("the ICC master key", mk, c.Input.ICCMK), b.known("the session key", k, c.Input.SKAC)); err != nil {
		return err
	}
	got, err := emv.Cryptogram(b.ctx, b.token, k, p.Padding, c.Input.Data)
	if err := equals("the ARQC", got, c.Input.ARQC, err); err != nil {
		return err
	}
	got, err = p.Answer(b.ctx, b.token, m, c.said(), c.Input.ARC, nil)
	return equals("the ARPC", got, c.Output, err)
}

// retailOf is retailKey for a value that may have another length.
func (b *bench) retailOf(value []byte) (emv.MACKey, error) {
	if len(value) != key.TDEA2.Size() {
		return emv.MACKey{}, fmt.Errorf("a key of the retail MAC has %d bytes", key.TDEA2.Size())
	}
	k, err := b.retailKey(value)
	return emv.MACKey{Retail: k}, err
}
