package scp03_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
)

// standard is one vector of standards.json; its alg says which fields it has.
type standard struct {
	ID, Alg string
	In      struct {
		staticKeys
		Key               octets
		Host, Card, Ctx   octets
		InitCmd           octets `json:"init_cmd"`
		InitRsp           octets `json:"init_rsp"`
		Level             json.RawMessage
		AID               octets
		Plain, Rsp        []octets
		SENC, SMAC, SRMAC octets
	}
	Out struct {
		ExtAuth           octets `json:"ext_auth"`
		SENC, SMAC, SRMAC octets
		Wrapped           []octets
		RspPlain          []octets `json:"rsp_plain"`
		WithLength        octets   `json:"block_with_len"`
		NoLength          octets   `json:"block_no_len"`
		KCV               struct{ SENC, SMAC, SRMAC string }
	}
}

// level reads a security level that is written as a number or in hexadecimal.
func (v standard) level(t *testing.T) scp03.Level {
	t.Helper()
	var n byte
	if json.Unmarshal(v.In.Level, &n) == nil {
		return scp03.Level(n)
	}
	var o octets
	if err := json.Unmarshal(v.In.Level, &o); err != nil || len(o) != 1 {
		t.Fatalf("%s is not a security level", v.In.Level)
	}
	return scp03.Level(o[0])
}

// TestStandards runs the groups scp03 and put-key of standards.json: published
// test suites of pySim, kaoh, OpenJavaCard and GlobalPlatformPro, and our own
// S16, extended and PUT KEY vectors.
func TestStandards(t *testing.T) {
	var file struct{ Vectors []standard }
	derivetest.ReadVectors(t, "standards.json", &file)
	run := map[string]func(*testing.T, standard){
		"scp03_session": runSession, "scp03_keys": runKeys, "scp03_keys_ctx": runKeys,
		"scp03_wrap_rawkeys": runRawKeys, "scp03_putkey": runPutKey,
	}
	count := map[string]int{}
	for _, v := range file.Vectors {
		count[v.Alg]++
		t.Run(v.ID, func(t *testing.T) { run[v.Alg](t, v) })
	}
	want := map[string]int{"scp03_session": 15, "scp03_keys": 1, "scp03_keys_ctx": 1, "scp03_wrap_rawkeys": 3, "scp03_putkey": 3}
	if d := cmp.Diff(want, count); d != "" {
		t.Error(d)
	}
}

func runSession(t *testing.T, v standard) {
	cmd, err := apdu.ParseCommand(v.In.InitCmd)
	if err != nil {
		t.Fatal(err)
	}
	answer := bytes.TrimSuffix(v.In.InitRsp, []byte{0x90, 0x00})
	o, ext := open(t, v.In.staticKeys, cmd.Data, answer, v.level(t), v.In.AID)
	if !bytes.Equal(ext, v.Out.ExtAuth) {
		t.Errorf("EXTERNAL AUTHENTICATE is %X, want %X", ext, v.Out.ExtAuth)
	}
	o.wantKeys(t, v.Out.SENC, v.Out.SMAC, v.Out.SRMAC)
	o.script(t, v)
}

// script wraps every command and unwraps every response of a vector. Some
// responses are given without their status word 9000, which shows in their
// length.
func (o *opened) script(t *testing.T, v standard) {
	t.Helper()
	for i, plain := range v.In.Plain {
		var wrapped, rsp, rspPlain []byte
		if i < len(v.Out.Wrapped) {
			wrapped = v.Out.Wrapped[i]
		}
		if i < len(v.In.Rsp) && v.In.Rsp[i] != nil {
			rsp, rspPlain = v.In.Rsp[i], append(bytes.Clone(v.Out.RspPlain[i]), 0x90, 0x00)
			n := len(v.Out.RspPlain[i])
			if o.Level&scp03.REncryption != 0 && n > 0 {
				n = n/16*16 + 16
			}
			if o.Level&scp03.RMAC != 0 {
				n += int(o.Mode)
			}
			if len(rsp) == n {
				rsp = append(bytes.Clone(rsp), 0x90, 0x00)
			}
		}
		o.exchange(t, "command", plain, wrapped, rsp, rspPlain)
	}
}

func runKeys(t *testing.T, v standard) {
	tok := new(derivetest.Token)
	host, card := v.In.Host, v.In.Card
	if v.In.Ctx != nil {
		host, card = v.In.Ctx, nil
	}
	k := scp03.SessionKeys(scp03.Static{
		ENC: aes(t, tok, "K-ENC", derive.Static, v.In.ENC),
		MAC: aes(t, tok, "K-MAC", derive.Static, v.In.MAC),
	}, host, card)
	(&opened{tok: tok, Messaging: scp03.Messaging{Keys: k}}).wantKeys(t, v.Out.SENC, v.Out.SMAC, v.Out.SRMAC)
	for _, c := range []struct {
		key  *derive.Key
		want string
	}{{k.ENC, v.Out.KCV.SENC}, {k.MAC, v.Out.KCV.SMAC}, {k.RMAC, v.Out.KCV.SRMAC}} {
		if got, _ := tok.KCV(ctx, c.key); c.want != "" && got.Value != c.want {
			t.Errorf("a check value is %s, want %s", got.Value, c.want)
		}
	}
}

func runRawKeys(t *testing.T, v standard) {
	tok := new(derivetest.Token)
	o := &opened{tok: tok, Messaging: scp03.Messaging{Token: tok, Level: v.level(t), Mode: scp03.S8, Keys: scp03.Session{
		ENC:  aes(t, tok, "S-ENC", derive.SessionENC, v.In.SENC),
		MAC:  aes(t, tok, "S-MAC", derive.SessionMAC, v.In.SMAC),
		RMAC: aes(t, tok, "S-RMAC", derive.SessionMAC, v.In.SRMAC),
	}}}
	if len(v.In.Plain) == 0 || len(v.In.Plain) != len(v.Out.Wrapped) {
		t.Fatal("the vector compares nothing")
	}
	o.script(t, v)
}

func runPutKey(t *testing.T, v standard) {
	tok := new(derivetest.Token)
	dek := aes(t, tok, "K-DEK", derive.DataEncryption, v.In.DEK)
	k := aes(t, tok, "new", derive.Transport, v.In.Key)
	got, err := scp03.KeyBlock(ctx, tok, dek, k, scp03.WithLength)
	if err != nil || !bytes.Equal(got, v.Out.WithLength) {
		t.Errorf("with length: %X (%v), want %X", got, err, v.Out.WithLength)
	}
	got, err = scp03.KeyBlock(ctx, tok, dek, k, scp03.NoLength)
	if (err == nil) != (v.Out.NoLength != nil) || !bytes.Equal(got, v.Out.NoLength) {
		t.Errorf("without: %X (%v), want %X", got, err, v.Out.NoLength)
	}
}
