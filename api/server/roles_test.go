package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/approval"
)

// allowed is the policy once more, so that a changed permission is seen here.
var allowed = map[kms.Operation][]string{
	kms.ChannelOpen:         {uriUpdate},
	kms.ChannelAuthenticate: {uriUpdate},
	kms.ChannelWrap:         {uriUpdate},
	kms.ChannelUnwrap:       {uriUpdate},
	kms.ChannelClose:        {uriUpdate},
	kms.ImageRegister:       {uriUpdate, uriOfficer},
	kms.ImageContent:        {uriUpdate, uriOfficer},
	kms.ImageRead:           {uriUpdate, uriOfficer, uriAuditor},
	kms.PackageCreate:       {uriUpdate},
	kms.PackageScript:       {uriUpdate},
	kms.PackageChunks:       {uriUpdate},
	kms.PackageConfirm:      {uriUpdate},
	kms.PackageRead:         {uriUpdate, uriAuditor},
	kms.CardRead:            {uriUpdate, uriOfficer, uriAuditor},
	kms.CardImport:          {uriOfficer},
	kms.KeysChange:          {uriUpdate},
	kms.ScriptPrepare:       {uriUpdate},
	kms.EMVVerify:           {uriUpdate},
	kms.EMVAnswer:           {uriUpdate},
	kms.EMVScriptOp:         {uriUpdate},
	kms.OTAPacketOp:         {uriUpdate},
	kms.OTAVerify:           {uriUpdate},
	kms.KeysConfirm:         {uriUpdate},
	kms.KeysRetire:          {uriUpdate},
	kms.KeySuspend:          {uriOfficer},
	kms.ProfileRead:         {uriUpdate, uriOfficer, uriAuditor},
	kms.KeyRead:             {uriOfficer, uriAuditor},
	kms.AuditRead:           {uriAuditor},
	kms.ReportRead:          {uriOfficer, uriAuditor},
	kms.ApprovalPropose:     {uriOfficer},
	kms.ApprovalApprove:     {uriOfficer},
	kms.ApprovalReject:      {uriOfficer},
	kms.ApprovalExecute:     {uriOfficer},
	kms.ApprovalRead:        {uriOfficer, uriAuditor},
	kms.SystemHalt:          {uriOfficer, uriOperator},
	kms.ClientSuspend:       {uriOfficer},
	kms.ClientRead:          {uriOfficer, uriAuditor},
}

// example returns a well-formed request for a route, about objects that may not
// exist.
func (w *world) example(rt route) ask {
	id := strings.Repeat("ab", 16)
	im, _ := w.image("cos-1-1", 100)
	out := ask{method: rt.method, key: newKey(), path: strings.NewReplacer(
		"{issuer}", "acme", "{channel}", id, "{image}", "cos-1-1", "{package}", id, "{kdd}", strings.Repeat("0", 20), "{sequence}", "0", "{report}", "inventory", "{proposal}", id, "{key}", "isd", "{version}", "1", "{profile}", "default",
	).Replace(rt.path)}
	switch rt.id {
	case "openChannel":
		out.body = api.OpenChannel{Key: "isd"}
	case "authenticateChannel":
		out.body = api.Authenticate{Response: api.Hex{0x90, 0x00}}
	case "wrapCommands":
		out.body = api.Commands{Commands: []api.Hex{{0, 0xA4, 4, 0}}}
	case "unwrapResponses":
		out.body = api.Responses{Responses: []api.Hex{{0x90, 0x00}}}
	case "registerImage":
		out.body = im
	case "uploadImage":
		out.body, out.key = []byte{1}, ""
		out.header = map[string]string{"Content-Type": api.BinaryType}
	case "createPackage":
		out.body = api.CreatePackage{Channel: id, Image: "cos-1-1", Status: api.Hex{0x90, 0x00}}
	case "packageScript":
		out.body = api.PackageScript{Channel: id, Step: api.StepOpen}
	case "confirmPackage":
		out.body = api.ConfirmPackage{Channel: id, Receipt: api.Hex{0x90, 0x00}}
	case "propose":
		out.body = api.Propose{Issuer: "acme", Operation: "card.release", Object: "issuers/acme/cards/" + strings.Repeat("0", 20)}
	case "approveProposal", "rejectProposal":
		out.body = api.Decide{Signature: make(api.Hex, 64)}
	case "changeKeys", "suspendKey":
		out.body = struct{}{}
	case "confirmKeys":
		out.body = api.ConfirmKeys{Response: api.Hex{0x90, 0x00}}
	case "retireKeys":
		out.body = api.RetireKeys{KVN: 0x30}
	case "importCards":
		out.body = api.ImportCards{Cards: []api.ImportedCard{{KDD: make(api.Hex, 10), KVN: 0x30}}}
	case "prepareScripts":
		out.body = api.PrepareScripts{Key: "isd", KVN: 0x30, Level: 3, Commands: []api.Hex{{0, 0xA4, 4, 0}}, Cards: []api.CardAt{{KDD: make(api.Hex, 10), Counter: 1}}}
	case "verifyARQC":
		out.body = emvTransaction()
	case "answerARQC":
		out.body = api.EMVDecision{EMVTransaction: emvTransaction(), Code: api.Hex{0x30, 0x30}}
	case "secureEMVScript":
		out.body = api.EMVScript{
			EMVDecision: api.EMVDecision{EMVTransaction: emvTransaction(), Code: api.Hex{0x30, 0x30}},
			SMI:         "smi", SMC: "smc", Commands: []api.EMVCommand{{Command: api.Hex{0x84, 0x18, 0, 0}}},
		}
	case "secureOTAPacket":
		out.body = api.OTAPacket{OTACard: otaCard(), SPI: api.Hex{0x16, 0x09}, TAR: make(api.Hex, 3), Data: api.Hex{1}}
	case "verifyOTAResponse":
		out.body = api.OTAResponse{OTACard: otaCard(), Counter: make(api.Hex, 5), Response: make(api.Hex, 21)}
	case "suspendClient":
		out.body = api.SuspendClient{Client: "spiffe://test.example/role/operator/nobody"}
	case "executeProposal", "haltSystem":
		out.body = struct{}{}
	case "getAuditProof":
		out.path += "?size=1"
	case "getAuditConsistency":
		out.path += "?older=0&newer=1"
	}
	return out
}

func emvTransaction() api.EMVTransaction {
	return api.EMVTransaction{
		Profile: "mchip-16", Key: "ac", DKI: 1, PAN: "1234567890123456", ATC: api.Hex{0, 1}, UN: make(api.Hex, 4), Data: api.Hex{1}, ARQC: make(api.Hex, 8),
	}
}

func otaCard() api.OTACard { return api.OTACard{Key: "ota", KVN: 1, KDD: make(api.Hex, 10)} }

// TestRoles sends every operation in every role, in every state of the key and of
// the service. Denied is forbidden and leaves an entry; allowed is anything that
// only an allowed caller can get.
func TestRoles(t *testing.T) {
	for _, op := range kms.Operations() {
		if _, ok := allowed[op]; !ok {
			t.Errorf("%s is not in the table", op)
		}
	}
	const version = "issuers/acme/keys/isd/versions/1"
	for name, reach := range map[string]func(*world){
		"active":      func(*world) {},
		"suspended":   func(w *world) { w.do(sendAs(w, uriOfficer, "/v1/"+version+":suspend", struct{}{})) },
		"deactivated": func(w *world) { w.decided("key.deactivate", version, "exception", "cards-are-gone") },
		"compromised": func(w *world) { w.decided("key.compromise", version) },
		"destroyed": func(w *world) {
			w.decided("key.compromise", version)
			w.decided("key.destroy", version)
		},
		"halted": func(w *world) { w.do(sendAs(w, uriOperator, "/v1/system:halt", struct{}{})) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			reach(w)
			if state := w.stateOf("isd"); name != "halted" && state != name && name != "destroyed" {
				t.Fatalf("the key is %s", state)
			}
			w.matrix(t)
		})
	}
}

// decided has an operation approved by two officers and executed.
func (w *world) decided(operation, object string, params ...string) {
	w.t.Helper()
	in := api.Propose{Issuer: "acme", Operation: operation, Object: object, Params: map[string]string{}}
	if !strings.HasPrefix(object, "issuers/") {
		in.Issuer = ""
	}
	for i := 0; i < len(params); i += 2 {
		in.Params[params[i]] = params[i+1]
	}
	p := w.propose(in)
	at := proposals + "/" + p.ID
	for _, uri := range []string{uriBob, uriCyd} {
		want[api.Proposal](w, w.do(sendAs(w, uri, at+":approve", signed(p, uri, approval.Approve))))
	}
	want[api.Proposal](w, w.do(sendAs(w, uriOfficer, at+":execute", struct{}{})))
}

// stateOf returns the state of a key's first version.
func (w *world) stateOf(name string) string {
	w.t.Helper()
	l := want[api.KeyList](w, w.do(ask{as: uriOfficer, method: http.MethodGet, path: acme + "/keys"}))
	i := slices.IndexFunc(l.Keys, func(k api.Key) bool { return strings.Contains(k.Name, "/keys/"+name+"/versions/1") })
	if i < 0 {
		w.t.Fatalf("no %s in %+v", name, l)
	}
	return l.Keys[i].State
}

// matrix sends every operation in every role.
func (w *world) matrix(t *testing.T) {
	for _, rt := range w.server.routes {
		for _, as := range []string{uriUpdate, uriOfficer, uriAuditor, uriOperator} {
			a := w.example(rt)
			a.as = as
			before := len(w.entries())
			rec := w.do(a)
			denied := rec.Code == http.StatusForbidden
			if ok := slices.Contains(allowed[rt.does], as); ok == denied {
				t.Errorf("%s as %s: status %d: %s", rt.id, as, rec.Code, rec.Body)
			}
			if !denied {
				continue
			}
			refused(t, rec, api.Forbidden)
			if left := w.entries()[before:]; len(left) != 1 || !strings.Contains(left[0], "outcome forbidden") {
				t.Errorf("%s as %s: the refusal left no entry", rt.id, as)
			}
		}
	}
}

// entries reads the whole log.
func (w *world) entries() []string {
	w.t.Helper()
	var out []string
	for from := int64(0); ; {
		page := want[api.AuditEntries](w, w.do(ask{as: uriAuditor, method: http.MethodGet, path: fmt.Sprintf("/v1/audit/entries?limit=1000&from=%d", from)}))
		for _, e := range page.Entries {
			out = append(out, e.Text)
		}
		if from = page.Next; len(page.Entries) == 0 {
			return out
		}
	}
}

// TestWrongIssuer checks that another issuer's objects look like none.
func TestWrongIssuer(t *testing.T) {
	w := newWorld(t)
	w.upload("cos-1-1", 300)
	for _, rt := range w.server.routes {
		if !strings.Contains(rt.path, "{issuer}") || !slices.Contains(allowed[rt.does], uriUpdate) {
			continue
		}
		a := w.example(rt)
		a.as = uriGlobex
		theirs := w.do(a)
		refused(t, theirs, api.NotFound)
		a.path = strings.Replace(a.path, "/acme/", "/no-such-issuer/", 1)
		a.as, a.key = uriUpdate, newKey()
		none := w.do(a)
		if sameBut(t, theirs, none) {
			continue
		}
		t.Errorf("%s: another issuer answers %s, an issuer that is not there %s", rt.id, theirs.Body, none.Body)
	}
}
