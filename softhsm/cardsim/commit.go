package cardsim

import "bytes"

// commit ends the download: with all chunks marked and an image that reads back right, one journal write makes the package
// wait for the reset (CUP-1, rule C8).
func (c *Card) commit(object []byte, j journal, s *session) word {
	if j.state != StateStaging {
		return swConditions
	}
	held := c.ram.held
	m := held.manifest
	if m.suite == suiteChannel && !s.opened {
		return swConditions
	}
	content, sw := held.signed(object, tagCommit)
	if sw != swOK {
		return sw
	}
	want := appendTLV(nil, 0x82, number4(m.seq))
	want = appendTLV(want, 0x88, number4(m.counter))
	want = appendTLV(want, 0x8A, m.digest[:])
	switch {
	case !bytes.Equal(content, want):
		return swData
	case len(c.missing(m)) > 0 && !c.faults.noCommitCheck:
		return swConditions
	case !c.stagedIntact(j.active, m) && !c.faults.noCommitCheck:
		// The marks promise more than the memory holds. Without marks the sender can send everything again.
		c.nvm.blank(c.layout.marks, m.chunks)
		return swMemory
	}
	j.state, j.tries = StatePending, 0
	if c.faults.counterAtCommit {
		j.counter = m.counter
	}
	c.storeJournal(j)
	return swOK
}

// abort drops a package that is being staged.
func (c *Card) abort(object []byte, j journal) word {
	if j.state != StateStaging {
		return swConditions
	}
	content, sw := c.ram.held.signed(object, tagAbort)
	if sw != swOK {
		return sw
	}
	if !bytes.Equal(content, appendTLV(nil, 0x82, number4(c.ram.held.manifest.seq))) {
		return swData
	}
	c.forget(&j)
	return swOK
}

// signed returns the content of a commit or abort object whose MAC is right.
func (p *heldPackage) signed(object []byte, tag byte) ([]byte, word) {
	content, mac, err := splitSigned(object, tag, p.manifest.suite)
	if err != nil {
		return nil, swData
	}
	if p.manifest.suite == suiteAES && !equal(p.mac(tag, content), mac) {
		return nil, swMAC
	}
	return content, swOK
}

// missing returns the indexes, from 1, of the chunks that are not marked.
func (c *Card) missing(m manifest) []int {
	var list []int
	for i, v := range c.nvm.read(c.layout.marks, m.chunks) {
		if v != marked {
			list = append(list, i+1)
		}
	}
	return list
}
