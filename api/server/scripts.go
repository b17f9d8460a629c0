package server

import (
	"context"
	"errors"
	"net/http"

	"cardkms/api"
	"cardkms/derive/scp03"
	"cardkms/kms"
	"cardkms/kms/fault"
)

func (s *server) registerScripts() {
	register(s, route{
		id: "prepareScripts", method: http.MethodPost, path: issuerPath + "/scripts:prepare", tag: "scripts",
		summary: "Secure one script for cards that are not there", does: kms.ScriptPrepare, keyed: true, kept: true,
	}, s.prepareScripts)
}

type prepareScriptsInput struct {
	Change
	InIssuer
	Body api.PrepareScripts
}

func (s *server) prepareScripts(ctx context.Context, r kms.Request, in *prepareScriptsInput) (*answer[api.PreparedScripts], error) {
	ask := kms.PrepareInput{
		Issuer: in.Issuer, Key: in.Body.Key, KVN: byte(in.Body.KVN), Profile: in.Body.Profile, Level: scp03.Level(in.Body.Level),
		Cards: make([]kms.CardAt, len(in.Body.Cards)),
	}
	for _, c := range in.Body.Commands {
		ask.Commands = append(ask.Commands, c)
	}
	for i, c := range in.Body.Cards {
		if copy(ask.Cards[i].KDD[:], c.KDD) != len(c.KDD) || len(c.KDD) != len(ask.Cards[i].KDD) {
			return nil, fault.New(fault.InvalidInput, "key diversification data has 10 bytes")
		}
		ask.Cards[i].Counter = c.Counter
	}
	all, err := s.svc.PrepareScripts(ctx, r, ask)
	out := api.PreparedScripts{Scripts: make([]api.PreparedScript, len(all))}
	for i, p := range all {
		out.Scripts[i] = preparedOf(p)
	}
	return answered(out), err
}

// preparedOf returns the result of one card: one that fails takes no other's script
// with it.
func preparedOf(p kms.Prepared) api.PreparedScript {
	out := api.PreparedScript{KDD: p.KDD[:], Counter: p.Counter}
	for _, c := range p.Commands {
		out.Commands = append(out.Commands, c)
	}
	if p.Err == nil {
		return out
	}
	out.Code = api.Code(fault.CodeOf(p.Err))
	if why := (*fault.Error)(nil); errors.As(p.Err, &why) {
		out.Detail = why.Detail
	}
	return out
}
