package server

import (
	"bufio"
	"context"
	"net/http"
	"time"

	"cardkms/api"
	"cardkms/kms"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
)

func (s *server) registerPackages() {
	at := func(id, method, path, summary string, does kms.Operation) route {
		return route{id: id, method: method, path: path, tag: "packages", summary: summary, does: does}
	}
	change := func(rt route, status int, kept bool) route {
		rt.status, rt.keyed, rt.kept = status, true, kept
		return rt
	}
	register(s, change(at("createPackage", http.MethodPost, packagesPath, "Make or resume a package for the card of a channel", kms.PackageCreate), http.StatusCreated, true), s.createPackage)
	register(s, at("getPackage", http.MethodGet, packagePath, "Get a package", kms.PackageRead), s.getPackage)
	register(s, change(at("packageScript", http.MethodPost, packagePath+":script", "Secure the commands of one step", kms.PackageScript), 0, false), s.packageScript)
	register(s, change(at("confirmPackage", http.MethodPost, packagePath+":confirm", "Verify the card's receipt", kms.PackageConfirm), 0, true), s.confirmPackage)
	rt := at("downloadChunks", http.MethodGet, packagePath+"/chunks", "Download sealed chunks, one after another", kms.PackageChunks)
	rt.stream = true
	register(s, rt, s.downloadChunks, func(op *huma.Operation) {
		op.Responses = map[string]*huma.Response{"200": {Description: "Chunk objects (E3), concatenated.", Content: binaryContent()}}
	})
}

type createPackageInput struct {
	Change
	InIssuer
	Body api.CreatePackage
}

func (s *server) createPackage(ctx context.Context, r kms.Request, in *createPackageInput) (*answer[api.Package], error) {
	p, err := s.svc.CreatePackage(ctx, r, kms.CreatePackageInput{
		Issuer: in.Issuer, Channel: in.Body.Channel, Image: in.Body.Image, UpdateKey: in.Body.UpdateKey,
		KVN: byte(in.Body.KVN), Status: in.Body.Status,
	})
	if err != nil {
		return nil, err
	}
	out := packageOf(p.Package)
	out.Missing, out.Resumed = api.Ranges(p.Missing), p.Resumed
	return answered(out), nil
}

func packageOf(p kms.Package) api.Package {
	m := p.Manifest
	return api.Package{
		ID: p.ID, State: p.State, Card: m.Card[:], Image: p.Image, KeyVersion: p.Key, Suite: api.HexByte(m.Suite), KVN: api.HexByte(m.KVN),
		Sequence: m.Sequence, Size: m.Image.Size, ChunkSize: m.ChunkSize, Chunks: m.Chunks(), Manifest: p.Encoded(),
	}
}

type getPackageInput struct {
	OfPackage
	Conditional
}

func (s *server) getPackage(ctx context.Context, r kms.Request, in *getPackageInput) (*entity[api.Package], error) {
	p, err := s.svc.Package(ctx, r, in.Issuer, in.Package)
	if err != nil {
		return nil, err
	}
	return tag(packageOf(p), in.IfNoneMatch)
}

type packageScriptInput struct {
	Change
	OfPackage
	Body api.PackageScript
}

func (s *server) packageScript(ctx context.Context, r kms.Request, in *packageScriptInput) (*answer[api.Commands], error) {
	out, err := s.svc.PackageScript(ctx, r, kms.PackageScriptInput{
		Issuer: in.Issuer, Channel: in.Body.Channel, Package: in.Package, Step: kms.Step(in.Body.Step), Chunks: in.Body.Chunks,
	})
	return answered(api.Commands{Commands: api.HexList(out)}), err
}

type confirmPackageInput struct {
	Change
	OfPackage
	Body api.ConfirmPackage
}

func (s *server) confirmPackage(ctx context.Context, r kms.Request, in *confirmPackageInput) (*answer[api.Package], error) {
	p, err := s.svc.ConfirmPackage(ctx, r, kms.ConfirmPackageInput{
		Issuer: in.Issuer, Channel: in.Body.Channel, Package: in.Package, Receipt: in.Body.Receipt,
	})
	if err != nil {
		return nil, err
	}
	return answered(packageOf(p)), nil
}

type downloadChunksInput struct {
	OfPackage
	From int `query:"from" minimum:"1" maximum:"65535" default:"1" doc:"Number of the first chunk."`
}

// downloadChunks streams. What fails before the first bytes are on their way is a
// refusal like any other; later the connection breaks, so that the client cannot
// take a part for the whole.
func (s *server) downloadChunks(_ context.Context, r kms.Request, in *downloadChunksInput) (*huma.StreamResponse, error) {
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		req, w := humachi.Unwrap(ctx)
		out := &slowWriter{w: w, conn: http.NewResponseController(w), idle: s.limits.StreamIdle}
		buffered := bufio.NewWriterSize(out, 32<<10)
		err := s.svc.StreamChunks(req.Context(), r, in.Issuer, in.Package, in.From, buffered)
		switch {
		case err == nil:
		case out.started:
			_ = s.problem(req.Context(), err) // logs what cannot be shown any more
			panic(http.ErrAbortHandler)
		default:
			s.refuse(w, req, err)
		}
	}}, nil
}

// slowWriter begins an answer with its first bytes, and gives up a client that
// takes nothing for a while.
type slowWriter struct {
	w       http.ResponseWriter
	conn    *http.ResponseController
	idle    time.Duration
	started bool
}

func (b *slowWriter) Write(p []byte) (int, error) {
	if !b.started {
		b.started = true
		b.w.Header().Set("Content-Type", api.BinaryType)
		b.w.WriteHeader(http.StatusOK)
	}
	_ = b.conn.SetWriteDeadline(time.Now().Add(b.idle)) // recorders in tests have none
	return b.w.Write(p)
}
