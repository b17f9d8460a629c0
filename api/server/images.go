package server

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/http"
	"time"

	"cardkms/api"
	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/update"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
)

func (s *server) registerImages() {
	at := func(id, method, path, summary string, does kms.Operation) route {
		return route{id: id, method: method, path: path, tag: "images", summary: summary, does: does}
	}
	rt := at("registerImage", http.MethodPost, imagesPath, "Describe an image and check its release signature", kms.ImageRegister)
	rt.status, rt.keyed, rt.kept = http.StatusCreated, true, true
	register(s, rt, s.registerImage)
	register(s, at("listImages", http.MethodGet, imagesPath, "List images", kms.ImageRead), s.listImages)
	register(s, at("getImage", http.MethodGet, imagePath, "Get an image's description", kms.ImageRead), s.getImage)
	// No Idempotency-Key: the signed SHA-256 already says which content this is.
	rt = at("uploadImage", http.MethodPut, imagePath+"/content", "Upload an image's content", kms.ImageContent)
	rt.stream = true
	register(s, rt, s.uploadImage, func(op *huma.Operation) {
		op.RequestBody = &huma.RequestBody{Required: true, Content: binaryContent()}
	})
}

func binaryContent() map[string]*huma.MediaType {
	return map[string]*huma.MediaType{api.BinaryType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
}

type registerImageInput struct {
	Change
	InIssuer
	Body api.RegisterImage
}

func (s *server) registerImage(ctx context.Context, r kms.Request, in *registerImageInput) (*answer[api.Image], error) {
	meta, err := imageMeta(in.Body)
	if err != nil {
		return nil, err
	}
	im, err := s.svc.RegisterImage(ctx, r, kms.RegisterImageInput{
		Issuer: in.Issuer, Name: in.Body.Name, Meta: meta, ReleaseKey: in.Body.ReleaseKey, Signature: in.Body.Signature,
	})
	return answered(imageOf(im)), err
}

// imageMeta copies fixed-length fields, whose lengths the schema has checked;
// they are checked again because a wrong copy would change what was signed.
func imageMeta(in api.RegisterImage) (update.Image, error) {
	out := update.Image{Component: in.Component, Counter: in.SecurityCounter, Size: in.Size}
	for _, f := range []struct{ dst, src []byte }{
		{out.Class[:], in.Class}, {out.From[:], in.FromVersion}, {out.To[:], in.ToVersion}, {out.SHA256[:], in.SHA256},
	} {
		if copy(f.dst, f.src) != len(f.src) || len(f.src) != len(f.dst) {
			return out, fault.New(fault.InvalidInput, "a field of the image has a wrong length")
		}
	}
	if len(in.CRC32) != 4 {
		return out, fault.New(fault.InvalidInput, "a CRC-32 has 4 bytes")
	}
	out.CRC32 = binary.BigEndian.Uint32(in.CRC32)
	return out, nil
}

func imageOf(im kms.Image) api.Image {
	m := im.Meta
	sig, _ := hex.DecodeString(im.Signature) // written by hex.EncodeToString
	return api.Image{State: im.State, RegisterImage: api.RegisterImage{
		Name: im.Name, Class: m.Class[:], Component: m.Component, FromVersion: m.From[:], ToVersion: m.To[:],
		SecurityCounter: m.Counter, Size: m.Size, SHA256: m.SHA256[:], CRC32: binary.BigEndian.AppendUint32(nil, m.CRC32),
		ReleaseKey: im.SignedBy, Signature: sig,
	}}
}

type listImagesInput struct {
	InIssuer
	Paged
}

func (s *server) listImages(ctx context.Context, r kms.Request, in *listImagesInput) (*answer[api.ImageList], error) {
	after, err := cursor(in.PageToken)
	if err != nil {
		return nil, err
	}
	all, next, err := s.svc.Images(ctx, r, in.Issuer, after, in.PageSize)
	out := api.ImageList{Images: make([]api.Image, len(all)), NextPageToken: token(next)}
	for i, im := range all {
		out.Images[i] = imageOf(im)
	}
	return answered(out), err
}

type getImageInput struct {
	OfImage
	Conditional
}

func (s *server) getImage(ctx context.Context, r kms.Request, in *getImageInput) (*entity[api.Image], error) {
	im, err := s.svc.Image(ctx, r, in.Issuer, in.Image)
	if err != nil {
		return nil, err
	}
	return tag(imageOf(im), in.IfNoneMatch)
}

type uploadImageInput struct {
	OfImage
	Content upload
}

func (s *server) uploadImage(ctx context.Context, r kms.Request, in *uploadImageInput) (*answer[api.Image], error) {
	body := &slowReader{r: in.Content.body, left: s.limits.ImageBytesMax, idle: s.limits.StreamIdle, conn: in.Content.conn}
	if in.Content.size > s.limits.ImageBytesMax {
		return nil, errImageTooLarge
	}
	im, err := s.svc.UploadImage(ctx, r, in.Issuer, in.Image, body)
	if body.exceeded {
		return nil, errImageTooLarge
	}
	return answered(imageOf(im)), err
}

var errImageTooLarge = fault.New(fault.TooLarge, "the content is larger than the server's limit for images")

// upload gives a handler the body as it arrives, which huma would read into
// memory.
type upload struct {
	body io.Reader
	size int64 // -1 if the client did not say
	conn *http.ResponseController
}

// Resolve implements huma.Resolver.
func (u *upload) Resolve(ctx huma.Context) []error {
	if !isMedia(ctx, api.BinaryType) {
		return []error{httpProblem(ctx.Context(), http.StatusUnsupportedMediaType, nil)}
	}
	r, w := humachi.Unwrap(ctx)
	u.body, u.size, u.conn = r.Body, r.ContentLength, http.NewResponseController(w)
	return nil
}

// slowReader reads at most left bytes, and gives up a client that sends nothing
// for a while: without it, one could hold a connection for ever.
type slowReader struct {
	r        io.Reader
	left     int64
	idle     time.Duration
	conn     *http.ResponseController
	exceeded bool
}

func (b *slowReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		// One byte more tells a content of exactly the limit from a longer one.
		n, err := b.r.Read(make([]byte, 1))
		if b.exceeded = n > 0; b.exceeded {
			err = errImageTooLarge
		}
		return 0, err
	}
	// Recorders in tests have no deadlines.
	_ = b.conn.SetReadDeadline(time.Now().Add(b.idle))
	_ = b.conn.SetWriteDeadline(time.Now().Add(b.idle + WriteTimeout))
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
