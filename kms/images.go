package kms

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/ledger"
	"cardkms/kms/store"
	"cardkms/kms/update"
)

// Image states.
const (
	ImageReceiving  = "receiving"  // described and signed; the content is not here yet
	ImageRegistered = "registered" // content checked; packages can be made
)

// Image is a registered COS image.
type Image struct {
	Name      string       `json:"name"`
	Issuer    string       `json:"issuer"`
	State     string       `json:"state"`
	Meta      update.Image `json:"meta"`
	SignedBy  string       `json:"signedBy"` // name of the release key
	Signature string       `json:"signature"`
	// Blocks are the SHA-256 digests of the content's blocks, so that a block which
	// the database changed is not sealed for a card.
	Blocks []string `json:"blocks,omitempty"`
}

func imageRef(issuer, name string) store.Ref {
	return store.Ref{Kind: kindImage, Issuer: issuer, ID: name}
}

// content names the blocks of an image in the store.
func (im Image) content() string { return im.Issuer + "/" + im.Name }

// uploads are the images whose content is on its way, so that two uploads of one
// image do not mix.
type uploads struct {
	mu   sync.Mutex
	busy map[string]bool
}

func (u *uploads) begin(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy[name] {
		return false
	}
	if u.busy == nil {
		u.busy = map[string]bool{}
	}
	u.busy[name] = true
	return true
}

func (u *uploads) end(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.busy, name)
}

// RegisterImageInput describes an image and who released it.
type RegisterImageInput struct {
	Issuer, Name string
	Meta         update.Image
	ReleaseKey   string
	Signature    []byte // over Meta.Statement()
}

// RegisterImage checks the release signature and takes the description. The same
// description again returns the image as it is; another one under the same name
// is fault.Conflict.
func (s *Service) RegisterImage(ctx context.Context, r Request, in RegisterImageInput) (Image, error) {
	im := Image{
		Name: in.Name, Issuer: in.Issuer, State: ImageReceiving, Meta: in.Meta,
		SignedBy: in.ReleaseKey, Signature: hex.EncodeToString(in.Signature),
	}
	e, err := s.start(ctx, r, ImageRegister, in.Issuer, "images/"+in.Name)
	if err != nil {
		return im, err
	}
	if err := s.checkImage(in); err != nil {
		if fault.CodeOf(err) == fault.ImageUnverified {
			err = s.refuse(ctx, e, err)
		}
		return im, err
	}
	e.digest = digestOf(in.Meta.Statement())
	e.detail = map[string]string{"signed_by": in.ReleaseKey}
	ref := imageRef(in.Issuer, in.Name)
	err = s.log(ctx, &e, func(tx store.Rows) error {
		var have Image
		n, err := get(tx, ref, &have)
		if err != nil {
			return err
		}
		if n == 0 {
			return put(tx, ref, 0, im)
		}
		if !bytes.Equal(have.Meta.Statement(), im.Meta.Statement()) {
			e.outcome = fault.New(fault.Conflict, "another image has this name")
		}
		im = have
		return nil
	})
	return im, err
}

func (s *Service) checkImage(in RegisterImageInput) error {
	if !key.ValidName(in.Name) {
		return fault.New(fault.InvalidInput, "an image is named by 1 to 63 lower-case letters, digits and hyphens, a letter first")
	}
	if err := in.Meta.Check(); err != nil {
		return err
	}
	return s.verifyRelease(in.Issuer, in.ReleaseKey, in.Meta, in.Signature)
}

// verifyRelease checks a signature with a release key of the configuration.
func (s *Service) verifyRelease(issuer, name string, m update.Image, sig []byte) error {
	k, ok := s.cfg.ReleaseKeys[issuer][name]
	if !ok {
		return fault.New(fault.ImageUnverified, "no release key of this name is registered")
	}
	return m.VerifySignature(k, sig)
}

// UploadImage takes an image's content, a block at a time, and registers the
// image if size, SHA-256 and CRC-32 are those that were signed. A content that
// breaks off or is wrong leaves the image as it was; its blocks are overwritten
// by the next upload.
func (s *Service) UploadImage(ctx context.Context, r Request, issuer, name string, content io.Reader) (im Image, err error) {
	e, err := s.start(ctx, r, ImageContent, issuer, "images/"+name)
	if err != nil {
		return im, err
	}
	ref := imageRef(issuer, name)
	if err := s.cfg.Log.View(ctx, func(tx store.Rows) error { _, err := need(tx, ref, &im); return err }); err != nil {
		return im, err
	}
	if im.State == ImageRegistered {
		return im, fault.New(fault.Conflict, "the image is registered already")
	}
	if !s.uploads.begin(im.content()) {
		return im, fault.New(fault.Conflict, "another upload of this image is under way")
	}
	defer s.uploads.end(im.content())
	if e.intent, err = s.intend(ctx, e); err != nil {
		return im, err
	}
	if im.Blocks, err = s.storeContent(ctx, im, content); err != nil {
		return im, s.refuse(ctx, e, err)
	}
	im.State = ImageRegistered
	e.digest = digestOf(im.Meta.Statement())
	err = s.log(ctx, &e, func(tx store.Rows) error {
		var have Image
		n, err := need(tx, ref, &have)
		if err != nil {
			return err
		}
		if have.State != ImageReceiving {
			e.outcome = fault.New(fault.Conflict, "the image is registered already")
			return nil
		}
		return put(tx, ref, n, im)
	})
	return im, err
}

// storeContent writes blocks of one size while it checks the whole. It holds one
// block in memory.
func (s *Service) storeContent(ctx context.Context, im Image, content io.Reader) (digests []string, err error) {
	seen := update.NewContent()
	buf := make([]byte, store.BlockBytesMax)
	limited := io.LimitReader(content, int64(im.Meta.Size)+1)
	for n := int64(0); ; n++ {
		got, err := io.ReadFull(limited, buf)
		if got == 0 {
			break
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fault.Because(fault.InvalidInput, "the content broke off", err)
		}
		block := buf[:got]
		_, _ = seen.Write(block)
		if seen.Size() > int64(im.Meta.Size) {
			return nil, fault.New(fault.ImageUnverified, "the content is longer than the image's size says")
		}
		sum := sha256.Sum256(block)
		digests = append(digests, hex.EncodeToString(sum[:]))
		if err := s.cfg.Store.Update(ctx, func(tx store.Tx) error { return tx.PutBlock(im.content(), n, block) }); err != nil {
			return nil, fmt.Errorf("storing block %d of an image: %w", n, ledger.Away(err))
		}
	}
	return digests, seen.Check(im.Meta)
}

// reader returns the bytes [from, to) of an image, checking each block that it
// reads against the registered digest. It keeps one block.
type reader struct {
	s     *Service
	im    Image
	n     int64 // number of the block in memory; -1 for none
	block []byte
}

func (rd *reader) read(ctx context.Context, from, to int64) ([]byte, error) {
	out := make([]byte, 0, to-from)
	for from < to {
		n := from / store.BlockBytesMax
		if err := rd.load(ctx, n); err != nil {
			return nil, err
		}
		in := from - n*store.BlockBytesMax
		end := min(int64(len(rd.block)), in+to-from)
		if in >= end {
			return nil, fmt.Errorf("kms: block %d of an image is too short", n)
		}
		out = append(out, rd.block[in:end]...)
		from += end - in
	}
	return out, nil
}

func (rd *reader) load(ctx context.Context, n int64) error {
	if rd.block != nil && rd.n == n {
		return nil
	}
	err := rd.s.cfg.Store.View(ctx, func(tx store.Tx) (err error) {
		rd.block, err = tx.Block(rd.im.content(), n)
		return err
	})
	if err != nil {
		return fmt.Errorf("reading block %d of an image: %w", n, ledger.Away(err))
	}
	rd.n = n
	sum := sha256.Sum256(rd.block)
	if int(n) >= len(rd.im.Blocks) || subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(rd.im.Blocks[n])) != 1 {
		rd.block = nil
		return fault.New(fault.ImageUnverified, "the stored content is not what was registered")
	}
	return nil
}

// CheckImages compares the stored content of every registered image with the
// digests in its row, and logs the images that are not what was registered. An
// image is compared again when a package is made from it; this is for those that
// nobody asks for. The program calls it every minute or so.
func (s *Service) CheckImages(ctx context.Context) error {
	for _, issuer := range s.cfg.Issuers {
		for after := ""; ; {
			var some []Image
			err := s.cfg.Log.View(ctx, func(tx store.Rows) (err error) {
				some, after, err = page[Image](tx, kindImage, issuer, after, 100)
				return err
			})
			if err != nil {
				return err
			}
			for _, im := range some {
				if err := s.checkContent(ctx, im); err != nil {
					return err
				}
			}
			if after == "" {
				break
			}
		}
	}
	return nil
}

func (s *Service) checkContent(ctx context.Context, im Image) error {
	rd := &reader{s: s, im: im}
	for n := range im.Blocks {
		err := rd.load(ctx, int64(n))
		if fault.CodeOf(err) == fault.ImageUnverified || errors.Is(err, store.ErrNotFound) {
			s.Suspect(ctx, &ledger.Violation{Ref: imageRef(im.Issuer, im.Name), What: "has other content than was registered"})
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Image returns one image of an issuer.
func (s *Service) Image(ctx context.Context, r Request, issuer, name string) (im Image, err error) {
	if err := s.read(ctx, r, ImageRead, issuer, "images/"+name); err != nil {
		return im, err
	}
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error { _, err := need(tx, imageRef(issuer, name), &im); return err })
	return im, err
}

// Images returns at most limit images of an issuer after a cursor.
func (s *Service) Images(ctx context.Context, r Request, issuer, after string, limit int) (all []Image, next string, err error) {
	if err := s.read(ctx, r, ImageRead, issuer, "images"); err != nil {
		return nil, "", err
	}
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		all, next, err = page[Image](tx, kindImage, issuer, after, limit)
		return err
	})
	return all, next, err
}
