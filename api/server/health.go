package server

import (
	"context"
	"net/http"
	"sync"
	"time"

	"cardkms/api"
	"cardkms/kms/fault"

	"github.com/danielgtaylor/huma/v2"
)

const (
	readyFor     = time.Second     // how long one check answers for all probes
	readyTimeout = 2 * time.Second // of one check
)

// readiness is the result of the newest check, so that probes do not load the
// token.
type readiness struct {
	mu  sync.Mutex // held during a check
	at  time.Time
	err error
}

func (s *server) registerHealth(a huma.API) {
	open := func(id, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Tags: []string{"health"}, Summary: summary, Security: []map[string][]string{}}
	}
	huma.Register(a, open("health", "/healthz", "The process answers"), func(context.Context, *nothing) (*answer[api.Health], error) {
		return answered(api.Health{Status: "ok"}), nil
	})
	huma.Register(a, open("ready", "/readyz", "The token and the store work"), func(ctx context.Context, _ *nothing) (*answer[api.Health], error) {
		if err := s.checkReady(ctx); err != nil {
			return nil, s.notReady(ctx, err)
		}
		return answered(api.Health{Status: "ready", Degraded: s.degraded()}), nil
	})
}

func (s *server) checkReady(ctx context.Context) error {
	s.ready.mu.Lock()
	defer s.ready.mu.Unlock()
	if now := time.Now(); now.Sub(s.ready.at) >= readyFor {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
		defer cancel()
		s.ready.err = s.svc.Ready(ctx)
		s.ready.at = now
	}
	return s.ready.err
}

// notReady answers 503 whatever the code, which is what probes look at.
func (s *server) notReady(ctx context.Context, err error) *Problem {
	p := s.problem(ctx, err)
	if fault.CodeOf(err) == fault.Internal {
		p.Detail = "the service is not ready"
	}
	p.Status = http.StatusServiceUnavailable
	return p
}
