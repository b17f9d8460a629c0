package kms

import (
	"context"
	"fmt"
	"io"

	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/store"
	"cardkms/kms/update"
)

// Step is one part of the script that carries a package.
type Step string

// The steps, in their order.
const (
	StepOpen   Step = "open"
	StepChunks Step = "chunks"
	StepCommit Step = "commit"
	StepAbort  Step = "abort"
)

// ChunksPerScript bounds the chunks of one script.
const ChunksPerScript = 64

// PackageScriptInput asks for the secured commands of one step.
type PackageScriptInput struct {
	Issuer, Channel, Package string
	Step                     Step
	Chunks                   []int // StepChunks: which, at most ChunksPerScript
}

// PackageScript returns the secured STORE DATA commands of one step, for the
// card of an authenticated channel.
func (s *Service) PackageScript(ctx context.Context, r Request, in PackageScriptInput) ([][]byte, error) {
	e, err := s.start(ctx, r, PackageScript, in.Issuer, "packages/"+in.Package)
	if err != nil {
		return nil, err
	}
	o, err := s.lock(r, in.Issuer, in.Channel)
	if err != nil {
		return nil, err
	}
	defer o.mu.Unlock()
	e.card, e.alias = o.ch.Card().KDD, o.alias
	p, err := s.stored(ctx, r, in.Issuer, in.Package)
	if err != nil {
		return nil, err
	}
	if !o.ch.Authenticated() || o.card.ID != p.Card {
		return nil, s.refuse(ctx, e, fault.New(fault.Conflict, "the channel is not to the card that the package is for"))
	}
	digest := requestDigest(PackageScript, [][]byte{[]byte(in.Package), []byte(in.Step), fmt.Append(nil, in.Chunks)})
	e.key, e.algorithm = p.Key, p.Algorithm
	e.detail = map[string]string{"step": printable(string(in.Step)), "chunks": fmt.Sprint(len(in.Chunks))}
	return s.once(ctx, o, e, digest, func() ([][]byte, error) { return s.packageScript(ctx, o, p, in) })
}

func (s *Service) packageScript(ctx context.Context, o *openChannel, p Package, in PackageScriptInput) ([][]byte, error) {
	if err := o.carries(p.Manifest.Suite); err != nil {
		return nil, err
	}
	pkg, err := s.open(ctx, p)
	if err != nil {
		return nil, err
	}
	if in.Step == StepAbort {
		defer s.release(pkg)
	}
	objects, err := s.objects(ctx, pkg, p, in)
	if err != nil {
		return nil, err
	}
	var script []apdu.Command
	for _, obj := range objects {
		chain, err := update.StoreData(obj, o.ch.DataMax(o.profile.Extended), o.profile.Extended)
		if err != nil {
			return nil, err
		}
		script = append(script, chain...)
	}
	wrapped, err := o.wrap(ctx, script, s.cfg.Now())
	return encode(wrapped), err
}

// objects returns the objects of one step, chunks sealed as they are read.
func (s *Service) objects(ctx context.Context, pkg *update.Package, p Package, in PackageScriptInput) ([][]byte, error) {
	var one []byte
	var err error
	switch in.Step {
	case StepOpen:
		one = pkg.Encoded
	case StepCommit:
		one, err = pkg.Commit(ctx, s.cfg.Token)
	case StepAbort:
		one, err = pkg.Abort(ctx, s.cfg.Token)
	case StepChunks:
		return s.chunks(ctx, pkg, p, in.Chunks)
	default:
		err = fault.New(fault.InvalidInput, "a step is open, chunks, commit or abort")
	}
	return [][]byte{one}, err
}

func (s *Service) chunks(ctx context.Context, pkg *update.Package, p Package, which []int) ([][]byte, error) {
	if len(which) == 0 || len(which) > ChunksPerScript {
		return nil, fault.New(fault.InvalidInput, fmt.Sprintf("a script carries 1 to %d chunks", ChunksPerScript))
	}
	im, err := s.registered(ctx, p.Issuer, p.Image)
	if err != nil {
		return nil, err
	}
	rd := &reader{s: s, im: im}
	var out [][]byte
	for _, i := range which {
		obj, err := s.chunk(ctx, rd, pkg, i)
		if err != nil {
			return nil, err
		}
		out = append(out, obj)
	}
	return out, nil
}

func (s *Service) chunk(ctx context.Context, rd *reader, pkg *update.Package, i int) ([]byte, error) {
	if i < 1 || i > pkg.Manifest.Chunks() {
		return nil, fault.New(fault.InvalidInput, "the package has no chunk of this number")
	}
	from, to := pkg.Manifest.ChunkRange(i)
	data, err := rd.read(ctx, from, to)
	if err != nil {
		return nil, err
	}
	return pkg.Seal(ctx, s.cfg.Token, i, data)
}

// StreamChunks writes the sealed chunks of a package from number from on, one
// after another, for an update server with a transport of its own. It holds one
// block and one chunk in memory, whatever the image's size. A writer that buffers
// and has Flush() error is flushed before the outcome is logged. The intent is durable
// before the first byte, the outcome after the last. Suite 00 has no chunks that
// could leave a channel.
func (s *Service) StreamChunks(ctx context.Context, r Request, issuer, id string, from int, w io.Writer) error {
	e, err := s.start(ctx, r, PackageChunks, issuer, "packages/"+id)
	if err != nil {
		return err
	}
	p, err := s.stored(ctx, r, issuer, id)
	if err != nil {
		return err
	}
	e.algorithm = p.Algorithm
	e.card, e.key, e.detail = p.Manifest.Card[:], p.Key, map[string]string{"from": fmt.Sprint(from)}
	if p.Manifest.Suite == update.Plain || from < 1 || from > p.Manifest.Chunks() {
		return fault.New(fault.InvalidInput, "the package has no sealed chunk of this number")
	}
	pkg, err := s.open(ctx, p)
	if err != nil {
		return s.refuse(ctx, e, err)
	}
	defer s.release(pkg)
	im, err := s.registered(ctx, issuer, p.Image)
	if err != nil {
		return err
	}
	if e.intent, err = s.intend(ctx, e); err != nil {
		return err
	}
	rd := &reader{s: s, im: im}
	for i := from; i <= p.Manifest.Chunks(); i++ {
		obj, err := s.chunk(ctx, rd, pkg, i)
		if err == nil {
			_, err = w.Write(obj)
		}
		if err != nil {
			return s.refuse(context.WithoutCancel(ctx), e, err)
		}
	}
	if f, ok := w.(interface{ Flush() error }); ok {
		if err := f.Flush(); err != nil {
			return s.refuse(context.WithoutCancel(ctx), e, err)
		}
	}
	return s.log(context.WithoutCancel(ctx), &e, nil)
}

// release destroys the keys of a package and the update key that they follow
// from, which is needed again only by another request.
func (s *Service) release(p *update.Package) {
	if k := p.Keys.ENC; k != nil {
		s.cfg.Token.Release(k, p.Keys.MAC, k.Parent())
	}
}

// ConfirmPackageInput carries the card's receipt.
type ConfirmPackageInput struct {
	Issuer, Channel, Package string
	Receipt                  []byte // R-APDU to the GET DATA for the receipt, as the card sent it
}

// ConfirmPackage verifies the card's receipt: under suite 01 by its own MAC, and
// always through the channel. A receipt that does not verify leaves the package
// open.
func (s *Service) ConfirmPackage(ctx context.Context, r Request, in ConfirmPackageInput) (p Package, err error) {
	e, err := s.start(ctx, r, PackageConfirm, in.Issuer, "packages/"+in.Package)
	if err != nil {
		return p, err
	}
	o, err := s.lock(r, in.Issuer, in.Channel)
	if err != nil {
		return p, err
	}
	defer o.mu.Unlock()
	e.card, e.alias = o.ch.Card().KDD, o.alias
	if p, err = s.stored(ctx, r, in.Issuer, in.Package); err != nil {
		return p, err
	}
	if o.card.ID != p.Card {
		return p, s.refuse(ctx, e, fault.New(fault.Conflict, "the channel is not to the card that the package is for"))
	}
	e.key, e.algorithm = p.Key, p.Algorithm
	pkg, err := s.verifyReceipt(ctx, o, p, in.Receipt)
	if err != nil {
		return p, s.failed(ctx, o, e, err)
	}
	ref := packageRef(in.Issuer, p.ID)
	err = s.log(ctx, &e, func(tx store.Rows) error {
		var stored Package // which does not name the card
		n, err := need(tx, ref, &stored)
		if err != nil || stored.State == PackageConfirmed {
			return err
		}
		stored.State = PackageConfirmed
		return put(tx, ref, n, stored)
	})
	s.release(pkg)
	if err != nil {
		s.end(o) // the card's answer is used up, and nobody has ours
		return p, err
	}
	p.State = PackageConfirmed
	return p, nil
}

func (s *Service) verifyReceipt(ctx context.Context, o *openChannel, p Package, response []byte) (*update.Package, error) {
	if err := o.modern(); err != nil {
		return nil, err
	}
	receipt, err := s.protected(ctx, o, update.GetReceipt(), response)
	if err != nil {
		return nil, err
	}
	pkg, err := s.open(ctx, p)
	if err != nil {
		return nil, err
	}
	return pkg, pkg.VerifyReceipt(ctx, s.cfg.Token, receipt)
}
