package kms

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/kms/approval"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// created reads what a proposal says of a new version.
func created(p approval.Proposal) (n NewKey, id key.ID, life time.Duration, err error) {
	if id, err = versionOfKey(p); err != nil {
		return n, id, 0, err
	}
	for name := range p.Params {
		if !slices.Contains(createParams, name) {
			return n, id, 0, fault.New(fault.InvalidInput, "the parameters of a new version are "+fmt.Sprint(createParams))
		}
	}
	usage := key.Usage(p.Params["usage"])
	number := p.Params["kvn"]
	if usage == key.GPSCP11 && number == "" {
		number = "00"
	}
	kvn, err1 := strconv.ParseUint(number, 16, 8)
	days, err2 := strconv.Atoi(p.Params["cryptoperiod_days"])
	if err1 != nil || err2 != nil || days < 1 || days > 3650 {
		return n, id, 0, fault.New(fault.InvalidInput, "kvn has two hexadecimal digits, and cryptoperiod_days is 1 to 3650")
	}
	n = NewKey{
		Issuer: id.Issuer, Name: id.Name, Token: p.Params["token"], Usage: usage, KVN: byte(kvn),
		Algorithm: key.Algorithm(p.Params["algorithm"]), CardAlgorithm: key.Algorithm(p.Params["card_algorithm"]),
		Diversification: diversify.Method(p.Params["diversification"]),
	}
	return n, id, time.Duration(days) * 24 * time.Hour, n.Check()
}

var createParams = []string{"usage", "algorithm", "card_algorithm", "diversification", "kvn", "cryptoperiod_days", "token"}

func checkCreate(ctx context.Context, s *Service, p approval.Proposal) error {
	n, id, _, err := created(p)
	if err != nil {
		return err
	}
	next := 1
	err = s.cfg.Log.View(ctx, func(tx store.Rows) error {
		all, err := allVersions(tx, n.Issuer)
		if err != nil {
			return err
		}
		for _, v := range all {
			if v.ID.Name != n.Name {
				continue
			}
			if n.KVN != 0 && v.KVN == n.KVN || v.Usage != n.Usage {
				return fault.New(fault.Conflict, "a version of this key has this KVN, or another usage")
			}
			next = max(next, v.ID.Version+1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	holder, err := s.allowed(n)
	if err != nil {
		return err
	}
	if next, err = n.free(ctx, holder, next); err == nil && id.Version != next {
		err = fault.New(fault.Conflict, fmt.Sprintf("the next version of this key is %d", next))
	}
	if err == nil && n.Usage == key.GPSCP11 {
		err = s.agrees(ctx, n.Token)
	}
	return err
}

// actCreate makes the values in the token. It replaces nothing: an object without a
// row may be of an attempt that broke off, or a master that a restored database does
// not know.
func actCreate(ctx context.Context, s *Service, p approval.Proposal) (any, error) {
	n, id, life, err := created(p)
	if err != nil {
		return nil, err
	}
	holder, err := s.allowed(n)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now().UTC().Round(time.Second)
	v := key.Version{
		ID: id, Token: n.Token, Usage: n.Usage, Algorithm: n.Algorithm, CardAlgorithm: n.CardAlgorithm, KVN: n.KVN,
		Diversification: string(n.Diversification), State: key.PreActivation, Created: now, Ends: now.Add(life), KCVs: map[key.Part]key.KCV{},
	}
	for _, part := range cardkey.Parts(n.Diversification, n.Usage) {
		label := id.Label(part)
		taken, err := holder.Taken(ctx, label)
		if err == nil && taken {
			err = fault.New(fault.Conflict, "the token holds an object of this version, which no row knows; propose the next one")
		}
		if err != nil {
			return nil, err
		}
		root, err := holder.Generate(ctx, label, n.Algorithm, cardkey.Root(v, part).Class)
		if err != nil {
			return nil, err
		}
		v.KCVs[part] = root.KCV
		if v.Usage != key.GPSCP11 {
			continue
		}
		public, err := holder.Public(ctx, cardkey.Root(v, part))
		if err != nil {
			return nil, err
		}
		v.PublicKey = derive.SubjectPublicKeyInfo(public)
	}
	return v, nil
}

func changeCreate(_ *Service, rows store.Rows, p approval.Proposal, acted any) error {
	v := acted.(key.Version)
	return put(rows, versionRef(v.ID), p.Expected, v)
}
