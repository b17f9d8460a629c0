package cardsim

import (
	"errors"
	"fmt"
	"testing"
)

// TestMutants builds one defect at a time into the card and expects the named check to fail: a harness counts only after it
// has caught what it is for. Each check passes on the sound card (TestSweep, and the first loop here).
func TestMutants(t *testing.T) {
	sweepBytes := func(f faults) error { _, err := sweep(profiles[0], f); return err }
	sweepPages := func(f faults) error { _, err := sweep(profiles[1], f); return err }
	checks := map[string]func(faults) error{
		"stuck bit": checkStuckBit, "refusals": checkRefusals, "bad image": checkBadImage, "decay": checkDecay,
		"PIN under power cuts": checkPIN,
	}
	for name, check := range checks {
		if err := check(faults{}); err != nil {
			t.Errorf("%s fails on the sound card: %v", name, err)
		}
	}
	checks["sweep, bytes"], checks["sweep, pages"] = sweepBytes, sweepPages
	for _, v := range []struct {
		name    string
		f       faults
		caughts []string
	}{
		{"mark before data", faults{markBeforeData: true}, []string{"sweep, bytes", "sweep, pages"}},
		{"marks not cleared", faults{noMarkClear: true}, []string{"sweep, bytes", "sweep, pages"}},
		{"state before marks are cleared", faults{stateBeforeClear: true}, []string{"sweep, bytes", "sweep, pages"}},
		{"one journal record", faults{singleSlot: true}, []string{"sweep, bytes", "sweep, pages"}},
		{"no journal CRC", faults{noJournalCRC: true}, []string{"sweep, bytes", "sweep, pages"}},
		{"active bank written", faults{writeActiveBank: true}, []string{"sweep, bytes", "sweep, pages"}},
		{"counter raised at COMMIT", faults{counterAtCommit: true}, []string{"sweep, bytes", "sweep, pages", "bad image"}},
		{"no read-back", faults{noReadBack: true}, []string{"stuck bit"}},
		{"no context check", faults{noContextCheck: true}, []string{"refusals"}},
		{"no sequence check", faults{noSequenceCheck: true}, []string{"refusals"}},
		{"no security counter check", faults{noCounterCheck: true}, []string{"refusals"}},
		{"COMMIT without check", faults{noCommitCheck: true}, []string{"decay"}},
		{"no self-test", faults{noSelfTest: true}, []string{"bad image"}},
		{"no revert", faults{noRevert: true}, []string{"bad image"}},
		{"PIN try counted after the comparison", faults{pinAfterCompare: true}, []string{"PIN under power cuts"}},
	} {
		for _, by := range v.caughts {
			t.Run(v.name+"/"+by, func(t *testing.T) {
				err := checks[by](v.f)
				if err == nil {
					t.Fatal("not caught")
				}
				t.Log(err)
			})
		}
	}
}

// faultyUpdate makes a card with a defect and opens update 1 on it.
func faultyUpdate(f faults) (*campaign, error) {
	m, err := newCampaign(sweepConfig(), 0, 64, 150, 200, f)
	if err == nil {
		err = m.connect()
	}
	if err == nil {
		err = m.open(0)
	}
	return m, err
}

func checkStuckBit(f faults) error {
	m, err := faultyUpdate(f)
	if err != nil {
		return err
	}
	c := m.u.card
	c.nvm.StickBit(c.StagingAddr()+70, 3, m.images[0][70]&8 == 0)
	if sw, err := m.u.store(m.packages[0].sealChunk(m.images[0], 2)); err != nil || sw != swMemory || len(c.Status().Missing) != 3 {
		return fmt.Errorf("chunk over a stuck bit: %04X %v", sw, err)
	}
	return nil
}

// checkRefusals: manifests that are stale, replayed or older are refused.
func checkRefusals(f faults) error {
	m, err := newCampaign(sweepConfig(), 0, 64, 150, 200, f)
	if err != nil {
		return err
	}
	for _, s := range m.steps()[:7] {
		if err := s.run(m); err != nil {
			return err
		}
	}
	if err := m.connect(); err != nil {
		return err
	}
	stale := m.u.pack(m.images[1], 2, 5, versionB, versionC)
	if err := m.connect(); err != nil {
		return err
	}
	refuse := func(what string, p *heldPackage) error {
		if sw, err := m.u.store(p.manifest.object); err != nil || sw != swConditions {
			return fmt.Errorf("%s: %04X %v", what, sw, err)
		}
		return nil
	}
	return errors.Join(
		refuse("manifest of another session", stale),
		refuse("old sequence number", m.u.pack(m.images[1], 1, 5, versionB, versionC)),
		refuse("lower security counter", m.u.pack(m.images[1], 2, 3, versionB, versionC)),
	)
}

func checkBadImage(f faults) error {
	m, err := newCampaign(sweepConfig(), 0, 64, 150, 200, f)
	if err != nil {
		return err
	}
	copy(m.images[0], "FAIL")
	for _, s := range m.steps()[:7] {
		if err := s.run(m); err != nil {
			return err
		}
	}
	if st := m.u.card.Status(); st.State != StateReverted || st.Version != versionA || st.SecurityCounter != factoryCounter {
		return fmt.Errorf("bad image: %+v", st)
	}
	return nil
}

// checkDecay: COMMIT refuses an image that does not read back.
func checkDecay(f faults) error {
	m, err := faultyUpdate(f)
	if err != nil {
		return err
	}
	for i := 1; i <= m.packages[0].manifest.chunks; i++ {
		if err := m.chunk(0, i); err != nil {
			return err
		}
	}
	m.u.card.nvm.data[m.u.card.StagingAddr()+5] ^= 4
	if sw, err := m.u.store(m.packages[0].sealCommit()); err != nil || sw != swMemory {
		return fmt.Errorf("COMMIT of a decayed image: %04X %v", sw, err)
	}
	return nil
}

// checkPIN: a try is taken before the PIN is compared. Then a power cut somewhere in a VERIFY with the right PIN leaves one
// try fewer; where the comparison comes first, an attacker who cuts the power at the write that betrays a wrong guess has
// guesses without end.
func checkPIN(f faults) error {
	for write := 1; ; write++ {
		c, err := New(sweepConfig(), nil)
		if err != nil {
			return err
		}
		c.faults = f
		c.PowerOn()
		c.nvm.CutAt(write, TearDone)
		_, err = c.Transmit([]byte{0x00, insVerify, 0x00, 0x80, 0x04, '1', '2', '3', '4'})
		switch {
		case err == nil:
			return errors.New("no try was taken before the comparison")
		case c.loadByte(c.layout.pin) == pinTries-1:
			return nil
		}
	}
}
