package ledger

import (
	"errors"
	"fmt"
	"log/slog"

	"cardkms/kms/fault"
	"cardkms/kms/store"
)

// ErrTampered: the database is not what this service wrote and signed.
var ErrTampered = errors.New("ledger: the database is not what was written and signed")

// Violation is one thing in the database that is not what was written. It wraps
// ErrTampered.
type Violation struct {
	// Ref is the row that was changed; its zero value means the log or the
	// database as a whole.
	Ref  store.Ref
	What string // e.g. "is an older version than the newest one"

	foreign bool // an anchor holds what the log's key did not sign; nobody can accept that
}

// Error formats the name and what is wrong.
func (v *Violation) Error() string {
	if v.Ref == (store.Ref{}) {
		return "ledger: " + v.What
	}
	return fmt.Sprintf("ledger: the row %s %s of issuer %q %s", v.Ref.Kind, v.Ref.ID, v.Ref.Issuer, v.What)
}

// Is makes every violation ErrTampered.
func (v *Violation) Is(target error) bool { return target == ErrTampered }

// whole returns a violation of the log or the database as a whole.
func whole(format string, args ...any) *Violation {
	return &Violation{What: fmt.Sprintf(format, args...)}
}

// tampered is the answer to a caller who needs a row that was changed.
func tampered(v *Violation) error {
	return fault.Because(fault.ObjectTampered, "the database holds another state of this object than was written", v)
}

// sealed is the answer to every caller once the log or the database as a whole is
// not what was written.
func sealed(v *Violation) error {
	return fault.Because(fault.RollbackDetected, "the database is not the one that was written; officers must look into it", v)
}

// report keeps what was found, tells the operator, and once for each finding the
// configured observer. A violation of the whole seals the ledger: nothing more is
// answered until a process opens a database that is right again.
func (l *Ledger) report(v *Violation) {
	l.found.Lock()
	_, known := l.found.byRef[v.Ref]
	if !known {
		l.found.byRef[v.Ref] = v
	}
	l.found.Unlock()
	if known {
		return
	}
	l.cfg.Logger.Error("audit log: the database was changed behind the service's back", slog.Any("violation", v))
	if l.cfg.OnViolation != nil {
		l.cfg.OnViolation(v)
	}
}

// detect reports an error that is a violation, and returns what the caller gets.
func (l *Ledger) detect(err error) error {
	var v *Violation
	if !errors.As(err, &v) {
		return Away(err)
	}
	l.report(v)
	if v.Ref == (store.Ref{}) {
		return sealed(v)
	}
	return tampered(v)
}

// Away makes the error of a database that does not answer one for the service.
func Away(err error) error {
	if errors.Is(err, store.ErrAway) && fault.CodeOf(err) == fault.Internal {
		return fault.Because(fault.AuditUnavailable, "the database does not answer, so nothing happened", err)
	}
	return err
}

// refused says why nothing is answered any more, nil if the ledger is not sealed.
func (l *Ledger) refused() error {
	l.found.Lock()
	defer l.found.Unlock()
	if v := l.found.byRef[store.Ref{}]; v != nil {
		return sealed(v)
	}
	return nil
}

// heal forgets what was found about rows and is right again.
func (l *Ledger) heal(still []*Violation) {
	l.found.Lock()
	defer l.found.Unlock()
	whole := l.found.byRef[store.Ref{}]
	clear(l.found.byRef)
	if whole != nil {
		l.found.byRef[store.Ref{}] = whole
	}
	for _, v := range still {
		if l.found.byRef[v.Ref] == nil {
			l.found.byRef[v.Ref] = v
		}
	}
}

// Violations returns what is wrong with the database, as far as is known.
func (l *Ledger) Violations() []*Violation {
	l.found.Lock()
	defer l.found.Unlock()
	out := make([]*Violation, 0, len(l.found.byRef))
	for _, v := range l.found.byRef {
		out = append(out, v)
	}
	return out
}
