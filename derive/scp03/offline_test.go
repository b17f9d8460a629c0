package scp03_test

import (
	"bytes"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
)

// TestOfflineAsRecorded: from keys, counter and AID alone come the commands that
// other programs sent after they had the card's answer.
func TestOfflineAsRecorded(t *testing.T) {
	var file struct{ Vectors []standard }
	derivetest.ReadVectors(t, "standards.json", &file)
	ran := 0
	for _, v := range file.Vectors {
		if v.Alg != "scp03_session" || len(v.In.AID) == 0 || v.level(t) != 0x03 {
			continue
		}
		cmd, err := apdu.ParseCommand(v.In.InitCmd)
		if err != nil {
			t.Fatal(err)
		}
		a, err := scp03.ParseAnswer(bytes.TrimSuffix(v.In.InitRsp, []byte{0x90, 0x00}), scp03.Mode(len(cmd.Data)))
		if err != nil || !a.CounterIncluded {
			continue // a random challenge cannot be foretold
		}
		var script []apdu.Command
		for _, p := range v.In.Plain {
			c, err := apdu.ParseCommand(p)
			if err != nil {
				t.Fatal(err)
			}
			script = append(script, c)
		}
		var tok derivetest.Token
		o := scp03.Offline{
			Keys: scp03.Static{ENC: aes(t, &tok, "K-ENC", derive.Static, v.In.ENC), MAC: aes(t, &tok, "K-MAC", derive.Static, v.In.MAC)}, HostChallenge: cmd.Data, KVN: cmd.P1, Counter: a.Counter, AID: v.In.AID, Level: 0x03,
		}
		_, got, err := o.Prepare(ctx, &tok, &tok, script)
		if err != nil || len(got) != 2+len(script) {
			t.Fatalf("%s: %d commands, %v", v.ID, len(got), err)
		}
		ran++
		if !bytes.Equal(got[0].Data, cmd.Data) || got[0].P1 != cmd.P1 || !bytes.Equal(got[1].Bytes(), v.Out.ExtAuth) {
			t.Errorf("%s: %X %X, want %X", v.ID, got[0].Bytes(), got[1].Bytes(), v.Out.ExtAuth)
		}
		for i := range script {
			if i < len(v.Out.Wrapped) && len(v.Out.Wrapped[i]) > 0 && !bytes.Equal(got[2+i].Bytes(), v.Out.Wrapped[i]) {
				t.Errorf("%s: command %d is %X, want %X", v.ID, i+1, got[2+i].Bytes(), v.Out.Wrapped[i])
			}
		}
		o.Counter++
		if _, other, err := o.Prepare(ctx, &tok, &tok, script); err != nil || bytes.Equal(other[1].Bytes(), got[1].Bytes()) {
			t.Errorf("%s: the counter does not count: %v", v.ID, err)
		}
	}
	if ran < 5 {
		t.Errorf("%d vectors ran", ran)
	}
}
