package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"cardkms/derive"
	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/approval/officerkey"
	"cardkms/kms/cardkey"
	"cardkms/kms/ceremony"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
)

// nodeSteps are the steps that the service logs.
func (c *conductor) nodeSteps() (out []step) {
	if c.f.Officers != nil {
		out = append(out, c.officersStep(*c.f.Officers))
	}
	for _, k := range c.f.KEKs {
		out = append(out, c.kekStep(k))
	}
	for _, k := range c.f.Keys {
		out = append(out, c.keyStep(k))
	}
	for _, p := range c.f.Profiles {
		out = append(out, c.profileStep(p))
	}
	for _, label := range c.f.Destroy {
		out = append(out, c.destroyStep(label))
	}
	return out
}

func (c *conductor) officersStep(o ceremony.Officers) step {
	var names []string
	for _, one := range o.First {
		names = append(names, one.Name)
	}
	return step{
		name:  kms.OfficersStep,
		words: fmt.Sprintf("Enrol the first officers %s; %d of them approve, and who proposes does not count.", strings.Join(names, ", "), o.Approvals),
		check: func(context.Context) error {
			first, err := firstOf(o)
			if err == nil {
				_, err = approval.First(first, o.Approvals)
			}
			return err
		},
		done: func(ctx context.Context) (facts, bool, error) { return c.findOfficers(ctx, o) },
		do: func(ctx context.Context) (facts, error) {
			first, err := firstOf(o)
			if err != nil {
				return nil, err
			}
			return approval.FirstDetail(first, o.Approvals), c.node.service.EnrolFirst(ctx, c.by, c.f.Hex(), first, o.Approvals)
		},
	}
}

func firstOf(o ceremony.Officers) (out []approval.Officer, err error) {
	for _, one := range o.First {
		public, err := officerkey.ParseLine([]byte(one.Public))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", one.Name, err)
		}
		out = append(out, approval.Officer{Name: one.Name, Identity: one.Identity, Public: public, State: approval.Active})
	}
	return out, nil
}

func (c *conductor) findOfficers(ctx context.Context, o ceremony.Officers) (facts, bool, error) {
	have, _, err := c.node.service.Officers(ctx)
	if err != nil || len(have) == 0 {
		return nil, false, err
	}
	first, err := firstOf(o)
	if err != nil {
		return nil, false, err
	}
	for _, f := range first {
		h, ok := have[f.Name]
		if !ok || !bytes.Equal(h.Public, f.Public) || h.Identity != f.Identity {
			return nil, false, fault.New(fault.Conflict, "there are officers, and they are others than the file's; they enrol others")
		}
	}
	return approval.FirstDetail(first, o.Approvals), true, nil
}

// origin says where a value comes from.
func origin(v ceremony.Value) string {
	switch {
	case v.Generate:
		return "inside the token, so that nobody ever knows its value"
	case v.Wrapped != nil:
		return fmt.Sprintf("from a value wrapped under %s by %s; its check value must be %s", v.Wrapped.KEK, v.Wrapped.Method, v.KCV)
	}
	var who []string
	for _, one := range v.Components {
		who = append(who, one.Custodian+" ("+one.KCV+")")
	}
	return fmt.Sprintf("as the sum of %d components, of %s; its check value must be %s", len(v.Components), strings.Join(who, ", "), v.KCV)
}

func (c *conductor) keyStep(k ceremony.Key) step {
	var values []string
	for p, v := range k.Values() {
		values = append(values, fmt.Sprintf("%s %s", p, origin(*v)))
	}
	slices.Sort(values)
	in := ""
	if k.Token != "" {
		in = " in the token " + k.Token
	}
	return step{
		name: k.String(),
		words: fmt.Sprintf("Make the %s master of key %s of issuer %s%s for %s, KVN %s on cards, %s card keys by %s: %s.",
			k.Algorithm, k.Name, k.Issuer, in, k.Usage, k.KVN, k.CardAlgorithm, k.Diversification, strings.Join(values, "; ")),
		check: func(ctx context.Context) error { return c.checkKey(ctx, k) },
		done:  func(ctx context.Context) (facts, bool, error) { return c.findKey(ctx, k) },
		do: func(ctx context.Context) (facts, error) {
			n, err := k.Describe()
			if err != nil {
				return nil, err
			}
			n.Ceremony, n.Step = c.f.Hex(), k.String()
			v, err := c.node.service.LoadKey(ctx, c.by, n, valueMaker{c, k})
			if err != nil {
				return nil, err
			}
			return keyFacts(k, v), nil
		},
	}
}

// checkKey finds what can be wrong with the values of a key before they are made.
func (c *conductor) checkKey(ctx context.Context, k ceremony.Key) error {
	if err := c.checkIssuer(k.Issuer); err != nil {
		return err
	}
	if err := c.checkToken(k); err != nil {
		return err
	}
	for _, v := range k.Values() {
		if v.Wrapped == nil {
			continue
		}
		w, err := wrapped(*v)
		if err == nil {
			err = w.Check(k.Algorithm)
		}
		if err != nil {
			return err
		}
		if !c.makesKEK(w.KEK) && c.node != nil {
			t, err := c.node.tokens.Get(k.Token)
			if err == nil {
				err = t.CheckKEK(ctx, w.KEK, w.Method.Algorithm())
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// checkIssuer refuses what nobody could ever use.
func (c *conductor) checkIssuer(issuer string) error {
	if c.node != nil && !slices.Contains(c.node.cfg.issuers(), issuer) {
		return fault.New(fault.InvalidInput, "the configuration has no issuer "+issuer)
	}
	return nil
}

// checkToken refuses a key for a token that the configuration does not have, or under a
// key-encryption key that is in another one.
func (c *conductor) checkToken(k ceremony.Key) error {
	if c.node == nil {
		return nil
	}
	if _, ok := c.node.cfg.Tokens[k.Token]; !ok && k.Token != "" {
		return fault.New(fault.InvalidInput, "the configuration has no token "+k.Token)
	}
	for _, v := range k.Values() {
		if v.Wrapped != nil && c.node.cfg.tokenOfKEK(v.Wrapped.KEK) != k.Token {
			return fault.New(fault.InvalidInput, "the key-encryption key "+v.Wrapped.KEK+" is in another token than "+k.String()+", and no key leaves its token")
		}
	}
	return nil
}

// makesKEK reports whether the same ceremony makes a key-encryption key, so that it
// need not be there yet.
func (c *conductor) makesKEK(label string) bool {
	for _, k := range c.f.KEKs {
		if k.Label == label {
			return true
		}
	}
	return false
}

func wrapped(v ceremony.Value) (w hsm.Wrapped, err error) {
	w = hsm.Wrapped{KEK: v.Wrapped.KEK, Method: hsm.WrapMethod(v.Wrapped.Method)}
	if w.Blob, err = hex.DecodeString(v.Wrapped.Blob); err != nil {
		return w, err
	}
	w.KCV, err = ceremony.ParseKCV(v.KCV)
	return w, err
}

func valueName(k ceremony.Key, p key.Part) string { return k.String() + "#" + string(p) }

// findKey looks for the version that the step made: of this ceremony, and as the token
// holds it. Another one with this KVN is in the way.
func (c *conductor) findKey(ctx context.Context, k ceremony.Key) (facts, bool, error) {
	n, err := k.Describe()
	if err != nil {
		return nil, false, err
	}
	all, err := c.node.service.AllKeys(ctx)
	if err != nil {
		return nil, false, err
	}
	i := slices.IndexFunc(all, func(v key.Version) bool { return v.ID.Issuer == n.Issuer && v.ID.Name == n.Name && v.KVN == n.KVN })
	if i < 0 {
		return nil, false, nil
	}
	v := all[i]
	switch {
	case v.Ceremony != c.f.Hex():
		return nil, false, fault.New(fault.Conflict, v.ID.String()+" has this KVN, and "+whose(v.Ceremony)+" made it")
	case v.Token != n.Token || v.Usage != n.Usage || v.Algorithm != n.Algorithm || v.CardAlgorithm != n.CardAlgorithm || v.Diversification != string(n.Diversification):
		return nil, false, fault.New(fault.Conflict, v.ID.String()+" has this KVN and is another key")
	}
	t, err := c.node.tokens.Get(v.Token)
	if err != nil {
		return nil, false, err
	}
	for p, value := range k.Values() {
		if value.KCV != "" && text(v.KCVs[p]) != value.KCV {
			return nil, false, fault.New(fault.Conflict, v.ID.String()+" has this KVN and another check value")
		}
		if v.State == key.Destroyed {
			continue
		}
		if err := t.Check(ctx, cardkey.Root(v, p)); err != nil {
			return nil, false, fmt.Errorf("%s, which this ceremony made: %w", v.ID.Label(p), err)
		}
	}
	return keyFacts(k, v), true, nil
}

// whose names who made what is in the way.
func whose(digest string) string {
	if digest == "" {
		return "no ceremony"
	}
	return "the ceremony with SHA-256 " + digest
}

func keyFacts(k ceremony.Key, v key.Version) facts {
	f := facts{"version": v.ID.String(), "state": string(v.State)}
	if v.Token != "" {
		f["token"] = v.Token
	}
	for p, kcv := range v.KCVs {
		f["kcv_"+string(p)] = text(kcv)
	}
	for p, value := range k.Values() {
		from(f, string(p)+"_", *value)
	}
	return f
}

// from adds to facts where a value came from, with each component's custodian and check
// value.
func from(f facts, prefix string, v ceremony.Value) {
	switch {
	case v.Generate:
		f[prefix+"from"] = "generated in the token"
	case v.Wrapped != nil:
		f[prefix+"from"] = "wrapped under " + v.Wrapped.KEK + " by " + v.Wrapped.Method
	}
	for i, c := range v.Components {
		f[fmt.Sprintf("%scomponent_%d", prefix, i+1)] = c.Custodian + " " + c.KCV
	}
}

// valueMaker makes the values of a key version in the token.
type valueMaker struct {
	c *conductor
	k ceremony.Key
}

// Taken implements kms.Maker.
func (m valueMaker) Taken(ctx context.Context, label string) (bool, error) {
	t, err := m.c.node.tokens.Get(m.k.Token)
	if err != nil {
		return false, err
	}
	return t.Taken(ctx, label)
}

// Make implements kms.Maker.
func (m valueMaker) Make(ctx context.Context, label string, a key.Algorithm, class derive.Class, p key.Part) (root derive.Root, err error) {
	v := m.k.Values()[p]
	t, err := m.c.node.tokens.Get(m.k.Token)
	if err != nil {
		return root, err
	}
	defer func() { crashAt("made " + string(p) + " of " + m.k.String()) }()
	switch {
	case v.Generate:
		return t.Generate(ctx, label, a, class)
	case v.Wrapped != nil:
		w, err := wrapped(*v)
		if err != nil {
			return root, err
		}
		return t.UnwrapRoot(ctx, label, a, class, w)
	}
	sum, free, err := m.c.combined(ctx, valueName(m.k, p), a, *v)
	if err != nil {
		return root, err
	}
	defer free()
	return t.Import(ctx, label, a, class, sum)
}
