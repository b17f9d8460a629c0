package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cardkms/api"
	"cardkms/kms"

	"github.com/go-json-experiment/json"
)

// BenchmarkOpenChannel compares the service with and without the handler around
// it: the difference is the cost of this package.
func BenchmarkOpenChannel(b *testing.B) {
	unlimited := func(c *Config) { c.Limits.RequestsPerSecond = 1 << 30 }
	b.Run("service", func(b *testing.B) {
		w := newWorld(b, unlimited)
		r := kms.Request{Caller: w.server.admitted.Load().clients[uriUpdate], ID: "bench"}
		for b.Loop() {
			out, err := w.service.OpenChannel(b.Context(), r, kms.OpenChannelInput{Issuer: "acme", Key: "isd"})
			must(b, err)
			must(b, w.service.CloseChannel(b.Context(), r, "acme", out.ID))
		}
	})
	b.Run("handler", func(b *testing.B) {
		w := newWorld(b, unlimited)
		for b.Loop() {
			out := post[api.OpenedChannel](w, acme+"/channels", api.OpenChannel{Key: "isd"})
			w.do(ask{as: uriUpdate, method: http.MethodDelete, path: acme + "/channels/" + out.ID, key: newKey()})
			w.log.Reset()
		}
	})
}

// BenchmarkOverhead measures the handler alone: a request that the service
// refuses before it does anything.
func BenchmarkOverhead(b *testing.B) {
	w := newWorld(b, func(c *Config) { c.Limits.RequestsPerSecond = 1 << 30 })
	for name, n := range map[string]int{"1 APDU": 1, "256 APDUs of 239 bytes": 256} {
		script := api.Commands{}
		for range n {
			script.Commands = append(script.Commands, make(api.Hex, 244))
		}
		body, err := json.Marshal(script)
		must(b, err)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, acme+"/channels/"+strings.Repeat("ab", 16)+":wrap", w.body(body))
				r.TLS = certificate(uriUpdate)
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("Idempotency-Key", "bench")
				rec := httptest.NewRecorder()
				w.handler.ServeHTTP(rec, r)
				if rec.Code != http.StatusNotFound {
					b.Fatal(rec.Body)
				}
				w.log.Reset()
			}
		})
	}
}
