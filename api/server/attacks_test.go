package server

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"

	"cardkms/api"

	"github.com/go-json-experiment/json"
)

// wishes are what the known attacks on PKCS#11 tokens need their victim's interface
// to take: two roles of one key, a role added later, a weaker template of what is
// unwrapped or derived, a mechanism without a MAC, an object by its label.
var wishes = []string{
	`"CKA_DECRYPT":true`, `"decrypt":true`, `"wrap":true`, `"unwrap":true`, `"encrypt":true`, `"derive":true`, `"sign":true`,
	`"sensitive":false`, `"extractable":true`, `"modifiable":true`, `"copyable":true`, `"trusted":true`,
	`"template":{"CKA_SENSITIVE":false}`, `"attributes":[]`, `"valueLength":1`, `"CKA_VALUE_LEN":1`,
	`"mechanism":"CKM_AES_CBC_PAD"`, `"allowedMechanisms":["CKM_AES_ECB"]`, `"iv":"00000000000000000000000000000000"`,
	`"label":"isd"`, `"id":"00"`, `"handle":1`, `"token":"other"`, `"pin":"1234"`, `"value":"00"`, `"hostChallenge":"0000000000000000"`,
}

// TestNoRequestNamesATemplate sends every request that takes a body with each of
// these wishes in it, in a role that may send it. All are refused before anything
// is done: a body has no field for what happens inside the token.
func TestNoRequestNamesATemplate(t *testing.T) {
	w := newWorld(t)
	sent := 0
	for _, rt := range w.server.routes {
		a := w.example(rt)
		if _, raw := a.body.([]byte); a.body == nil || raw {
			continue
		}
		good, err := json.Marshal(a.body)
		must(t, err)
		a.as = allowed[rt.does][0]
		before := len(w.entries())
		for _, wish := range wishes {
			body := `{` + wish
			if !bytes.Equal(good, []byte("{}")) {
				body = string(good[:len(good)-1]) + "," + wish
			}
			a.body, a.key = body+"}", newKey()
			if name, _, _ := strings.Cut(wish, ":"); bytes.Contains(good, []byte(name+":")) {
				continue // the body has a field of this name, which means something else
			}
			rec := w.do(a)
			refused(t, rec, api.InvalidInput)
			sent++
		}
		if after := len(w.entries()); after != before {
			t.Errorf("%s: %d entries tell of something that happened", rt.id, after-before)
		}
	}
	if sent < 400 {
		t.Errorf("only %d requests were sent", sent)
	}
}

// TestNoProposalNamesATemplate: what officers decide about a key has no room for it
// either, nor for a usage of two roles.
func TestNoProposalNamesATemplate(t *testing.T) {
	w := newWorld(t)
	good := map[string]string{
		"usage": "gp-scp03", "algorithm": "aes-256", "card_algorithm": "aes-128", "diversification": "kdf3", "kvn": "31", "cryptoperiod_days": "365",
	}
	ask := func(params map[string]string) *api.Problem {
		rec := w.do(sendAs(w, uriOfficer, proposals, api.Propose{Issuer: "acme", Operation: "key.create", Object: "issuers/acme/keys/isd/versions/2", Params: params, ValidateOnly: true}))
		if rec.Code < http.StatusBadRequest {
			return nil
		}
		var p api.Problem
		must(t, json.Unmarshal(rec.Body.Bytes(), &p))
		return &p
	}
	if p := ask(good); p != nil {
		t.Fatalf("as it should be: %+v", p)
	}
	for _, bad := range [][2]string{
		{"extractable", "true"}, {"sensitive", "false"}, {"mechanism", "CKM_AES_CBC_PAD"}, {"template", "00"}, {"label", "isd"}, {"value", "00"},
		{"usage", "wrap"}, {"usage", "gp-scp03,kek"}, {"usage", "kek"}, {"algorithm", "des"}, {"algorithm", "tdea-56"}, {"card_algorithm", "aes-512"},
		{"diversification", "ecb"}, {"diversification", ""}, {"kvn", "00"}, {"kvn", "100"}, {"cryptoperiod_days", "0"}, {"cryptoperiod_days", "-1"},
	} {
		params := map[string]string{}
		for k, v := range good {
			params[k] = v
		}
		params[bad[0]] = bad[1]
		if p := ask(params); p == nil || !slices.Contains([]api.Code{api.InvalidInput, api.TokenUnable}, p.Code) {
			t.Errorf("%s=%s: %+v", bad[0], bad[1], p)
		}
	}
}
