package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cardkms/audit/durable"
	"cardkms/kms"
	"cardkms/kms/ceremony"
)

var errEnded = errors.New("this ceremony ended, and what it made is not there any more; what is wanted now needs a new file")

// end logs the record, signs it and destroys what the ceremony needed. If the process
// dies in between, the next run ends the ceremony once more.
func (c *conductor) end(ctx context.Context) error {
	record := c.path + ".record"
	if _, err := os.Stat(record); err == nil && c.ended {
		c.say("The ceremony ended before; its record is %s.", record)
		return c.cleanUp(ctx)
	}
	if err := c.complete(ctx); err != nil {
		return err
	}
	text, err := c.record.Text()
	if err != nil {
		return err
	}
	crashAt("before end")
	signed, err := c.node.service.EndCeremony(ctx, c.by, c.f.Hex(), text)
	if err != nil {
		return err
	}
	crashAt("ended")
	if err := durable.Replace(record, signed, 0o644); err != nil {
		return err
	}
	crashAt("after end")
	c.say("Done. The record is %s, signed by the log's key.", record)
	return c.cleanUp(ctx)
}

// complete puts into the record who signed, and the steps that the log has: who took
// them, and when, is the database's word; what they made is what this run saw.
func (c *conductor) complete(ctx context.Context) error {
	kept, err := c.node.service.Ceremony(ctx, c.f.Hex())
	if err != nil {
		return err
	}
	c.record.Officers = kept.Officers
	for _, p := range c.parted() {
		for i := range p.value.Components {
			if _, ok := kept.Steps[componentStep(p, i)]; ok {
				c.add(kept, componentStep(p, i), seen{facts: componentFacts(p, i)})
			}
		}
	}
	for _, s := range c.nodeSteps() {
		c.add(kept, s.name, c.now[s.name])
	}
	slices.SortStableFunc(c.record.Steps, func(a, b ceremony.Step) int { return a.At.Compare(b.At) })
	return nil
}

func (c *conductor) add(kept kms.Ceremony, name string, saw seen) {
	s := ceremony.Step{Step: name, By: c.by, At: time.Now().UTC().Round(time.Second), Found: true, Facts: saw.facts}
	if d, ok := kept.Steps[name]; ok {
		s.By, s.At, s.Found = d.By, d.At, false
	}
	c.record.Steps = append(c.record.Steps, s)
}

func (c *conductor) cleanUp(ctx context.Context) error {
	if c.hasComponents() {
		if err := c.node.token.DestroyExchange(ctx, c.f.PairLabel()); err != nil {
			return fmt.Errorf("destroying the pair for components: %w", err)
		}
	}
	return c.removeKept()
}

// removeKept removes what runs kept beside the file.
func (c *conductor) removeKept() error {
	err := os.Remove(c.journal())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(os.RemoveAll(c.kept.Dir), err)
}

func ceremonyAbandonCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "abandon FILE",
		Short: "Give a ceremony up: remove the components that were kept for it, and its journal",
		Long: `Give up a ceremony that began, for good: destroy the key pairs that its components are
encrypted to, and remove the components and the journal beside FILE, also those of
earlier versions of FILE. The log tells of it, if there is one. What the ceremony
made already stays: keys, officers, the token. A file that was abandoned does not run
again; change it, and have it signed again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := newConductor(cmd, args[0])
			if err != nil {
				return err
			}
			defer c.close()
			c.say("%s\n  file %s, SHA-256 %s\nThis will remove the components that were entered for it; their custodians would have to come again.", c.f.Title, c.path, c.f.Hex())
			if !yes {
				if err := c.people.confirm("abandon"); err != nil {
					return err
				}
			}
			return c.abandon(cmd.Context())
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// abandon gives up this version of the file, and those whose components are kept. Without
// a service there is no log yet, and no pair.
func (c *conductor) abandon(ctx context.Context) error {
	digests, err := c.kept.Ceremonies()
	if err != nil {
		return err
	}
	if !slices.Contains(digests, c.f.Hex()) {
		digests = append(digests, c.f.Hex())
	}
	err = c.openForLooking(ctx)
	if err != nil && !errors.Is(err, errNotYet) {
		return err
	}
	for _, digest := range digests {
		if c.node == nil {
			break
		}
		err := c.node.service.AbandonCeremony(ctx, c.by, digest, func(ctx context.Context) error {
			return c.node.token.DestroyExchange(ctx, ceremony.PairLabel(digest))
		})
		if err != nil {
			return fmt.Errorf("abandoning the version with SHA-256 %s: %w", digest, err)
		}
		crashAt("abandoned")
	}
	c.say("Abandoned. Nothing of it is kept any more.")
	return c.removeKept()
}
