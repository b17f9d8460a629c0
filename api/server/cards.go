package server

import (
	"context"
	"net/http"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/key"
)

func (s *server) registerCards() {
	at := func(id, path, summary string, does kms.Operation) route {
		return route{id: id, method: http.MethodGet, path: path, tag: "inventory", summary: summary, does: does}
	}
	register(s, at("listCards", cardsPath, "List cards", kms.CardRead), s.listCards)
	register(s, at("getCard", cardsPath+"/{kdd}", "Get what is known of a card", kms.CardRead), s.getCard)
	register(s, at("listKeys", issuerPath+"/keys", "List key versions, without their values", kms.KeyRead), s.listKeys)
}

type listCardsInput struct {
	InIssuer
	Paged
}

func (s *server) listCards(ctx context.Context, r kms.Request, in *listCardsInput) (*answer[api.CardList], error) {
	after, err := cursor(in.PageToken)
	if err != nil {
		return nil, err
	}
	all, next, err := s.svc.Cards(ctx, r, in.Issuer, after, in.PageSize)
	out := api.CardList{Cards: make([]api.Card, len(all)), NextPageToken: token(next)}
	for i, c := range all {
		out.Cards[i] = cardOf(c)
	}
	return answered(out), err
}

type getCardInput struct {
	InIssuer
	KDD string `path:"kdd" pattern:"^[0-9A-Fa-f]{20}$" doc:"Key diversification data of the card."`
	Conditional
}

func (s *server) getCard(ctx context.Context, r kms.Request, in *getCardInput) (*entity[api.Card], error) {
	c, err := s.svc.Card(ctx, r, in.Issuer, in.KDD)
	if err != nil {
		return nil, err
	}
	return tag(cardOf(c), in.IfNoneMatch)
}

func cardOf(c kms.Card) api.Card {
	out := api.Card{
		KDD: c.KDD, Issuer: c.Issuer, KVN: api.HexByte(c.KVN), Failures: c.Failures, Quarantined: c.Quarantined,
		PackageSequence: c.Sequence, Package: c.Package, LastProved: c.Seen, KeyVersion: c.Version, KeyVersionKVN: api.HexByte(c.Newest),
	}
	if m := c.Move; m != nil {
		out.Move = &api.Move{To: m.To, KVN: api.HexByte(m.KVN), State: string(m.State), Attempts: m.Attempts, At: m.At}
	}
	if n, ok := c.Counters[c.Version]; ok {
		out.SequenceCounter = &n
	}
	return out
}

type listKeysInput struct{ InIssuer }

func (s *server) listKeys(ctx context.Context, r kms.Request, in *listKeysInput) (*answer[api.KeyList], error) {
	all, err := s.svc.Keys(ctx, r, in.Issuer)
	out := api.KeyList{Keys: make([]api.Key, len(all))}
	for i, v := range all {
		out.Keys[i] = keyOf(v)
	}
	return answered(out), err
}

func keyOf(v key.Version) api.Key {
	out := api.Key{
		Name: v.ID.String(), Key: v.ID.Name, Version: v.ID.Version, Token: v.Token, Usage: string(v.Usage), Algorithm: string(v.Algorithm),
		CardAlgorithm: string(v.CardAlgorithm), Diversification: v.Diversification, KVN: api.HexByte(v.KVN),
		State: string(v.State), Created: v.Created, Ends: v.Ends, LegacyUntil: v.LegacyUntil, PublicKey: v.PublicKey, DestroyAt: v.DestroyAt, KCVs: map[string]api.KCV{},
	}
	for part, k := range v.KCVs {
		out.KCVs[string(part)] = api.KCV{Method: string(k.Method), Value: k.Value}
	}
	return out
}
