package server

import (
	"net/http"
	"time"

	"cardkms/kms/fault"

	"github.com/go-chi/httprate"
)

// limitRate bounds the requests of each client, by its identity: addresses are
// shared by machines and changed by proxies. The middleware must be made once:
// chi calls it for each route, and all routes share the limit.
func (s *server) limitRate() func(http.Handler) http.Handler {
	limit := s.limiter()
	return func(next http.Handler) http.Handler {
		next = limit(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if own := about(r.Context()).caller.RequestsPerSecond; own > 0 {
				r = r.WithContext(httprate.WithRequestLimit(r.Context(), own))
			}
			next.ServeHTTP(w, r)
		})
	}
}

func (s *server) limiter() func(http.Handler) http.Handler {
	return httprate.NewRateLimiter(s.limits.RequestsPerSecond, time.Second,
		httprate.WithKeyFuncs(func(r *http.Request) (string, error) { return about(r.Context()).caller.ID, nil }),
		httprate.WithResponseHeaders(httprate.ResponseHeaders{}),
		httprate.WithLimitHandler(func(w http.ResponseWriter, r *http.Request) {
			s.refuse(w, r, fault.New(fault.RateLimited, "your requests come faster than the limit"))
		}),
		httprate.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) { s.refuse(w, r, err) }),
	).Handler
}
