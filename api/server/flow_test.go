package server

import (
	"bytes"
	"net/http"
	"testing"

	"cardkms/api"
	"cardkms/kms/update"
)

// TestUpdate drives a whole update of a simulated card through the handler.
func TestUpdate(t *testing.T) {
	w := newWorld(t)
	content := w.upload("cos-1-1", 1000)
	ch := w.authenticated()
	status := w.send(ch, update.GetStatus().Bytes())
	p := post[api.Package](w, acme+"/packages", api.CreatePackage{Channel: ch, Image: "cos-1-1", UpdateKey: "upd", KVN: 0x5A, Status: status})
	if p.Chunks != 8 || len(p.MissingChunks()) != 8 || p.Resumed || p.State != api.PackageOpen || p.Size != uint32(len(content)) {
		t.Fatalf("%+v", p)
	}
	run := func(step string, chunks ...int) {
		t.Helper()
		out := post[api.Commands](w, acme+"/packages/"+p.ID+":script", api.PackageScript{Channel: ch, Step: step, Chunks: chunks})
		for i, c := range out.Commands {
			r := w.transmit(c)
			if !bytes.HasSuffix(r, []byte{0x90, 0x00}) {
				t.Fatalf("step %s, command %d: %X", step, i, r)
			}
			post[api.Responses](w, acme+"/channels/"+ch+":unwrap", api.Responses{Responses: []api.Hex{r}})
		}
	}
	run(api.StepOpen)
	run(api.StepChunks, p.MissingChunks()...)
	run(api.StepCommit)
	w.card.PowerOff()
	if w.card.PowerOn() == nil {
		t.Fatal("the card is mute")
	}
	ch = w.authenticated()
	receipt := w.send(ch, update.GetReceipt().Bytes())
	done := post[api.Package](w, acme+"/packages/"+p.ID+":confirm", api.ConfirmPackage{Channel: ch, Receipt: receipt})
	if done.State != api.PackageConfirmed {
		t.Fatalf("%+v", done)
	}
	get := w.do(ask{as: uriAuditor, method: http.MethodGet, path: acme + "/packages/" + p.ID})
	if got := want[api.Package](w, get); got.State != api.PackageConfirmed || got.Missing != nil {
		t.Fatalf("%+v", got)
	}
	if rec := w.do(ask{as: uriUpdate, method: http.MethodDelete, path: acme + "/channels/" + ch, key: newKey()}); rec.Code != http.StatusNoContent {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
}
