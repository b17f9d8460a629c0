package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
)

// dryRun says what a run would do, and checks what can be checked.
func (c *conductor) dryRun(ctx context.Context) error {
	c.say("%s\n  file %s, SHA-256 %s\n  Nothing is changed.", c.f.Title, c.path, c.f.Hex())
	n, wrong := 0, 0
	look := func(steps []step, reachable bool) {
		for _, s := range steps {
			n++
			c.say("%d. %s", n, s.words)
			if !reachable {
				c.say("    would be done; it cannot be looked at before the steps above are done")
				continue
			}
			err := error(nil)
			if s.check != nil {
				err = s.check(ctx)
			}
			found, done := facts(nil), false
			if err == nil {
				found, done, err = s.done(ctx)
			}
			switch {
			case err != nil:
				wrong++
				c.say("    WRONG: %v", err)
			case done:
				c.say("    done already%s", inLine(found))
			default:
				c.say("    would be done")
			}
		}
	}
	look(c.tokenSteps(), true)
	opened := c.openForLooking(ctx)
	if opened != nil && !errors.Is(opened, errNotYet) {
		wrong++
		c.say("The service cannot be opened: %v", opened)
	}
	look(c.nodeSteps(), opened == nil)
	if opened == nil || errors.Is(opened, errNotYet) { // else nobody knows the officers
		if _, err := c.lookAtApprovals(ctx); err != nil {
			c.say("Officers: %v", err)
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d steps would fail", wrong, n)
	}
	return nil
}

// approved looks at the officers' signatures before the first act on a token: by the
// service, if it was opened before, else by the officers whom the file lists. Steps that
// are no token's wait for begin.
func (c *conductor) approved(ctx context.Context) error {
	if c.f.Token == nil {
		return nil
	}
	// A configuration that cannot name the service's keys yet is not complete.
	_, incomplete := c.configuration()
	if incomplete == nil || c.f.Officers == nil {
		if err := c.openForLooking(ctx); err != nil && !errors.Is(err, errNotYet) {
			return err
		}
	}
	_, err := c.lookAtApprovals(ctx)
	c.close() // there is one Token at a time
	return err
}

// lookAtApprovals returns the officers' signatures, unless they are too few for the
// officers of the service, or, while it has none, for those whom the file lists.
func (c *conductor) lookAtApprovals(ctx context.Context) (approval.Signatures, error) {
	signatures, err := readApprovals(c.path)
	if err != nil {
		return nil, err
	}
	var officers approval.Officers
	if c.node != nil {
		officers, _, err = c.node.service.Officers(ctx)
	}
	switch {
	case err != nil:
		return nil, err
	case len(officers) > 0:
		err = c.node.service.CheckCeremony(ctx, kms.NewCeremony{Digest: c.f.Digest, Signatures: signatures})
	case c.f.Officers != nil:
		err = c.signedByFirst(signatures)
	}
	if fault.CodeOf(err) == fault.ApprovalRequired {
		err = fmt.Errorf("%w\nhint: officers read %s and run \"cardkms ceremony approve %s\"", err, c.path, c.path)
	}
	return signatures, err
}

// signedByFirst judges signatures by the officers whom the file lists.
func (c *conductor) signedByFirst(signatures approval.Signatures) error {
	first, err := firstOf(*c.f.Officers)
	if err != nil {
		return err
	}
	all, err := approval.First(first, c.f.Officers.Approvals)
	if err != nil {
		return err
	}
	_, err = all.Quorum(approval.CeremonyStatement(c.f.Digest), signatures, c.f.Officers.Approvals)
	return err
}

var errNotYet = errors.New("the service's database is not there yet")

// openForLooking opens the service only if it was opened before: else that would make
// its database.
func (c *conductor) openForLooking(ctx context.Context) error {
	cfg, err := c.configuration()
	if errors.Is(err, fs.ErrNotExist) {
		return errNotYet
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(cfg.path(cfg.Data), "cardkms.db")); err != nil {
		return errNotYet
	}
	return c.open(ctx)
}

// readApprovals reads the officers' signatures that lie beside a file.
func readApprovals(file string) (approval.Signatures, error) {
	b, err := os.ReadFile(file + ".approvals")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	signatures, err := approval.ParseSignatures(b)
	if err != nil {
		return nil, fmt.Errorf("%s.approvals: %w", file, err)
	}
	return signatures, nil
}
