package kms

import (
	"context"

	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// CeremonyStep is one act of a ceremony at the console.
type CeremonyStep struct {
	Ceremony string // digest of the file
	Step     string // as the record names it
	Op       Operation
	Object   string
	Detail   map[string]string
}

// CarryOut logs the intent of a step, acts, and logs the outcome. If the process dies
// in between, the intent says what may have happened, and the step can be taken again.
func (s *Service) CarryOut(ctx context.Context, by string, step CeremonyStep, act func(context.Context) error) error {
	nothing := func(store.Rows) error { return nil }
	return s.carryOut(ctx, by, step, changes{nothing, nothing}, act)
}

// changes are those of rows with the intent and with the outcome of a step.
type changes struct{ before, after func(store.Rows) error }

func (s *Service) carryOut(ctx context.Context, by string, step CeremonyStep, rows changes, act func(context.Context) error) error {
	if err := s.under(ctx, step.Ceremony); err != nil {
		return err
	}
	e := console(step.Op, printable(step.Object), by)
	e.detail["ceremony"] = step.Ceremony
	for k, v := range step.Detail {
		e.detail[k] = v
	}
	var err error
	if e.intent, err = s.intendAnd(ctx, e, rows.before); err != nil {
		return err
	}
	if err := act(ctx); err != nil {
		return s.refuse(ctx, e, err)
	}
	return s.log(ctx, &e, func(tx store.Rows) error {
		if err := rows.after(tx); err != nil {
			return err
		}
		return onCeremony(tx, step.Ceremony, func(c *Ceremony) { c.did(step.Step, s.doneNow(by)) })
	})
}

// TellToken logs once what a ceremony did to its token, which was before there was a
// log, as the token itself shows it now.
func (s *Service) TellToken(ctx context.Context, by, digest, label string, detail map[string]string) error {
	if err := s.under(ctx, digest); err != nil {
		return err
	}
	e := console(CeremonyToken, "tokens/"+printable(label), by)
	e.detail["ceremony"] = digest
	for k, v := range detail {
		e.detail[k] = v
	}
	return s.log(ctx, &e, func(tx store.Rows) error {
		return onCeremony(tx, digest, func(c *Ceremony) { c.Told = true })
	})
}

// KEK is what the service keeps of a key-encryption key. The token cannot say its check
// value: it may only unwrap. So the row says which ceremony compared it.
type KEK struct {
	Algorithm string `json:"algorithm"`
	KCV       string `json:"kcv,omitempty"` // METHOD:VALUE; none for a pair
	Ceremony  string `json:"ceremony"`      // digest of the file that made it
	// Made is set with the outcome. Without it, an attempt of the ceremony broke off, and
	// nobody compared what the token may hold.
	Made      bool `json:"made,omitempty"`
	Destroyed bool `json:"destroyed,omitempty"`
}

const kindKEK store.Kind = "kek"

func kekRef(label string) store.Ref { return store.Ref{Kind: kindKEK, ID: label} }

// KEK returns what is kept of a key-encryption key; one that no ceremony made is
// fault.NotFound.
func (s *Service) KEK(ctx context.Context, label string) (k KEK, err error) {
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		_, err = need(tx, kekRef(label), &k)
		return err
	})
	return k, err
}

// MakeKEK carries out the step that makes a key-encryption key in the token.
func (s *Service) MakeKEK(ctx context.Context, by, label string, step CeremonyStep, k KEK, act func(context.Context) error) error {
	k.Ceremony = step.Ceremony
	write := func(made bool) func(store.Rows) error {
		return func(tx store.Rows) error {
			var have KEK
			v, err := get(tx, kekRef(label), &have)
			if err != nil {
				return err
			}
			if have.Made && !have.Destroyed {
				return fault.New(fault.Conflict, "there is a key-encryption key of this label")
			}
			k.Made = made
			return put(tx, kekRef(label), v, k)
		}
	}
	return s.carryOut(ctx, by, step, changes{write(false), write(true)}, act)
}

// DestroyKEK carries out the step that destroys a key-encryption key, also one that no
// row tells of.
func (s *Service) DestroyKEK(ctx context.Context, by, label string, step CeremonyStep, act func(context.Context) error) error {
	write := func(gone bool) func(store.Rows) error {
		return func(tx store.Rows) error {
			k := KEK{Ceremony: step.Ceremony}
			v, err := get(tx, kekRef(label), &k)
			if err != nil {
				return err
			}
			k.Destroyed = gone
			return put(tx, kekRef(label), v, k)
		}
	}
	return s.carryOut(ctx, by, step, changes{write(false), write(true)}, act)
}
