package scp02_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp02"
	"cardkms/kms/apdu"
	"cardkms/kms/key"
)

type interopCase struct {
	ID     string
	I      octets
	Level  octets     `json:"security_level"`
	Static staticKeys `json:"static_keys"`
	Host   octets     `json:"host_challenge"`
	AID    octets
	Keys   struct {
		ENC  octets `json:"s_enc"`
		MAC  octets `json:"s_mac"`
		RMAC octets `json:"s_rmac"`
		DEK  octets
	} `json:"session_keys"`
	Init     struct{ Command, Response octets } `json:"initialize_update"`
	Ext      struct{ Command octets }           `json:"external_authenticate"`
	Commands []struct {
		Name                     string
		Plain, Wrapped, Response octets
		ResponsePlain            octets            `json:"response_plain"`
		MAC                      octets            `json:"c_mac"`
		Alternatives             map[string]octets `json:"accepted_alternatives"`
	}
	PutKey struct {
		KVN    octets                            `json:"new_kvn"`
		Keys   staticKeys                        `json:"new_keys"`
		ByPeer map[string]struct{ Plain octets } `json:"by_peer"`
	} `json:"put_key"`
}

// TestInteropTranscripts replays the sessions of five host programs with one card
// model, comparing every byte and every session key, with both forms of an empty
// command under C-DECRYPTION.
func TestInteropTranscripts(t *testing.T) {
	var file struct{ Cases []interopCase }
	derivetest.ReadVectors(t, "scp02.json", &file)
	if len(file.Cases) != 5 {
		t.Fatalf("%d cases", len(file.Cases))
	}
	for _, c := range file.Cases {
		for _, pad := range []bool{false, true} {
			t.Run(c.ID, func(t *testing.T) { c.replay(t, pad) })
		}
		t.Run(c.ID+"/put-key", c.putKey)
	}
}

func (c interopCase) open(t *testing.T) *opened {
	t.Helper()
	init := scp02.InitializeUpdate(c.Init.Command[2], c.Host)
	if got := init.Bytes(); !bytes.Equal(got, c.Init.Command) {
		t.Errorf("INITIALIZE UPDATE is %X, want %X", got, c.Init.Command)
	}
	o, ext := open(t, c.Static, c.Host, c.Init.Response[:len(c.Init.Response)-2], scp02.Level(c.Level[0]), c.I[0], c.AID)
	if !bytes.Equal(ext, c.Ext.Command) {
		t.Fatalf("EXTERNAL AUTHENTICATE is %X, want %X", ext, c.Ext.Command)
	}
	return o
}

func (c interopCase) replay(t *testing.T, pad bool) {
	o := c.open(t)
	o.PadEmpty = pad
	for _, k := range []struct {
		what string
		key  *derive.Key
		want []byte
	}{
		{"S-ENC", o.Keys.ENC, c.Keys.ENC}, {"S-MAC", o.Keys.MAC.Whole(), c.Keys.MAC},
		{"S-RMAC", o.Keys.RMAC.Whole(), c.Keys.RMAC}, {"session DEK", o.Keys.DEK, c.Keys.DEK},
		{"left of S-MAC", o.Keys.MAC.Left(), bytes.Repeat(c.Keys.MAC[:8], 3)},
	} {
		if got := o.tok.Value(k.key); !bytes.Equal(got, k.want) {
			t.Errorf("%s is %X, want %X", k.what, got, k.want)
		}
	}
	for _, m := range c.Commands {
		w := o.wrap(t, m.Plain)
		w.Ne = 0
		want := [][]byte{m.Wrapped}
		if !pad && len(m.Alternatives) > 0 {
			want = nil
			for _, other := range m.Alternatives {
				want = append(want, other)
			}
		}
		if got := w.Bytes(); !slices.ContainsFunc(want, func(b []byte) bool { return bytes.Equal(b, got) }) {
			t.Fatalf("%s is %X, want %X", m.Name, got, want)
		}
		if !bytes.Equal(o.state.MAC[:], m.MAC) {
			t.Fatalf("%s leaves %X, want %X", m.Name, o.state.MAC, m.MAC)
		}
		if got := o.unwrap(t, m.Plain, m.Response); !bytes.Equal(got, m.ResponsePlain) {
			t.Fatalf("the response to %s is %X, want %X", m.Name, got, m.ResponsePlain)
		}
	}
}

// putKey compares the key blocks with what each reference program sent.
func (c interopCase) putKey(t *testing.T) {
	o := c.open(t)
	data := bytes.Clone(c.PutKey.KVN)
	for _, v := range []octets{c.PutKey.Keys.ENC, c.PutKey.Keys.MAC, c.PutKey.Keys.DEK} {
		block, err := o.KeyBlock(ctx, o.tok, o.tok.Add("new", key.TDEA2, derive.Transport, v))
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, block...)
	}
	compared := 0
	for name, p := range c.PutKey.ByPeer {
		if p.Plain == nil {
			continue
		}
		cmd, err := apdu.ParseCommand(p.Plain)
		if err != nil || !bytes.Equal(cmd.Data, data) {
			t.Errorf("%s sent %X, we %X", name, cmd.Data, data)
		}
		compared++
	}
	if compared == 0 && c.I[0] != 0x45 { // whose card model took no program's PUT KEY
		t.Error("nothing was compared")
	}
}

type standard struct {
	ID, Alg string
	In      struct {
		staticKeys
		I, Seq, AID, Key, Data, Host octets
		Pad                          int
		Level                        json.RawMessage
		InitCmd                      octets `json:"init_cmd"`
		InitRsp                      octets `json:"init_rsp"`
		SENC, CMAC                   octets
		HostCrypt                    octets `json:"host_crypt"`
		Plain                        json.RawMessage
		Rsp, Wrapped                 []octets
	}
	Out struct {
		SENC, CMAC, DEK, Enc, Challenge, MAC octets
		KCV                                  struct{ SENC, CMAC, DEK, RMAC string }
		CardCrypt                            octets   `json:"card_crypt"`
		ExtAuth                              octets   `json:"ext_auth"`
		FirstPlain                           []octets `json:"first_plain"`
		Wrapped                              json.RawMessage
		RMAC                                 []octets
	}
}

func (v standard) level(t *testing.T) scp02.Level {
	var s string
	if json.Unmarshal(v.In.Level, &s) == nil {
		return scp02.Level(unhex(s)[0])
	}
	var n byte
	if err := json.Unmarshal(v.In.Level, &n); err != nil {
		t.Fatal(err)
	}
	return scp02.Level(n)
}

// list reads one string or several.
func list(t *testing.T, raw json.RawMessage) (out []octets) {
	var one octets
	if json.Unmarshal(raw, &one) == nil && one != nil {
		return []octets{one}
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestStandards runs the answers of public test suites.
func TestStandards(t *testing.T) {
	run := map[string]func(*testing.T, standard){
		"scp02_keys": runKeys, "scp02_dek_enc": runDEK, "scp02_session": runSession, "scp02_cardside": runCardSide,
		"scp02_wrap_rawkeys": runRaw, "scp02_cardcrypt": runCardCryptogram, "scp02_challenge": runChallenge,
		"retail_mac": runRetail, "scp02_wrap_keycard": runKeycard,
	}
	var file struct{ Vectors []standard }
	derivetest.ReadVectors(t, "standards.json", &file)
	if len(file.Vectors) != 21 {
		t.Fatalf("%d vectors", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		t.Run(v.ID, func(t *testing.T) { run[v.Alg](t, v) })
	}
}

func runKeys(t *testing.T, v standard) {
	tok := new(derivetest.Token)
	k, err := scp02.SessionKeys(v.In.add(tok), uint16(v.In.Seq[0])<<8|uint16(v.In.Seq[1]))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key  *derive.Key
		want []byte
		kcv  string
	}{
		{k.ENC, v.Out.SENC, v.Out.KCV.SENC}, {k.MAC.Whole(), v.Out.CMAC, v.Out.KCV.CMAC},
		{k.DEK, v.Out.DEK, v.Out.KCV.DEK}, {k.RMAC.Whole(), nil, v.Out.KCV.RMAC},
	} {
		if got := tok.Value(c.key); c.want != nil && !bytes.Equal(got, c.want) {
			t.Errorf("%X, want %X", got, c.want)
		}
		if got := derivetest.KCV(key.TDEA2, tok.Value(c.key)).Value; c.kcv != "" && got != c.kcv {
			t.Errorf("check value %s, want %s", got, c.kcv)
		}
	}
}

func runDEK(t *testing.T, v standard) {
	tok := new(derivetest.Token)
	k, err := scp02.SessionKeys(staticKeys{v.In.DEK, v.In.DEK, v.In.DEK}.add(tok), 0)
	if err != nil {
		t.Fatal(err)
	}
	m := scp02.Messaging{Token: tok, Keys: k, I: 0x15}
	block, err := m.KeyBlock(ctx, tok, tok.Add("new", key.TDEA2, derive.Transport, v.In.Key))
	if err != nil || !bytes.Equal(block[2:18], v.Out.Enc) {
		t.Errorf("%X (%v), want %X inside", block, err, v.Out.Enc)
	}
}

func runSession(t *testing.T, v standard) {
	cmd, err := apdu.ParseCommand(v.In.InitCmd)
	if err != nil {
		t.Fatal(err)
	}
	o, ext := open(t, v.In.staticKeys, cmd.Data, v.In.InitRsp, v.level(t), v.In.I[0], nil)
	if !bytes.Equal(ext, v.Out.ExtAuth) {
		t.Fatalf("EXTERNAL AUTHENTICATE is %X, want %X", ext, v.Out.ExtAuth)
	}
	wrapped := list(t, v.Out.Wrapped)
	for i, plain := range list(t, v.In.Plain) {
		w := o.wrap(t, plain)
		got, want := w.Bytes(), wrapped[i]
		w.Ne = 0
		if !bytes.Equal(got, want) && !bytes.Equal(w.Bytes(), want) {
			t.Fatalf("command %d is %X, want %X", i+1, got, want)
		}
		if i >= len(v.Out.RMAC) {
			continue
		}
		r := v.In.Rsp[i]
		n := len(r) - 2
		secured := slices.Concat(r[:n], v.Out.RMAC[i], r[n:])
		if got := o.unwrap(t, plain, secured); !bytes.Equal(got, r) {
			t.Fatalf("response %d is %X, want %X", i+1, got, r)
		}
	}
}

// runCardSide decrypts what a host program sent, as the card does, and wraps it again:
// every byte must come back.
func runCardSide(t *testing.T, v standard) {
	cmd, err := apdu.ParseCommand(v.In.InitCmd)
	if err != nil {
		t.Fatal(err)
	}
	o, ext := open(t, v.In.staticKeys, cmd.Data, v.In.InitRsp, v.level(t), v.In.I[0], nil)
	if !bytes.Equal(ext, v.Out.ExtAuth) {
		t.Fatalf("EXTERNAL AUTHENTICATE is %X, want %X", ext, v.Out.ExtAuth)
	}
	for i, b := range v.In.Wrapped {
		c, err := apdu.ParseCommand(b)
		if err != nil {
			t.Fatal(err)
		}
		c.CLA = 0x80
		c.Data = decrypt(o.tok.Value(o.Keys.ENC), c.Data[:len(c.Data)-8])
		if i < len(v.Out.FirstPlain) && !bytes.Equal(c.Data, v.Out.FirstPlain[i]) {
			t.Errorf("command %d is %X, want %X", i+1, c.Data, v.Out.FirstPlain[i])
		}
		w := o.wrap(t, c.Bytes())
		if got := w.Bytes(); !bytes.Equal(got, b) {
			t.Fatalf("command %d is %X, want %X", i+1, got, b)
		}
	}
}

func runRaw(t *testing.T, v standard) {
	tok := new(derivetest.Token)
	o := opened{Messaging: scp02.Messaging{Token: tok, Level: v.level(t), I: v.In.I[0], Keys: rawKeys(tok, v.In.SENC, v.In.CMAC, v.In.CMAC)}}
	wrapped := list(t, v.Out.Wrapped)
	for i, plain := range list(t, v.In.Plain) {
		w := o.wrap(t, plain)
		if got := w.Bytes(); !bytes.Equal(got, wrapped[i]) {
			t.Fatalf("command %d is %X, want %X", i+1, got, wrapped[i])
		}
	}
}

// runKeycard gives the host cryptogram itself, so the first C-MAC is over a command
// that carries it.
func runKeycard(t *testing.T, v standard) {
	tok := new(derivetest.Token)
	o := opened{Messaging: scp02.Messaging{Token: tok, Level: scp02.CMAC, I: 0x55, Keys: rawKeys(tok, v.In.CMAC, v.In.CMAC, v.In.CMAC)}}
	for i, plain := range [][]byte{append(unhex("8082010008"), v.In.HostCrypt...), list(t, v.In.Plain)[0]} {
		w := o.wrap(t, plain)
		want := []octets{v.Out.ExtAuth, list(t, v.Out.Wrapped)[0]}[i]
		got := w.Bytes()
		w.Ne = 0
		if !bytes.Equal(got, want) && !bytes.Equal(w.Bytes(), want) {
			t.Fatalf("command %d is %X, want %X", i+1, got, want)
		}
	}
}

func runCardCryptogram(t *testing.T, v standard) {
	o, _ := open(t, v.In.staticKeys, v.In.Host, v.In.InitRsp, scp02.CMAC, 0x55, unhex("A000000151000000"))
	if !bytes.Equal(v.In.InitRsp[20:], v.Out.CardCrypt) || o == nil {
		t.Error("the vector contradicts itself")
	}
}

func runChallenge(t *testing.T, v standard) {
	tok := new(derivetest.Token)
	a := scp02.Answer{Counter: uint16(v.In.Seq[0])<<8 | uint16(v.In.Seq[1]), CardChallenge: v.Out.Challenge}
	k, err := scp02.SessionKeys(staticKeys{ENC: v.In.MAC, MAC: v.In.MAC}.add(tok), a.Counter)
	if err != nil {
		t.Fatal(err)
	}
	if err := scp02.VerifyChallenge(ctx, tok, k, a, v.In.AID); err != nil {
		t.Error(err)
	}
}

// runRetail checks the MAC under this package, which pads before it asks the token.
func runRetail(t *testing.T, v standard) {
	tok := new(derivetest.Token)
	message := []byte(v.In.Data)
	if v.In.Pad == 2 {
		message = derive.Pad2(message, 8)
	}
	message = append(bytes.Clone(message), make([]byte, (8-len(message)%8)%8)...)
	got, err := tok.RetailMAC(ctx, retailKey(tok, "k", v.In.Key), message)
	if err != nil || !bytes.Equal(got[:len(v.Out.MAC)], v.Out.MAC) {
		t.Errorf("%X (%v), want %X", got, err, v.Out.MAC)
	}
}
