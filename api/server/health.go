package server

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"cardkms/api"
	"cardkms/kms"
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
	mu     sync.Mutex // held during a check
	at     time.Time
	err    error
	health api.Health
}

func (s *server) registerHealth(a huma.API) {
	open := func(id, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Tags: []string{"health"}, Summary: summary, Security: []map[string][]string{}}
	}
	huma.Register(a, open("health", "/healthz", "The process answers"), func(context.Context, *nothing) (*answer[api.Health], error) {
		return answered(api.Health{Status: "ok"}), nil
	})
	huma.Register(a, open("ready", "/readyz", "The main token and the store work"), func(ctx context.Context, _ *nothing) (*answer[api.Health], error) {
		h, err := s.checkReady(ctx)
		if err != nil {
			return nil, s.notReady(ctx, err)
		}
		return answered(h), nil
	})
}

func (s *server) checkReady(ctx context.Context) (api.Health, error) {
	s.ready.mu.Lock()
	defer s.ready.mu.Unlock()
	if now := time.Now(); now.Sub(s.ready.at) >= readyFor {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
		defer cancel()
		if s.ready.err = s.svc.Ready(ctx); s.ready.err == nil {
			s.ready.health = healthOf(s.svc.TokenStates(ctx))
		}
		s.ready.at = now
	}
	return s.ready.health, s.ready.err
}

// healthOf says what each token does while the main one works.
func healthOf(states []kms.TokenState) api.Health {
	h := api.Health{Status: "ready", Tokens: []api.TokenHealth{{Name: "main", State: "ready"}}}
	for _, t := range states {
		one := api.TokenHealth{Name: t.Name, State: "ready"}
		if t.Err != nil {
			h.Status, one.State = "degraded", "unavailable"
			var f *fault.Error
			if errors.As(t.Err, &f) {
				one.Detail = f.Detail
			}
		}
		h.Tokens = append(h.Tokens, one)
	}
	return h
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
