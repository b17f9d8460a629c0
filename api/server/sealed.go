package server

import (
	"net/http"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/fault"

	"github.com/go-json-experiment/json"
)

// Sealed is the handler of a service that has not begun: /healthz says that the process
// answers, and everything else is refused with the reason that why returns, /readyz like
// the rest. Who asks does not matter, beyond what the TLS listener requires.
func Sealed(why func() *fault.Error) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.MarshalWrite(w, api.Health{Status: "ok"}) // the client may be gone
	})
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		f, id := why(), newRequest(r).id
		p := api.NewProblem(api.Code(f.Code), f.Detail, id)
		p.Sealed = sealedAs(kms.SealedBy(f))
		w.Header().Set(api.HeaderRequestID, id)
		w.Header().Set("Content-Type", api.ProblemType)
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.MarshalWrite(w, p) // the client may be gone
	})
	return m
}
