package server

import (
	"context"
	"net/http"
	"time"

	"cardkms/api"
	"cardkms/kms"

	"github.com/danielgtaylor/huma/v2"
)

// route describes one operation of the API.
type route struct {
	id, method, path string
	tag, summary     string
	does             kms.Operation // what kms.Service checks the caller for
	status           int           // of success; 0 for 200
	// keyed operations are changes: they need an Idempotency-Key, and go on when the
	// client goes away, so that the repetition finds a clean state.
	keyed bool
	// kept answers are given again under their Idempotency-Key by this package; the
	// others kms.Service repeats itself.
	kept   bool
	stream bool // no bound on the whole duration
}

func (rt route) operation() huma.Operation {
	return huma.Operation{
		OperationID: rt.id, Method: rt.method, Path: rt.path, Tags: []string{rt.tag}, Summary: rt.summary,
		DefaultStatus: rt.status,
	}
}

// register adds an operation: everything around the call of its handler is here,
// once. O is the answer with its headers, as huma describes it.
func register[I, O any](s *server, rt route, handle func(context.Context, kms.Request, *I) (*O, error), change ...func(*huma.Operation)) {
	op := rt.operation()
	if rt.does != "" {
		op.Description = "Needs the right `" + string(rt.does) + "`."
	}
	op.MaxBodyBytes = s.limits.JSONBytesMax + 1 // huma refuses a body that reaches the limit
	if rt.method == http.MethodPost {
		op.Middlewares = huma.Middlewares{wantsJSON(s.api)}
	}
	for _, f := range change {
		f(&op)
	}
	s.routes = append(s.routes, rt)
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		work, cancel := s.workContext(ctx, rt)
		defer cancel()
		out, err := call(work, s, rt, in, handle)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return out, nil
	})
}

// workContext bounds an operation by its own time and not by the client's
// patience, if it is a change.
func (s *server) workContext(ctx context.Context, rt route) (context.Context, context.CancelFunc) {
	if rt.keyed || rt.stream {
		ctx = context.WithoutCancel(ctx)
	}
	if rt.stream {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.limits.OperationTimeout)
}

// call runs a handler, or gives its earlier answer again.
func call[I, O any](ctx context.Context, s *server, rt route, in *I, handle func(context.Context, kms.Request, *I) (*O, error)) (*O, error) {
	q := about(ctx)
	r := kms.Request{Caller: q.caller, ID: q.id, Origin: q.origin}
	if k, ok := any(in).(interface{ key() string }); ok {
		r.Idempotency = k.key()
	}
	if !rt.kept {
		return handle(ctx, r, in)
	}
	slot, err := s.replays.begin(replayKey{q.caller.ID, rt.id, r.Idempotency}, digestOf(in), time.Now())
	if err != nil {
		return nil, err
	}
	if slot.done {
		return slot.answer.(*O), nil
	}
	var keep any
	// Deferred, so that a panic frees the key.
	defer func() { s.replays.end(slot, keep, time.Now()) }()
	out, err := handle(ctx, r, in)
	if err != nil {
		return nil, err
	}
	keep = out
	return out, nil
}

// The types below carry what requests have in common. They are exported because
// huma fills only exported embedded fields.

// Change is the header of a change.
type Change struct {
	IdempotencyKey string `header:"Idempotency-Key" required:"true" minLength:"1" maxLength:"64" pattern:"^[A-Za-z0-9._-]+$" doc:"Names this change: repeated under the same key, it happens once."`
}

func (c *Change) key() string { return c.IdempotencyKey }

// InIssuer names the tenant.
type InIssuer struct {
	Issuer string `path:"issuer" pattern:"^[a-z][a-z0-9-]{0,62}$" example:"acme" doc:"Name of the issuer."`
}

// OnChannel names a channel.
type OnChannel struct {
	InIssuer
	Channel string `path:"channel" pattern:"^([a-z][a-z0-9-]{0,62}[.])?[0-9a-f]{32}$" doc:"Id of the channel."`
}

// OfImage names an image.
type OfImage struct {
	InIssuer
	Image string `path:"image" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Name of the image."`
}

// OfPackage names a package.
type OfPackage struct {
	InIssuer
	Package string `path:"package" pattern:"^[0-9a-f]{32}$" doc:"Id of the package."`
}

// Paged asks for one page of a list.
type Paged struct {
	PageSize  int    `query:"pageSize" minimum:"1" maximum:"1000" default:"100" doc:"Objects on a page."`
	PageToken string `query:"pageToken" maxLength:"256" pattern:"^[A-Za-z0-9_-]+$" doc:"nextPageToken of the page before."`
}

// Conditional carries the ETag that the client has.
type Conditional struct {
	IfNoneMatch string `header:"If-None-Match" maxLength:"256" doc:"304 is the answer if the object still has this ETag."`
}

// answer is a body without headers; entity has an ETag and may be 304.
type answer[T any] struct{ Body T }

type entity[T any] struct {
	Status int
	ETag   string `header:"ETag" doc:"Changes whenever the object does."`
	Body   T
}

type nothing struct{}

func answered[T any](body T) *answer[T] { return &answer[T]{body} }

// paths of the resources, without verbs.
const (
	issuerPath   = api.Prefix + "/issuers/{issuer}"
	channelsPath = issuerPath + "/channels"
	channelPath  = channelsPath + "/{channel}"
	imagesPath   = issuerPath + "/images"
	imagePath    = imagesPath + "/{image}"
	packagesPath = issuerPath + "/packages"
	packagePath  = packagesPath + "/{package}"
	cardsPath    = issuerPath + "/cards"
	auditPath    = api.Prefix + "/audit"

	proposalsPath = api.Prefix + "/proposals"
	proposalPath  = proposalsPath + "/{proposal}"
)
