package server

import (
	"context"
	"encoding/hex"
	"net/http"
	"testing"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/key"
)

func unhex(t *testing.T, s string) api.Hex {
	t.Helper()
	b, err := hex.DecodeString(s)
	must(t, err)
	return b
}

// TestEMVFormat1 sends a script through the handler, whose answer pyca/cryptography computed
// (flow 1 of derive/emv/testdata/format1.json), after commands that are none.
func TestEMVFormat1(t *testing.T) {
	w := newWorld(t)
	for _, k := range []struct {
		name, value string
		usage       key.Usage
	}{
		{"ac", "8211B636092D661A5777F3E7506395F0", key.EMVAC},
		{"smi", "E261C2D32AAAD8F072CB020A3DB5B8F6", key.EMVSMI},
		{"smc", "11AB9A57CBCF074A581831B23797F10A", key.EMVSMC},
	} {
		n := kms.NewKey{Issuer: "acme", Name: k.name, Usage: k.usage, Algorithm: key.TDEA2, CardAlgorithm: key.TDEA2, Diversification: "emv-option-b", KVN: 1}
		_, err := w.service.LoadKey(context.Background(), "test", n, maker{w, map[key.Part][]byte{key.Master: unhex(t, k.value)}})
		must(t, err)
	}
	in := api.EMVScript{
		EMVDecision: api.EMVDecision{
			EMVTransaction: api.EMVTransaction{
				Profile: "ccd-5", Key: "ac", DKI: 1, PAN: "1234567890123456", PSN: "00", ATC: unhex(t, "001C"), ARQC: unhex(t, "13BDD62A09685186"),
				Data: unhex(t, "00000000999900000000000001248000000000012420990600ABCDEF1218000000"),
			},
			Code: unhex(t, "83800000"), Proprietary: unhex(t, "0102030405"),
		},
		SMI: "smi", SMC: "smc",
	}
	send := ask{as: uriUpdate, method: http.MethodPost, path: acme + "/emv/scripts"}
	for what, command := range map[string]string{
		"an Le": "8018000000", "data and an Le": "80DA9F14010000", "an Lc of more": "80DA9F140200", "an Lc of less": "80DA9F1401000000",
		"a header cut off": "801800", "Lc without data": "80DA9F1400",
	} {
		in.Commands = []api.EMVCommand{{Command: unhex(t, "80180000")}, {Command: unhex(t, command)}}
		send.body, send.key = in, newKey()
		rec := w.do(send)
		if rec.Code != http.StatusBadRequest && rec.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: status %d: %s", what, rec.Code, rec.Body)
		}
	}
	in.Commands = []api.EMVCommand{{Command: make(api.Hex, 5+243)}}
	copy(in.Commands[0].Command, unhex(t, "80DA9F14F3"))
	send.body, send.key = in, newKey()
	refused(t, w.do(send), "invalid_input")

	in.Commands = []api.EMVCommand{{Command: unhex(t, "80180000")}, {Command: unhex(t, "8024000208249999FFFFFFFFFF"), Encipher: true}, {Command: unhex(t, "04DA9F140100")}}
	out := post[api.EMVSecured](w, send.path, in)
	if out.ARPC.String() != "16FD6864" || len(out.Commands) != 3 {
		t.Fatalf("%+v", out)
	}
	for i, want := range []string{"8C1800000A8E087751EF884505DA19", "8C2400021D87110120DE77EAE3B07E2490CD23FEB62F84E68E08B962ABD9A98AF1C3", "0CDA9F140D8101008E085B41C5B3FE08A10B"} {
		if got := out.Commands[i].String(); got != want {
			t.Errorf("command %d is %s, want %s", i+1, got, want)
		}
	}
}
