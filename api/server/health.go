package server

import (
	"context"
	"errors"
	"net/http"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/fault"

	"github.com/danielgtaylor/huma/v2"
)

// runbooks is where the page of each sealed state is, in the distribution.
const runbooks = "deploy/runbooks/"

func (s *server) registerHealth(a huma.API) {
	open := func(id, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Tags: []string{"health"}, Summary: summary, Security: []map[string][]string{}}
	}
	huma.Register(a, open("health", "/healthz", "The process answers"), func(context.Context, *nothing) (*answer[api.Health], error) {
		return answered(api.Health{Status: "ok"}), nil
	})
	huma.Register(a, open("ready", "/readyz", "The main token, the database and the log work"), func(ctx context.Context, _ *nothing) (*answer[api.Health], error) {
		h := s.svc.Health(ctx)
		if !h.Ready() {
			return nil, s.notReady(ctx, h)
		}
		halted, err := s.svc.Halted(ctx)
		if err != nil {
			return nil, s.notReady(ctx, kms.Health{Sealed: []kms.Sealed{kms.DatabaseDown}, Err: err})
		}
		out := healthOf(h.Tokens, s.degraded())
		if halted { // 200 all the same: another node is halted too, and officers need this one
			out.Status = "halted"
		}
		return answered(out), nil
	})
}

// healthOf says what each token does while the main one works.
func healthOf(states []kms.TokenState, without []string) api.Health {
	h := api.Health{Status: "ready", Degraded: without, Tokens: []api.TokenHealth{{Name: "main", State: "ready"}}}
	if len(without) > 0 {
		h.Status = "degraded"
	}
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

// notReady answers 503 whatever the code, which is what probes look at, and says which
// states it is in.
func (s *server) notReady(ctx context.Context, h kms.Health) *Problem {
	p := s.problem(ctx, h.Err)
	if p.Code == api.Internal {
		p.Detail = "the service is not ready"
	}
	p.Status = http.StatusServiceUnavailable
	p.Sealed = sealedAs(h.Sealed...)
	return p
}

// sealedAs names sealed states with their pages.
func sealedAs(states ...kms.Sealed) (out []api.Sealed) {
	for _, state := range states {
		out = append(out, api.Sealed{State: string(state), Runbook: runbooks + string(state) + ".md"})
	}
	return out
}
