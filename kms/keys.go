package kms

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/emv"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/profile"
	"cardkms/kms/store"
)

// versions returns the key versions of an issuer, at most cacheFor old.
func (s *Service) versions(ctx context.Context, issuer string) ([]key.Version, error) {
	return s.keys.get(s.cfg.Now(), issuer, func([]key.Version) (all []key.Version, err error) {
		err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
			all, err = allVersions(tx, issuer)
			return err
		})
		return all, err
	})
}

func allVersions(tx store.Rows, issuer string) (all []key.Version, err error) {
	for after := ""; ; {
		var some []key.Version
		if some, after, err = page[key.Version](tx, kindKey, issuer, after, 500); err != nil {
			return nil, err
		}
		if all = append(all, some...); after == "" {
			return all, nil
		}
	}
}

func versionRef(id key.ID) store.Ref {
	return store.Ref{Kind: kindKey, Issuer: id.Issuer, ID: fmt.Sprintf("%s/%09d", id.Name, id.Version)}
}

// Keys returns the key versions of an issuer.
func (s *Service) Keys(ctx context.Context, r Request, issuer string) ([]key.Version, error) {
	if err := s.read(ctx, r, KeyRead, issuer, "keys"); err != nil {
		return nil, err
	}
	return s.versions(ctx, issuer)
}

// version finds the version of a key that has this KVN on the cards. One that
// does not serve this use now is fault.KeyState.
func (s *Service) version(ctx context.Context, issuer, name string, usage key.Usage, kvn byte, use key.Use) (key.Version, error) {
	all, err := s.versions(ctx, issuer)
	if err != nil {
		return key.Version{}, err
	}
	for _, v := range all {
		if v.ID.Name != name || v.Usage != usage || v.KVN != kvn {
			continue
		}
		return v, serves(v, use, s.cfg.Now())
	}
	return key.Version{}, fault.New(fault.NotFound, "no such key version")
}

// serves refuses a use that a version does not serve now.
func serves(v key.Version, use key.Use, now time.Time) error {
	if why := v.Check(use, now); why != "" {
		return fault.New(fault.KeyState, why)
	}
	if why := v.Legacy(now); why != "" {
		return fault.New(fault.LegacyRefused, why)
	}
	return nil
}

// exists checks that a key of one of these usages is there at all.
func (s *Service) exists(ctx context.Context, issuer, name string, usages ...key.Usage) error {
	all, err := s.versions(ctx, issuer)
	if err != nil {
		return err
	}
	for _, v := range all {
		if v.ID.Name == name && slices.Contains(usages, v.Usage) {
			return nil
		}
	}
	return fault.New(fault.NotFound, "no such key")
}

// opens refuses a key of which no version could serve a card of this profile now, also
// because the tokens of all of them are not there. Which one does is not known before the
// card says its KVN.
func (s *Service) opens(ctx context.Context, issuer, name string, p profile.Profile) error {
	all, err := s.versions(ctx, issuer)
	if err != nil {
		return err
	}
	why := error(fault.New(fault.NotFound, "no such key"))
	for _, v := range all {
		if v.ID.Name != name || v.Usage != p.Usage() {
			continue
		}
		if why = p.Agrees(v); why == nil {
			why = serves(v, key.Move, s.cfg.Now())
		}
		if why == nil {
			_, why = s.cfg.Holder(v.Token)
		}
		if why == nil {
			return nil
		}
	}
	return why
}

// algorithmOf returns the status of a key's algorithms: 3DES is no longer approved
// ([SP 800-131A], Revision 2, Section 2), whatever is derived from it.
func algorithmOf(v key.Version) audit.Algorithm {
	if v.Algorithm.TDEA() || v.CardAlgorithm.TDEA() {
		return audit.Legacy
	}
	return audit.Approved
}

// NewKey describes a key version that a ceremony at the console makes.
type NewKey struct {
	Issuer, Name    string
	Token           string // that holds it; empty for the main one
	Usage           key.Usage
	Algorithm       key.Algorithm // of the master
	CardAlgorithm   key.Algorithm // of the card keys
	Diversification diversify.Method
	KVN             byte
	Ceremony, Step  string // that it is part of, see BeginCeremony; empty for none
}

// Check refuses a description that no token could follow.
func (n NewKey) Check() error {
	if !key.ValidName(n.Issuer) || !key.ValidName(n.Name) {
		return fault.New(fault.InvalidInput, "issuer and key are named by 1 to 63 lower-case letters, digits and hyphens, a letter first")
	}
	if n.Token != "" && !key.ValidName(n.Token) {
		return fault.New(fault.InvalidInput, "a token is named by 1 to 63 lower-case letters, digits and hyphens, a letter first")
	}
	if n.Usage.EMV() {
		return n.checkEMV()
	}
	if n.Usage == key.OTA {
		return n.checkOTA()
	}
	if n.Usage == key.GPSCP11 {
		return n.checkSCP11()
	}
	switch {
	case !n.Usage.Channels() && n.Usage != key.CardUpdate:
		return fault.New(fault.InvalidInput, "the usage of a key is gp-scp03, gp-scp02, gp-scp11, card-update, emv-ac, emv-smi, emv-smc or ota")
	case n.KVN == 0 || n.KVN > 0x7F:
		return fault.New(fault.InvalidInput, "a Key Version Number is 01 to 7F")
	case n.Usage == key.GPSCP02:
		return n.checkSCP02()
	case n.CardAlgorithm.TDEA() || n.CardAlgorithm.Size() == 0:
		return fault.New(fault.InvalidInput, "the card keys of this usage are AES keys")
	}
	return diversify.Fits(n.Diversification, n.Algorithm, n.CardAlgorithm)
}

// checkSCP02 refuses what is no key of SCP02: two-key 3DES, diversified by one of the
// 3DES methods or not at all. AN10922 under 3DES is CMAC, which tokens do not compute
// inside with such keys.
func (n NewKey) checkSCP02() error {
	if n.Algorithm != key.TDEA2 || n.CardAlgorithm != key.TDEA2 {
		return fault.New(fault.InvalidInput, "masters of gp-scp02 and the keys of their cards are tdea-2key")
	}
	if n.Diversification == diversify.AN10922 {
		return fault.New(fault.TokenUnable, "tokens compute an10922 under AES only")
	}
	return diversify.Fits(n.Diversification, n.Algorithm, n.CardAlgorithm)
}

// checkSCP11 refuses what is no pair of the host: no card has keys that follow from it, and
// which version serves a card says the certificate in its profile, so it has no number.
func (n NewKey) checkSCP11() error {
	if n.Algorithm != key.ECP256 || n.CardAlgorithm != "" || n.Diversification != "" || n.KVN != 0 {
		return fault.New(fault.InvalidInput, "a key of gp-scp11 is ec-p256; it has no card_algorithm, no diversification and no kvn")
	}
	return nil
}

// checkEMV refuses what is no issuer master key of EMV: two-key 3DES, with the
// derivation key index of the cards in the place of a Key Version Number.
func (n NewKey) checkEMV() error {
	if n.KVN == 0 {
		return fault.New(fault.InvalidInput, "a derivation key index is 01 to FF")
	}
	if n.optionC() {
		return nil
	}
	if n.Algorithm != key.TDEA2 || n.CardAlgorithm != key.TDEA2 {
		return fault.New(fault.InvalidInput, "issuer master keys of EMV and the keys of their cards are tdea-2key")
	}
	for _, o := range []emv.Option{emv.OptionA, emv.OptionB} {
		if string(n.Diversification) == emvDiversification(o) {
			return nil
		}
	}
	return fault.New(fault.InvalidInput, "issuer master keys of EMV are diversified by emv-option-a or emv-option-b")
}

// optionC reports whether this is an issuer master key of EMV under AES, which is
// experimental: see Config.Experimental.
func (n NewKey) optionC() bool {
	return n.Usage.EMV() && n.Algorithm == key.AES128 && n.CardAlgorithm == key.AES128 && string(n.Diversification) == emvDiversification(emv.OptionC)
}

// allowed refuses a key that the configuration has no use for: in a token that it does not
// have, or of a kind that it did not ask for.
func (s *Service) allowed(n NewKey) (Holder, error) {
	if n.optionC() {
		if err := s.experimental("emv-option-c"); err != nil {
			return nil, err
		}
	}
	return s.holder(n.Token)
}

// checkOTA refuses what gives no KIc and KID: without diversification both would be
// one value, and their number has four bits on the wire.
func (n NewKey) checkOTA() error {
	if n.KVN == 0 || n.KVN > 0x0F {
		return fault.New(fault.InvalidInput, "the number of a key set over the air is 01 to 0F")
	}
	if n.Diversification == diversify.None {
		return fault.New(fault.InvalidInput, "keys over the air are diversified: KIc and KID must not be one value")
	}
	return diversify.Fits(n.Diversification, n.Algorithm, n.CardAlgorithm)
}

// emvDiversification names an option of EMV among the ways to derive card keys.
func emvDiversification(o emv.Option) string { return "emv-option-" + strings.ToLower(string(o)) }

// Maker puts the values of a new key version into the token.
type Maker interface {
	// Taken reports whether the token holds an object of this label, e.g. of an
	// attempt that broke off.
	Taken(ctx context.Context, label string) (bool, error)
	// Make makes the value of one part.
	Make(ctx context.Context, label string, a key.Algorithm, c derive.Class, p key.Part) (derive.Root, error)
}

// LoadKey makes the next version of a key: intent, values in the token, then the
// row with the outcome. by names the person at the console. It is reached from
// the console only; no caller of the API can. If the process dies in between,
// the token holds objects without a row: they serve nobody, the intent in the log
// names them, and the next attempt takes the next version number.
func (s *Service) LoadKey(ctx context.Context, by string, n NewKey, m Maker) (key.Version, error) {
	if err := n.Check(); err != nil {
		return key.Version{}, err
	}
	if n.Usage == key.GPSCP11 {
		return key.Version{}, fault.New(fault.InvalidInput, "a key of gp-scp11 is a pair that the token makes when officers decide it (key.create)")
	}
	if n.Ceremony != "" {
		if err := s.under(ctx, n.Ceremony); err != nil {
			return key.Version{}, err
		}
	}
	if _, err := s.allowed(n); err != nil {
		return key.Version{}, err
	}
	v := key.Version{
		Token: n.Token, Usage: n.Usage, Algorithm: n.Algorithm, CardAlgorithm: n.CardAlgorithm, KVN: n.KVN,
		Diversification: string(n.Diversification), State: key.Active, Created: s.cfg.Now().UTC().Round(time.Second), KCVs: map[key.Part]key.KCV{},
		Ceremony: n.Ceremony,
	}
	v.Ends = v.Created.Add(key.DefaultCryptoperiod)
	id, err := s.nextVersion(ctx, n, m)
	if err != nil {
		return v, err
	}
	v.ID = id
	e := console(KeyLoad, id.String(), by)
	e.issuer, e.key, e.algorithm = n.Issuer, id.String(), algorithmOf(v)
	if n.Ceremony != "" {
		e.detail["ceremony"] = n.Ceremony
	}
	if n.Token != "" {
		e.detail["token"] = n.Token
	}
	if e.intent, err = s.intend(ctx, e); err != nil {
		return v, err
	}
	for _, p := range cardkey.Parts(n.Diversification, n.Usage) {
		root, err := m.Make(ctx, id.Label(p), n.Algorithm, cardkey.Root(v, p).Class, p)
		if err != nil {
			return v, s.refuse(ctx, e, err)
		}
		v.KCVs[p] = root.KCV
		e.detail["kcv_"+string(p)] = string(root.KCV.Method) + ":" + root.KCV.Value
	}
	err = s.log(ctx, &e, func(tx store.Rows) error {
		if err := put(tx, versionRef(id), 0, v); err != nil || n.Ceremony == "" {
			return err
		}
		return onCeremony(tx, n.Ceremony, func(c *Ceremony) { c.did(n.Step, s.doneNow(by)) })
	})
	return v, err
}

// nextVersion numbers a version and refuses a KVN that another version of the
// same key has: a card's KVN must name one key.
func (s *Service) nextVersion(ctx context.Context, n NewKey, m Maker) (key.ID, error) {
	id := key.ID{Issuer: n.Issuer, Name: n.Name, Version: 1}
	err := s.cfg.Log.View(ctx, func(tx store.Rows) error {
		all, err := allVersions(tx, n.Issuer)
		for _, v := range all {
			if v.ID.Name != n.Name {
				continue
			}
			if v.KVN == n.KVN || v.Usage != n.Usage {
				return fault.New(fault.Conflict, "a version of this key has this KVN, or another usage")
			}
			id.Version = max(id.Version, v.ID.Version+1)
		}
		return err
	})
	if err == nil {
		id.Version, err = n.free(ctx, m, id.Version)
	}
	return id, err
}

// free returns the first version, from one on, of which the token holds no object.
func (n NewKey) free(ctx context.Context, m interface {
	Taken(ctx context.Context, label string) (bool, error)
}, from int) (int, error) {
	for id := (key.ID{Issuer: n.Issuer, Name: n.Name, Version: from}); ; id.Version++ {
		taken := false
		for _, p := range cardkey.Parts(n.Diversification, n.Usage) {
			used, err := m.Taken(ctx, id.Label(p))
			if err != nil {
				return 0, err
			}
			taken = taken || used
		}
		if !taken {
			return id.Version, nil
		}
	}
}

// intend makes an intent durable and returns its sequence.
func (s *Service) intend(ctx context.Context, e event) (*int64, error) {
	return s.intendAnd(ctx, e, func(store.Rows) error { return nil })
}

// intendAnd is intend with a change of rows in its transaction.
func (s *Service) intendAnd(ctx context.Context, e event, change func(store.Rows) error) (*int64, error) {
	entry, err := s.entry(ctx, e)
	if err != nil {
		return nil, err
	}
	entry.Outcome = audit.OutcomePending
	seq, err := s.record(ctx, func(tx store.Rows) (audit.Entry, error) { return entry, change(tx) })
	if err != nil {
		return nil, err
	}
	return &seq, nil
}
