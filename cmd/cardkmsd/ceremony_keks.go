package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"cardkms/audit/durable"
	"cardkms/kms"
	"cardkms/kms/ceremony"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
)

func (c *conductor) kekStep(k ceremony.KEK) step {
	return step{
		name:  "kek " + k.Label,
		words: fmt.Sprintf("Make the key-encryption key %s (%s) %s. It may only unwrap.", k.Label, k.Algorithm, origin(k.Value)),
		done:  func(ctx context.Context) (facts, bool, error) { return c.findKEK(ctx, k) },
		do: func(ctx context.Context) (facts, error) {
			s := kms.CeremonyStep{Ceremony: c.f.Hex(), Step: "kek " + k.Label, Op: kms.CeremonyKEK, Object: "keks/" + k.Label, Detail: kekDetail(k)}
			row := kms.KEK{Algorithm: string(k.Algorithm), KCV: k.KCV}
			err := c.node.service.MakeKEK(ctx, c.by, k.Label, s, row, func(ctx context.Context) error { return c.makeKEK(ctx, k) })
			if err != nil {
				return nil, err
			}
			return c.kekFacts(ctx, k)
		},
	}
}

// findKEK looks for the key that the step made. Its check value is the database's word,
// which compared it when the key came.
func (c *conductor) findKEK(ctx context.Context, k ceremony.KEK) (facts, bool, error) {
	row, there, err := c.lookAtKEK(ctx, k.Label)
	ours := row.Ceremony == c.f.Hex()
	switch {
	case err != nil:
		return nil, false, err
	case row.Made && !row.Destroyed && !there:
		return nil, false, fault.New(fault.Conflict, "the token lost the key-encryption key "+k.Label)
	case !there, ours && !row.Made:
		return nil, false, nil
	case !ours || row.Destroyed:
		return nil, false, fault.New(fault.Conflict, "the token holds an object labelled "+k.Label+", and "+whose(row.Ceremony)+" made it")
	case row.Algorithm != string(k.Algorithm) || row.KCV != k.KCV:
		return nil, false, fault.New(fault.Conflict, k.Label+" is another key-encryption key, or has another check value")
	}
	t, err := c.holderOf(k.Label)
	if err == nil {
		err = t.CheckKEK(ctx, k.Label, k.Algorithm)
	}
	if err != nil {
		return nil, false, err
	}
	found, err := c.kekFacts(ctx, k)
	return found, true, err
}

// lookAtKEK returns what the database says of a key-encryption key, which is nothing for
// one that is not known, and whether the token holds an object of this label.
func (c *conductor) lookAtKEK(ctx context.Context, label string) (row kms.KEK, there bool, err error) {
	row, err = c.node.service.KEK(ctx, label)
	if fault.CodeOf(err) == fault.NotFound {
		err = nil
	}
	t, terr := c.holderOf(label)
	if err = errors.Join(err, terr); err == nil {
		there, err = t.Taken(ctx, label)
	}
	return row, there, err
}

// holderOf returns the token of a key-encryption key, which the configuration names.
func (c *conductor) holderOf(label string) (*hsm.Token, error) {
	return c.node.tokens.Get(c.node.cfg.tokenOfKEK(label))
}

func (c *conductor) destroyStep(label string) step {
	return step{
		name: "destroy " + label, words: fmt.Sprintf("Destroy the key-encryption key %s: nothing more comes in under it.", label),
		check: func(ctx context.Context) error { return c.checkDestroy(ctx, label) },
		done: func(ctx context.Context) (facts, bool, error) {
			row, there, err := c.lookAtKEK(ctx, label)
			return nil, !there && row.Destroyed, err
		},
		do: func(ctx context.Context) (facts, error) {
			s := kms.CeremonyStep{Ceremony: c.f.Hex(), Step: "destroy " + label, Op: kms.CeremonyDestroy, Object: "keks/" + label}
			return nil, c.node.service.DestroyKEK(ctx, c.by, label, s, func(ctx context.Context) error {
				defer crashAt("dropped " + label)
				return c.dropKEK(ctx, label)
			})
		},
	}
}

// checkDestroy refuses to destroy what is no key-encryption key.
func (c *conductor) checkDestroy(ctx context.Context, label string) error {
	if c.node == nil {
		return nil
	}
	row, there, err := c.lookAtKEK(ctx, label)
	switch {
	case err != nil:
		return err
	case !there && row.Ceremony == "":
		return fault.New(fault.NotFound, "there is no key-encryption key "+label+", and there never was")
	case !there:
		return nil // an attempt that broke off destroyed it; the log does not say so yet
	}
	t, err := c.holderOf(label)
	if err != nil {
		return err
	}
	if err := t.CheckKEK(ctx, label, key.AES256); err != nil && t.CheckKEK(ctx, label, key.RSA3072) != nil {
		return err
	}
	return nil
}

// dropKEK destroys the object of a key-encryption key, if it is there.
func (c *conductor) dropKEK(ctx context.Context, label string) error {
	t, err := c.holderOf(label)
	if err != nil {
		return err
	}
	taken, err := t.Taken(ctx, label)
	if err == nil && taken {
		err = t.DestroyKEK(ctx, label)
	}
	return err
}

func kekDetail(k ceremony.KEK) facts {
	d := facts{"algorithm": string(k.Algorithm)}
	if k.KCV != "" {
		d["kcv"] = k.KCV
	}
	return d
}

// makeKEK makes the key. What an attempt of this ceremony left that broke off is
// replaced: no token says the check value of a key that may only unwrap.
func (c *conductor) makeKEK(ctx context.Context, k ceremony.KEK) error {
	if err := c.dropKEK(ctx, k.Label); err != nil {
		return err
	}
	defer func() { crashAt("made kek " + k.Label) }()
	t, err := c.holderOf(k.Label)
	if err != nil {
		return err
	}
	if k.Algorithm == key.RSA3072 {
		_, err := t.GenerateKEK(ctx, k.Label)
		return err
	}
	sum, free, err := c.combined(ctx, k.Label, k.Algorithm, k.Value)
	if err != nil {
		return err
	}
	defer free()
	return t.ImportKEK(ctx, k.Label, sum)
}

// kekFacts writes the public half of a pair, or repeats the check value that was
// compared when the key came.
func (c *conductor) kekFacts(ctx context.Context, k ceremony.KEK) (facts, error) {
	if k.Algorithm != key.RSA3072 {
		f := kekDetail(k)
		from(f, "", k.Value)
		return f, nil
	}
	t, err := c.holderOf(k.Label)
	if err != nil {
		return nil, err
	}
	public, err := t.PublicKEK(ctx, k.Label)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	f := kekDetail(k)
	f["public"] = k.Public
	if c.dry {
		return f, nil
	}
	return f, durable.Replace(c.beside(k.Public), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644)
}
