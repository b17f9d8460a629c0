package kms

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"cardkms/audit"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
	"cardkms/kms/update"
)

// Package states.
const (
	PackageOpen      = "open"      // made; the card may hold none, some or all chunks
	PackageConfirmed = "confirmed" // the card's receipt verified
)

// Package is one update package for one card. Its manifest never changes; its
// keys are derived again from what stands here whenever they are needed.
type Package struct {
	ID     string `json:"id"`
	Issuer string `json:"issuer"`
	State  string `json:"state"`
	Card   string `json:"card"`   // name of the card's row
	Sealed string `json:"sealed"` // the card's identifier, see cardname.go
	Image  string `json:"image"`
	Key    string `json:"key"` // version of K-UPD's master; empty under suite 00
	// Algorithm is the status of the algorithms behind Key; empty under suite 00.
	Algorithm audit.Algorithm `json:"algorithm,omitempty"`
	Manifest  update.Manifest `json:"manifest"`      // without the card where it is stored
	MAC       string          `json:"mac,omitempty"` // of the manifest, hexadecimal; empty under suite 00
}

// Encoded returns the manifest object with its MAC.
func (p Package) Encoded() []byte {
	mac, _ := hex.DecodeString(p.MAC) // written by hex.EncodeToString
	return p.Manifest.Encode(mac)
}

func packageRef(issuer, id string) store.Ref {
	return store.Ref{Kind: kindPackage, Issuer: issuer, ID: id}
}

// CreatePackageInput asks for a package for the card of a channel.
type CreatePackageInput struct {
	Issuer, Channel string
	Image           string
	UpdateKey       string // name of a card-update key; empty under suite 00
	KVN             byte   // of K-UPD on the card
	Status          []byte // R-APDU to the GET DATA for the card's status, as the card sent it
}

// CreatedPackage is a package with what the card still needs.
type CreatedPackage struct {
	Package
	Chunks  int
	Missing []int // numbers of the chunks that the card needs, ascending
	Resumed bool  // the card holds this package already
}

// CreatePackage makes the package of an image for the card of an authenticated
// channel, or resumes the one that the card is staging. The card's status must
// come through the channel, so that nobody in between can have invented it. One
// channel opens one package: its challenges are the package's context, and a
// context never encrypts two contents.
func (s *Service) CreatePackage(ctx context.Context, r Request, in CreatePackageInput) (out CreatedPackage, err error) {
	e, err := s.start(ctx, r, PackageCreate, in.Issuer, "images/"+in.Image)
	if err != nil {
		return out, err
	}
	o, err := s.lock(r, in.Issuer, in.Channel)
	if err != nil {
		return out, err
	}
	defer o.mu.Unlock()
	o.describe(&e)
	out, err = s.makePackage(ctx, &e, o, in)
	if err != nil {
		return out, s.failed(ctx, o, e, err)
	}
	return out, nil
}

func (s *Service) makePackage(ctx context.Context, e *event, o *openChannel, in CreatePackageInput) (out CreatedPackage, err error) {
	if err := s.serving(ctx, o, key.Protect); err != nil {
		return out, err
	}
	im, err := s.registered(ctx, in.Issuer, in.Image)
	if err != nil {
		return out, err
	}
	if err := o.carries(o.profile.Suite); err != nil {
		return out, err
	}
	status, err := s.cardStatus(ctx, o, in.Status)
	if err != nil {
		return out, err
	}
	if status.State == update.Staging {
		out, err := s.resume(ctx, e, o, in, status)
		if err != nil || out.Resumed {
			return out, err
		}
	}
	if status.State == update.Pending || status.State == update.Trial {
		return out, fault.New(fault.Conflict, "the card has committed a package; reset it and authenticate again")
	}
	if err := status.Accepts(im.Meta); err != nil {
		return out, err
	}
	if o.packaged != "" {
		return out, fault.New(fault.Conflict, "this channel opened a package already; authenticate again for another")
	}
	out.Package, err = s.newPackage(ctx, e, o, in, im, status)
	if err != nil {
		return out, err
	}
	o.packaged = out.ID
	out.Chunks = out.Manifest.Chunks()
	for i := range out.Chunks {
		out.Missing = append(out.Missing, i+1)
	}
	return out, nil
}

// carries refuses a channel that would show a package of suite 00 in clear: there
// only C-DECRYPTION of the channel hides the image.
func (o *openChannel) carries(s update.Suite) error {
	if err := o.modern(); err != nil {
		return err
	}
	if s == update.Plain && (!o.ch.Authenticated() || o.ch.Level()&scp03.CDecryption == 0) {
		return fault.New(fault.ChannelState, "suite 00 needs a channel that encrypts commands (level 03, 13 or 33)")
	}
	return nil
}

// modern refuses packages on a channel of SCP02, whose challenges are too short for the
// context of CUP-1 and which protects too little, and of SCP11, which has no challenges.
func (o *openChannel) modern() error {
	switch {
	case o.profile.Legacy():
		return fault.New(fault.Conflict, "packages need a channel of SCP03")
	case o.profile.Agreed():
		return errAgreed
	}
	return nil
}

// registered returns an image whose content is here and whose release signature
// verifies now, whatever its row says.
func (s *Service) registered(ctx context.Context, issuer, name string) (im Image, err error) {
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error { _, err := need(tx, imageRef(issuer, name), &im); return err })
	if err != nil {
		return im, err
	}
	if im.State != ImageRegistered {
		return im, fault.New(fault.Conflict, "the image's content has not been uploaded")
	}
	sig, err := hex.DecodeString(im.Signature)
	if err != nil {
		return im, errors.New("kms: a stored signature is not hexadecimal")
	}
	return im, s.verifyRelease(issuer, im.SignedBy, im.Meta, sig)
}

// cardStatus unwraps and parses a card's status. The level must protect
// responses, else it would be anybody's word.
func (s *Service) cardStatus(ctx context.Context, o *openChannel, response []byte) (update.Status, error) {
	data, err := s.protected(ctx, o, update.GetStatus(), response)
	if err != nil {
		return update.Status{}, err
	}
	return update.ParseStatus(data)
}

// protected unwraps the card's answer to a command that the caller wrapped and
// sent. Only that answer will do.
func (s *Service) protected(ctx context.Context, o *openChannel, asked apdu.Command, response []byte) ([]byte, error) {
	if !o.ch.Authenticated() || o.ch.Level()&scp03.RMAC == 0 {
		return nil, fault.New(fault.ChannelState, "an update needs a channel that protects responses (level 11, 13 or 33)")
	}
	if !o.ch.Answers(asked) {
		return nil, fault.New(fault.ChannelState, "the next answer of the card is not to the command that asks for this")
	}
	raw, err := apdu.ParseResponse(response)
	if err != nil {
		return nil, err
	}
	plain, err := o.unwrap(ctx, []apdu.Response{raw}, s.cfg.Now())
	if err != nil {
		return nil, err
	}
	if plain[0].SW != apdu.Success {
		return nil, fault.New(fault.CardRefused, "the card answered "+plain[0].SW.String())
	}
	return plain[0].Data, nil
}

// resume returns the package that the card stages, if it is ours and of this
// image. The proof is the status's MAC under the package's key; under suite 00
// only the channel vouches for the status, and the card compares the manifest.
func (s *Service) resume(ctx context.Context, e *event, o *openChannel, in CreatePackageInput, st update.Status) (out CreatedPackage, err error) {
	var card Card
	var p Package
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		if n, err := get(tx, o.card, &card); err != nil || n == 0 || card.Package == "" {
			return err
		}
		_, err := get(tx, packageRef(in.Issuer, card.Package), &p)
		return err
	})
	if err != nil || p.State != PackageOpen || p.Image != in.Image {
		return out, err
	}
	copy(p.Manifest.Card[:], e.card)
	pkg, err := s.open(ctx, p)
	if err != nil {
		return out, err
	}
	if err := pkg.VerifyStatus(ctx, s.cfg.Token, st); fault.CodeOf(err) == fault.ProofFailed {
		return out, nil
	} else if err != nil {
		return out, err
	}
	out = CreatedPackage{Package: p, Chunks: p.Manifest.Chunks(), Resumed: true}
	if out.Missing, err = st.Missing(out.Chunks); err != nil {
		return out, err
	}
	e.object, e.key, e.algorithm = "packages/"+p.ID, p.Key, p.Algorithm
	e.detail = map[string]string{"resumed": "true", "missing": fmt.Sprint(len(out.Missing))}
	return out, s.log(ctx, e, nil)
}

// newPackage makes a manifest and its row. The package's id follows from its
// context, so that the store refuses a second package of one context.
func (s *Service) newPackage(ctx context.Context, e *event, o *openChannel, in CreatePackageInput, im Image, st update.Status) (Package, error) {
	// The card's name and not the card: whoever reads ids must not find the card that
	// one was computed from.
	id := digestOf([]byte(in.Issuer), []byte(o.card.ID), o.ch.Context())
	p := Package{
		ID: hex.EncodeToString(id[:16]), Issuer: in.Issuer, State: PackageOpen, Image: in.Image,
		Manifest: update.Manifest{Suite: o.profile.Suite, Image: im.Meta, ChunkSize: o.profile.ChunkSize, Context: o.ch.Context()},
	}
	copy(p.Manifest.Card[:], e.card)
	var card Card
	if err := s.cfg.Log.View(ctx, func(tx store.Rows) error { _, err := need(tx, o.card, &card); return err }); err != nil {
		return p, err
	}
	p.Card, p.Sealed = o.card.ID, card.Sealed
	p.Manifest.Sequence = max(card.Sequence, st.Sequence) + 1
	if p.Manifest.Suite != update.Plain {
		v, err := s.version(ctx, in.Issuer, in.UpdateKey, key.CardUpdate, in.KVN, key.Protect)
		if err != nil {
			return p, err
		}
		p.Key, p.Manifest.KVN, p.Manifest.Key = v.ID.String(), in.KVN, 1
		p.Algorithm = algorithmOf(v)
	}
	pkg, err := s.seal(ctx, p)
	if err != nil {
		return p, err
	}
	p.MAC = hex.EncodeToString(pkg.MAC)
	stored := p
	stored.Manifest.Card = [kddBytes]byte{}
	e.object, e.key, e.algorithm, e.digest = "packages/"+p.ID, p.Key, p.Algorithm, digestOf(stored.Encoded())
	e.detail = map[string]string{"image": in.Image, "sequence": fmt.Sprint(p.Manifest.Sequence)}
	return p, s.log(ctx, e, func(tx store.Rows) error {
		var card Card // fresh: another channel to the card may have been faster
		n, err := need(tx, o.card, &card)
		if err != nil {
			return err
		}
		if card.Sequence >= p.Manifest.Sequence {
			return fault.New(fault.Conflict, "another package was made for this card meanwhile")
		}
		card.Sequence, card.Package, card.Nonce = p.Manifest.Sequence, p.ID, newID()
		if err := put(tx, o.card, n, card); err != nil {
			return err
		}
		return put(tx, packageRef(in.Issuer, p.ID), 0, stored)
	})
}

// packageKeys refers to the keys of a package.
func (s *Service) packageKeys(ctx context.Context, p Package) (update.Keys, error) {
	if p.Manifest.Suite == update.Plain {
		return update.Keys{}, nil
	}
	id, err := key.ParseID(p.Key)
	if err != nil {
		return update.Keys{}, err
	}
	v, err := s.version(ctx, p.Issuer, id.Name, key.CardUpdate, p.Manifest.KVN, key.Protect)
	if err != nil {
		return update.Keys{}, err
	}
	if v.ID != id {
		return update.Keys{}, fault.New(fault.KeyState, "the package's key version is not the one that serves its KVN")
	}
	kUPD, err := cardkey.Update(v, p.Manifest.Card[:])
	if err != nil {
		return update.Keys{}, err
	}
	return update.PackageKeys(kUPD, p.Manifest.Context), nil
}

func (s *Service) seal(ctx context.Context, p Package) (*update.Package, error) {
	k, err := s.packageKeys(ctx, p)
	if err != nil {
		return nil, err
	}
	return update.NewPackage(ctx, s.cfg.Token, p.Manifest, k)
}

// open takes up a stored package; a manifest that was changed is a failed proof.
func (s *Service) open(ctx context.Context, p Package) (*update.Package, error) {
	k, err := s.packageKeys(ctx, p)
	if err != nil {
		return nil, err
	}
	mac, err := hex.DecodeString(p.MAC)
	if err != nil {
		return nil, errors.New("kms: a stored MAC is not hexadecimal")
	}
	return update.OpenPackage(ctx, s.cfg.Token, p.Manifest, k, mac)
}

// stored reads a package that a caller named. Cards outside the caller's range
// do not exist for it.
func (s *Service) stored(ctx context.Context, r Request, issuer, id string) (p Package, err error) {
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error { _, err := need(tx, packageRef(issuer, id), &p); return err })
	if err != nil {
		return p, err
	}
	kdd, err := s.openCard(ctx, issuer, p.Card, p.Sealed)
	copy(p.Manifest.Card[:], kdd)
	if err == nil && r.Caller.Role == UpdateServer && !r.Caller.Cards.Holds(p.Manifest.Card[:]) {
		return Package{}, fault.New(fault.NotFound, "no such package")
	}
	return p, err
}

// Package returns one package.
func (s *Service) Package(ctx context.Context, r Request, issuer, id string) (p Package, err error) {
	if err := s.read(ctx, r, PackageRead, issuer, "packages/"+id); err != nil {
		return p, err
	}
	return s.stored(ctx, r, issuer, id)
}
