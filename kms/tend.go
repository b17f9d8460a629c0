package kms

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"cardkms/audit"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// Tend does what the time has come for: it destroys versions whose days are over,
// and tells of cryptoperiods that end and of a broken glass. The program calls it
// every minute or so. What fails does not keep the rest from being done.
func (s *Service) Tend(ctx context.Context) error {
	all, err := s.AllKeys(ctx)
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	for _, v := range all {
		if due(v, now) {
			err = errors.Join(err, s.destroy(ctx, v))
		}
		err = errors.Join(err, s.alarm(ctx, v, v.Alarm(now)))
	}
	return errors.Join(err, s.tendGlass(ctx))
}

// due reports whether the objects of a version are to leave the token now.
func due(v key.Version, now time.Time) bool {
	return !v.DestroyAt.IsZero() && !now.Before(v.DestroyAt) && v.State.May(key.Destroyed)
}

// own is the event of something that the service does by itself to a version.
func own(op Operation, v key.Version) event {
	e := event{req: Request{Caller: Caller{ID: audit.ActorService}}, op: op, issuer: v.ID.Issuer, object: v.ID.String(), key: v.ID.String(), detail: map[string]string{}}
	if v.Token != "" {
		e.detail["token"] = v.Token
	}
	return e
}

// destroy takes the objects of a version out of the token and looks that they are
// gone also after the token's library was initialised again. Before the first object
// goes, intent and row say so, and nothing takes that back; after a crash the next
// call goes on.
func (s *Service) destroy(ctx context.Context, v key.Version) error {
	e := own("key.destroyed", v)
	holder, err := s.holder(v.Token)
	if err != nil {
		return err // before anything is done: the next call tries again
	}
	e.intent, err = s.intendAnd(ctx, e, func(tx store.Rows) error {
		n, err := need(tx, versionRef(v.ID), &v)
		if err != nil {
			return err
		}
		if !due(v, s.cfg.Now()) {
			return fault.New(fault.Conflict, "officers took the destruction back")
		}
		v.Destroying = true
		return put(tx, versionRef(v.ID), n, v)
	})
	if err != nil {
		return err
	}
	labels := make([]string, 0, len(v.KCVs))
	for _, p := range slices.Sorted(maps.Keys(v.KCVs)) {
		labels = append(labels, v.ID.Label(p))
		taken, err := holder.Taken(ctx, v.ID.Label(p))
		if err == nil && taken {
			err = holder.Destroy(ctx, v.ID.Label(p))
		}
		if err != nil {
			return s.refuse(ctx, e, err)
		}
	}
	if err := holder.Absent(ctx, labels...); err != nil {
		return s.refuse(ctx, e, err)
	}
	e.approved = true
	return s.log(ctx, &e, s.onVersion(v.ID, func(v *key.Version) { v.State, v.DestroyAt, v.Destroying = key.Destroyed, time.Time{}, false }))
}

// told is the last alarm of a version that was told. It is a row of its own: a
// proposal about the version stays good when nothing but the calendar moved.
type told struct {
	Alarm string `json:"alarm"`
}

func toldRef(id key.ID) store.Ref {
	return store.Ref{Kind: kindAlarm, Issuer: id.Issuer, ID: versionRef(id).ID}
}

// alarm tells of a cryptoperiod, once for each step.
func (s *Service) alarm(ctx context.Context, v key.Version, level string) error {
	var last told
	err := s.cfg.Log.View(ctx, func(tx store.Rows) error { _, err := get(tx, toldRef(v.ID), &last); return err })
	if err != nil || last.Alarm == level {
		return err
	}
	if level != "" {
		s.cfg.Logger.Warn("the cryptoperiod of a key version ends", "version", v.ID.String(), "alarm", level, "ends", v.Ends)
	}
	e := own("key.alarm", v)
	e.detail["alarm"], e.detail["ends"] = level, v.Ends.UTC().Format(time.RFC3339)
	if level == "" {
		e.detail["alarm"] = "none"
	}
	return s.log(ctx, &e, func(tx store.Rows) error {
		n, err := versionOf(tx, toldRef(v.ID))
		if err != nil {
			return err
		}
		return put(tx, toldRef(v.ID), n, told{level})
	})
}

func (s *Service) onVersion(id key.ID, change func(*key.Version)) func(store.Rows) error {
	return func(tx store.Rows) error {
		var v key.Version
		n, err := need(tx, versionRef(id), &v)
		if err != nil {
			return err
		}
		change(&v)
		return put(tx, versionRef(id), n, v)
	}
}
