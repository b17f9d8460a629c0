package server

import (
	"context"
	"net/http"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/fault"
)

func (s *server) registerRotation() {
	at := func(id, verb, summary string, does kms.Operation) route {
		return route{id: id, method: http.MethodPost, path: channelPath + verb, tag: "rotation", summary: summary, does: does, keyed: true, kept: true}
	}
	register(s, at("changeKeys", ":changeKeys", "Make the PUT KEY that adds the newest keys to a card", kms.KeysChange), s.changeKeys)
	register(s, at("confirmKeys", ":confirmKeys", "Compare the check values of a card's answer to PUT KEY", kms.KeysConfirm), s.confirmKeys)
	register(s, at("retireKeys", ":retireKeys", "Make the DELETE that takes a card's former keys away", kms.KeysRetire), s.retireKeys)
	register(s, route{
		id: "getRotation", method: http.MethodGet, path: issuerPath + "/keys/{key}/rotation", tag: "rotation",
		summary: "Who still needs which version of a key", does: kms.KeyRead,
	}, s.getRotation)
	register(s, route{
		id: "importCards", method: http.MethodPost, path: issuerPath + "/keys/{key}/cards:import", tag: "inventory",
		summary: "Take personalised cards into the registry", does: kms.CardImport, keyed: true, kept: true,
	}, s.importCards)
	register(s, route{
		id: "getRadius", method: http.MethodGet, path: versionPath + "/radius", tag: "rotation",
		summary: "What hangs on a key version", does: kms.KeyRead,
	}, s.getRadius)
	register(s, route{
		id: "suspendKey", method: http.MethodPost, path: versionPath + ":suspend", tag: "rotation",
		summary: "Stop every use of a key version at once", does: kms.KeySuspend, keyed: true, kept: true,
	}, s.suspendKey)
}

const versionPath = issuerPath + "/keys/{key}/versions/{version}"

// OfKey names a key.
type OfKey struct {
	InIssuer
	Key string `path:"key" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Name of the key."`
}

// OfVersion names a version of a key.
type OfVersion struct {
	OfKey
	Version int `path:"version" minimum:"1" maximum:"999999999" doc:"Number of the version."`
}

type importCardsInput struct {
	Change
	OfKey
	Body api.ImportCards
}

func (s *server) importCards(ctx context.Context, r kms.Request, in *importCardsInput) (*answer[api.ImportedCards], error) {
	cards := make([]kms.ImportedCard, len(in.Body.Cards))
	for i, c := range in.Body.Cards {
		if copy(cards[i].KDD[:], c.KDD) != len(c.KDD) || len(c.KDD) != len(cards[i].KDD) {
			return nil, fault.New(fault.InvalidInput, "key diversification data has 10 bytes")
		}
		cards[i].KVN, cards[i].Counter = byte(c.KVN), c.Counter
	}
	added, err := s.svc.ImportCards(ctx, r, in.Issuer, in.Key, cards)
	return answered(api.ImportedCards{Added: added}), err
}

type getRadiusInput struct{ OfVersion }

func (s *server) getRadius(ctx context.Context, r kms.Request, in *getRadiusInput) (*answer[api.Radius], error) {
	out, err := s.svc.BlastRadius(ctx, r, in.Issuer, in.Key, in.Version)
	if err != nil {
		return nil, err
	}
	return answered(api.Radius{Key: keyOf(out.Version), Cards: out.Cards, Channels: out.Channels, Packages: out.Packages, Next: out.Next}), nil
}

type suspendKeyInput struct {
	Change
	OfVersion
	Body struct{}
}

func (s *server) suspendKey(ctx context.Context, r kms.Request, in *suspendKeyInput) (*answer[api.Key], error) {
	v, err := s.svc.SuspendKey(ctx, r, in.Issuer, in.Key, in.Version)
	return answered(keyOf(v)), err
}

type changeKeysInput struct {
	Change
	OnChannel
	Body struct{}
}

func (s *server) changeKeys(ctx context.Context, r kms.Request, in *changeKeysInput) (*answer[api.ChangedKeys], error) {
	out, err := s.svc.ChangeKeys(ctx, r, in.Issuer, in.Channel)
	return answered(api.ChangedKeys{Command: out.Command, From: out.From, To: out.To, KVN: api.HexByte(out.KVN)}), err
}

type confirmKeysInput struct {
	Change
	OnChannel
	Body api.ConfirmKeys
}

func (s *server) confirmKeys(ctx context.Context, r kms.Request, in *confirmKeysInput) (*answer[api.Card], error) {
	c, err := s.svc.ConfirmKeys(ctx, r, in.Issuer, in.Channel, in.Body.Response)
	return answered(cardOf(c)), err
}

type retireKeysInput struct {
	Change
	OnChannel
	Body api.RetireKeys
}

func (s *server) retireKeys(ctx context.Context, r kms.Request, in *retireKeysInput) (*answer[api.Command], error) {
	out, err := s.svc.RetireKeys(ctx, r, in.Issuer, in.Channel, byte(in.Body.KVN))
	return answered(api.Command{Command: out}), err
}

type getRotationInput struct{ OfKey }

func (s *server) getRotation(ctx context.Context, r kms.Request, in *getRotationInput) (*answer[api.Rotation], error) {
	st, err := s.svc.RotationStatus(ctx, r, in.Issuer, in.Key)
	out := api.Rotation{
		Key: st.Key, Versions: make([]api.VersionCards, len(st.Versions)), Target: st.Target, Remaining: st.Remaining,
		MovedLastHour: st.MovedLastHour, MovedLastDay: st.MovedLastDay, Forecast: st.Forecast,
	}
	for i, v := range st.Versions {
		out.Versions[i] = api.VersionCards{Version: v.Version.ID.Version, KVN: api.HexByte(v.Version.KVN), State: string(v.Version.State), Cards: v.Cards}
	}
	return answered(out), err
}
