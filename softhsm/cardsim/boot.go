package cardsim

import (
	"bytes"
	"hash/crc32"
)

// trialBootsMax is the number of boots in which a new image may prove itself.
const trialBootsMax = 3

// boot is the immutable boot code: it runs an update that was committed on trial, and then starts the active image. A card
// whose journal, keys or active image are unreadable stays mute; the tests count that as a brick.
func (c *Card) boot() {
	j, ok := c.loadJournal()
	keys, keysOK := c.layout.keys.load(c.nvm)
	if !ok || !keysOK {
		c.ram.mute = true
		return
	}
	c.ram.keys = decodeKeyring(keys)
	c.hold(j)
	if j.needsPackage() && c.ram.held == nil {
		c.ram.mute = true
		return
	}
	if j.state == StatePending || j.state == StateTrial {
		j = c.trial(j)
	}
	c.ram.mute = !c.imageIntact(j.active, j.image)
}

// imageIntact reports whether the bank reads back as this image.
func (c *Card) imageIntact(bank int, want imageInfo) bool {
	if int64(want.size) > int64(c.cfg.BankBytes) {
		return false
	}
	return describe(c.nvm.read(c.layout.banks[bank], int(want.size))) == want
}

// trial uses one trial boot. The try is recorded before the image runs: an image that hangs, or a power cut, costs it. If
// the power goes at any point, the next boot comes here again with the tries that are left.
func (c *Card) trial(j journal) journal {
	if j.tries >= trialBootsMax {
		return c.revert(j, lastTriesUsed)
	}
	j.state = StateTrial
	j.tries++
	c.storeJournal(j)
	m := c.ram.held.manifest
	if !c.imageIntact(1-j.active, imageInfo{m.size, m.digest}) {
		return c.revert(j, lastImage)
	}
	switch c.selfTest(1-j.active, int(m.size)) {
	case testPassed:
		return c.confirm(j, m)
	case testFailed:
		return c.revert(j, lastSelfTest)
	}
	// The image hangs. After its last try the watchdog brings the boot code back, which gives it up; before that the card
	// serves the old functions until the next reset.
	if j.tries == trialBootsMax {
		return c.revert(j, lastTriesUsed)
	}
	return j
}

// confirm makes the new image the active one. Security counter and sequence number go up here and nowhere earlier, in the
// same journal write that changes the bank (CUP-1, rule C10).
func (c *Card) confirm(j journal, m manifest) journal {
	j.state, j.tries, j.lastError = StateConfirmed, 0, lastNone
	j.active = 1 - j.active
	j.counter, j.seq, j.version = m.counter, m.seq, m.target
	j.image = imageInfo{m.size, m.digest}
	c.storeJournal(j)
	return j
}

// revert keeps the old image. The sequence number goes up, so that the bad package cannot be opened again; the security
// counter does not.
func (c *Card) revert(j journal, reason byte) journal {
	if c.faults.noRevert {
		return c.confirm(j, c.ram.held.manifest)
	}
	j.state, j.tries, j.lastError = StateReverted, 0, reason
	j.seq = c.ram.held.manifest.seq
	c.storeJournal(j)
	return j
}

// testResult is what the self-test of an image came to.
type testResult byte

const (
	testPassed testResult = iota
	testFailed
	testHung
)

// selfTest stands for running the image: images that begin with FAIL or HANG do that.
func (c *Card) selfTest(bank, size int) testResult {
	image := c.nvm.read(c.layout.banks[bank], size)
	switch {
	case bytes.HasPrefix(image, []byte("FAIL")) && !c.faults.noSelfTest:
		return testFailed
	case bytes.HasPrefix(image, []byte("HANG")):
		return testHung
	}
	return testPassed
}

// stagedIntact is the check of COMMIT: size, CRC-32 and SHA-256 over what the memory reads back.
func (c *Card) stagedIntact(active int, m manifest) bool {
	image := c.nvm.read(c.layout.banks[1-active], int(m.size))
	return crc32.ChecksumIEEE(image) == m.crc && describe(image) == imageInfo{m.size, m.digest}
}
