package cardsim

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSweepBadImage cuts the power at every write of an update to an image that fails or hangs: the old image runs, the
// security counter stays, and a good package completes afterwards.
func TestSweepBadImage(t *testing.T) {
	for _, prefix := range []string{"FAIL", "HANG"} {
		for _, p := range profiles[:2] {
			t.Run(prefix+" "+p.name, func(t *testing.T) {
				m, err := newCampaign(sweepConfig(), p.page, p.chunk, p.size1, p.size2, faults{})
				if err != nil {
					t.Fatal(err)
				}
				copy(m.images[0], prefix)
				list, err := badImageCuts(m)
				if err != nil {
					t.Fatal(err)
				}
				n, err := parallel(len(list), func(i int) error { return list[i].verifyBadImage() })
				if err != nil {
					t.Fatal(err)
				}
				SweptCuts.Store(prefix+" "+p.name, n)
				t.Logf("%d power cuts", n)
			})
		}
	}
}

// badImageCuts lists the cuts of the first update and of the resets in which its image may prove itself.
func badImageCuts(m *campaign) ([]cutCase, error) {
	var steps []step
	for _, s := range m.steps() {
		if strings.HasPrefix(s.name, "update 1") {
			steps = append(steps, s)
		}
	}
	for range trialBootsMax - 1 {
		steps = append(steps, step{"update 1: one more reset", (*campaign).reset})
	}
	var list []cutCase
	for _, s := range steps {
		x := cutCase{before: m.twin(), step: s}
		start := m.u.card.nvm.Writes()
		if err := s.run(m); err != nil {
			return nil, fmt.Errorf("undisturbed: %s: %w", s.name, err)
		}
		for x.write = 1; x.write <= m.u.card.nvm.Writes()-start; x.write++ {
			for _, x.tear = range Tears {
				list = append(list, x)
			}
		}
	}
	return list, nil
}

func (x cutCase) verifyBadImage() error {
	m, err := x.disturb()
	if err != nil {
		return err
	}
	c := m.u.card
	for range 4 { // until the image has used its trial boots
		if err := m.reset(); err != nil {
			return fmt.Errorf("%v: %w", x, err)
		}
		st := c.Status()
		if st.Version != versionA || st.SecurityCounter != factoryCounter || st.State == StateConfirmed {
			return fmt.Errorf("%v: %+v", x, st)
		}
	}
	before := c.Status()
	if before.State == StatePending || before.State == StateTrial {
		return fmt.Errorf("%v: still on trial: %+v", x, before)
	}
	if err := SameTranscript(m.golden, GoldenTranscript(c)); err != nil {
		return fmt.Errorf("%v: %w", x, err)
	}
	if err := m.goodPackage(before.Seq + 1); err != nil {
		return fmt.Errorf("%v: good package: %w", x, err)
	}
	want := Status{State: StateConfirmed, Seq: before.Seq + 1, Version: versionB, SecurityCounter: factoryCounter + 1, ActiveBank: 1}
	if diff := cmp.Diff(want, c.Status()); diff != "" {
		return fmt.Errorf("%v: %s", x, diff)
	}
	return nil
}

// goodPackage brings the second image as version B.
func (m *campaign) goodPackage(seq uint32) error {
	if err := m.connect(); err != nil {
		return err
	}
	p := m.u.pack(m.images[1], seq, factoryCounter+1, versionA, versionB)
	objects := [][]byte{p.manifest.object}
	for i := 1; i <= p.manifest.chunks; i++ {
		objects = append(objects, p.sealChunk(m.images[1], i))
	}
	for _, object := range append(objects, p.sealCommit()) {
		if err := m.expect(m.u.store(object)); err != nil {
			return err
		}
	}
	return m.reset()
}
