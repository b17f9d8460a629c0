package cardsim

// Status is the state of the update as the card's status object tells it, and what tests want to know besides.
type Status struct {
	State           State
	Seq             uint32 // highest sequence number confirmed or judged bad
	Missing         []int  // chunks not received, from 1; only while staging
	Version         [8]byte
	SecurityCounter uint32
	LastError       byte
	ActiveBank      int
	TrialBoots      int
}

// Status reads the state from memory, past the secure channel; it works also while the card is off.
func (c *Card) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	j, _ := c.loadJournal()
	st := Status{
		State: j.state, Seq: j.seq, Version: j.version, SecurityCounter: j.counter,
		LastError: j.lastError, ActiveBank: j.active, TrialBoots: int(j.tries),
	}
	if m, err := parseManifest(j.object); err == nil && j.state == StateStaging {
		st.Missing = c.missing(m)
	}
	return st
}

// status answers GET DATA 00E5: E5 L {92 state | 82 seq | 93 bitmap of missing chunks | 87 version | 88 counter | 94 last
// error}, with 8E when a package of suite 01 is held.
func (c *Card) status(s *session) ([]byte, word) {
	if !s.reaches(c.cfg.managementLevel()) {
		return nil, swSecurity
	}
	j, ok := c.loadJournal()
	if !ok {
		return nil, swMemory
	}
	b := appendTLV(nil, 0x92, []byte{byte(j.state)})
	b = appendTLV(b, 0x82, number4(j.seq))
	b = appendTLV(b, 0x93, c.bitmap(j))
	b = appendTLV(b, 0x87, j.version[:])
	b = appendTLV(b, 0x88, number4(j.counter))
	b = appendTLV(b, 0x94, []byte{j.lastError})
	return c.report(tagStatus, b), swOK
}

// receipt answers GET DATA 00E6 after a confirmation: E6 L {92 05 | 87 version | 88 counter}.
func (c *Card) receipt(s *session) ([]byte, word) {
	if !s.reaches(c.cfg.managementLevel()) {
		return nil, swSecurity
	}
	j, ok := c.loadJournal()
	if !ok || j.state != StateConfirmed {
		return nil, swConditions
	}
	b := appendTLV(nil, 0x92, []byte{byte(j.state)})
	b = appendTLV(b, 0x87, j.version[:])
	b = appendTLV(b, 0x88, number4(j.counter))
	return c.report(tagReceipt, b), swOK
}

// report wraps content in its tag and proves it under the key of the package, if one with keys is held.
func (c *Card) report(tag byte, content []byte) []byte {
	b := appendTLV(nil, tag, content)
	if p := c.ram.held; p != nil && p.manifest.suite == suiteAES {
		b = appendTLV(b, tagMAC, p.mac(tag, content))
	}
	return b
}

// bitmap has one bit per chunk, the highest bit of the first byte for chunk 1; 1 = missing. It is empty when no package is
// being staged.
func (c *Card) bitmap(j journal) []byte {
	if j.state != StateStaging || c.ram.held == nil {
		return nil
	}
	m := c.ram.held.manifest
	b := make([]byte, (m.chunks+7)/8)
	for _, i := range c.missing(m) {
		b[(i-1)/8] |= 0x80 >> ((i - 1) % 8)
	}
	return b
}
