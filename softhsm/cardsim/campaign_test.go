package cardsim

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
)

// campaign is two updates in a row, A to B to C, so that both banks are written and both journal records, marks and bank
// contents of the first are in the way of the second. One update alone does not find a card with a single journal record.
type campaign struct {
	u        *updater
	images   [2][]byte
	packages [2]*heldPackage // what the sender keeps: the package last opened
	rng      *rand.Rand
	golden   []Exchange
}

var campaignVersions = [3][8]byte{versionA, versionB, versionC}

const factoryCounter = 3 // SecurityCounter of testConfig; each update raises it by one

// sweepConfig is testConfig with one key set, which makes the golden transcript half as long.
func sweepConfig() Config {
	cfg := testConfig()
	cfg.KeySets = cfg.KeySets[:1]
	cfg.BankBytes = 1024
	return cfg
}

func newCampaign(cfg Config, pageBytes, chunkSize, size1, size2 int, f faults) (*campaign, error) {
	c, err := New(cfg, NewNVM(pageBytes))
	if err != nil {
		return nil, err
	}
	c.faults = f
	if c.PowerOn() == nil {
		return nil, errors.New("blank card is mute")
	}
	u := newUpdater(c)
	u.chunkSize = chunkSize
	m := &campaign{u: u, rng: rand.New(rand.NewSource(7)), images: [2][]byte{testImage(1, size1), testImage(2, size2)}}
	m.golden = GoldenTranscript(c)
	return m, nil
}

// twin is an independent copy at the same point, session included. Packages and transcript do not change once made.
func (m *campaign) twin() *campaign {
	old := m.u.card
	c := &Card{cfg: old.cfg, layout: old.layout, nvm: old.nvm.Clone(), ram: old.ram, faults: old.faults}
	if s := old.ram.session; s != nil {
		copied := *s
		c.ram.session = &copied
	}
	u := *m.u
	u.card = c
	if u.session != nil {
		copied := *u.session
		u.session = &copied
	}
	t := *m
	t.u, t.rng = &u, rand.New(rand.NewSource(int64(c.nvm.Writes())))
	return &t
}

// step is one action of the sender. It fails with ErrTorn when the power was cut, and otherwise unless the card did what an
// undisturbed card does.
type step struct {
	name string
	run  func(*campaign) error
}

// steps is the undisturbed course.
func (m *campaign) steps() []step {
	var list []step
	add := func(name string, k int, run func(*campaign) error) {
		list = append(list, step{fmt.Sprintf("update %d: %s", k+1, name), run})
	}
	for k := range m.images {
		add("authenticate", k, (*campaign).connect)
		add("OPEN", k, func(m *campaign) error { return m.open(k) })
		for i := 1; i <= (len(m.images[k])+m.u.chunkSize-1)/m.u.chunkSize; i++ {
			add(fmt.Sprintf("chunk %d", i), k, func(m *campaign) error { return m.chunk(k, i) })
		}
		add("COMMIT", k, func(m *campaign) error { return m.expect(m.u.store(m.packages[k].sealCommit())) })
		add("reset", k, (*campaign).reset)
	}
	return list
}

func (m *campaign) expect(sw word, err error) error {
	if err == nil && sw != swOK {
		err = fmt.Errorf("status word %04X", sw)
	}
	return err
}

func (m *campaign) connect() error {
	challenge := make([]byte, m.u.card.cfg.macLen())
	m.rng.Read(challenge)
	return m.expect(m.u.authenticate(challenge, m.u.level))
}

func (m *campaign) open(k int) error {
	counter := uint32(factoryCounter + 1 + k)
	m.packages[k] = m.u.pack(m.images[k], uint32(1+k), counter, campaignVersions[k], campaignVersions[k+1])
	return m.expect(m.u.store(m.packages[k].manifest.object))
}

func (m *campaign) chunk(k, i int) error {
	return m.expect(m.u.store(m.packages[k].sealChunk(m.images[k], i)))
}

// reset switches off and on. A card that is off afterwards was torn in its boot code; one that is mute is a brick.
func (m *campaign) reset() error {
	c := m.u.card
	c.PowerOff()
	if c.PowerOn() != nil {
		return nil
	}
	if c.ram.mute {
		return errors.New("brick: card is mute")
	}
	return ErrTorn
}

// check holds the card against what must be true after every disturbance: it boots the old or the new image, counter and
// sequence number belong to that image before and after the boot, and its ordinary functions answer as ever.
func (m *campaign) check(lowest, highest int) error {
	c := m.u.card
	if err := m.checkJournal(lowest, highest); err != nil {
		return fmt.Errorf("before the reset: %w", err)
	}
	if err := m.reset(); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	if err := m.checkJournal(lowest, highest); err != nil {
		return err
	}
	st := c.Status()
	if k := versionIndex(st.Version); k > 0 && !bytes.Equal(c.nvm.read(c.layout.banks[st.ActiveBank], len(m.images[k-1])), m.images[k-1]) {
		return errors.New("active image differs")
	}
	return SameTranscript(m.golden, GoldenTranscript(c))
}

func (m *campaign) checkJournal(lowest, highest int) error {
	st := m.u.card.Status()
	k := versionIndex(st.Version)
	switch {
	case k < lowest || k > highest:
		return fmt.Errorf("version %X runs", st.Version)
	case st.SecurityCounter != uint32(factoryCounter+k) || st.Seq != uint32(k):
		return fmt.Errorf("version %X with counter %d, sequence %d", st.Version, st.SecurityCounter, st.Seq)
	}
	return nil
}

// versionIndex is 0 for the factory image, 1 and 2 for the updates, -1 for none of them.
func versionIndex(v [8]byte) int {
	for i, known := range campaignVersions {
		if v == known {
			return i
		}
	}
	return -1
}

// finish completes both updates from wherever the card is, asking it with STATUS as a sender does. It begins again after
// a power cut. Any status word but 9000 is a failure: nothing that a power cut leaves may look like a fault of the sender.
func (m *campaign) finish() error {
	for range 20 {
		done, err := m.advance()
		switch {
		case errors.Is(err, ErrTorn), errors.Is(err, ErrOff):
			if err := m.reset(); err != nil && !errors.Is(err, ErrTorn) {
				return err
			}
		case err != nil:
			return err
		case done:
			return m.check(2, 2)
		}
	}
	return errors.New("update does not come to an end")
}

// advance brings the card one update further.
func (m *campaign) advance() (done bool, err error) {
	if err := m.connect(); err != nil {
		return false, fmt.Errorf("authentication: %w", err)
	}
	status, sw, err := m.u.query(tagStatus)
	if err := m.expect(sw, err); err != nil {
		return false, fmt.Errorf("STATUS: %w", err)
	}
	st := m.u.card.Status()
	if want := appendTLV(nil, 0x92, []byte{byte(st.State)}); !bytes.Contains(status, want) {
		return false, fmt.Errorf("status %X in state %d", status, st.State)
	}
	k := versionIndex(st.Version)
	if k == 2 {
		return true, m.checkReceipt()
	}
	if st.State != StatePending && st.State != StateTrial {
		if err := m.download(k, st); err != nil {
			return false, err
		}
	}
	return false, m.reset()
}

// download sends what is missing of update k.
func (m *campaign) download(k int, st Status) error {
	missing := st.Missing
	if st.State != StateStaging {
		if err := m.open(k); err != nil {
			return fmt.Errorf("OPEN: %w", err)
		}
		missing = m.u.card.Status().Missing
	} else if m.u.suite == suiteChannel { // a new channel must present the manifest again
		if err := m.expect(m.u.store(m.packages[k].manifest.object)); err != nil {
			return fmt.Errorf("OPEN again: %w", err)
		}
	}
	for _, i := range missing {
		if err := m.chunk(k, i); err != nil {
			return fmt.Errorf("chunk %d: %w", i, err)
		}
	}
	if err := m.expect(m.u.store(m.packages[k].sealCommit())); err != nil {
		return fmt.Errorf("COMMIT: %w", err)
	}
	return nil
}

func (m *campaign) checkReceipt() error {
	receipt, sw, err := m.u.query(tagReceipt)
	if err := m.expect(sw, err); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	b := appendTLV(nil, 0x92, []byte{byte(StateConfirmed)})
	b = appendTLV(b, 0x87, versionC[:])
	b = appendTLV(b, 0x88, number4(factoryCounter+2))
	if !bytes.Equal(receipt, m.packages[1].seal(tagReceipt, b)) {
		return fmt.Errorf("receipt %X", receipt)
	}
	return nil
}
