package cardsim

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestUpdate goes through a whole update on each kind of memory, in each mode and suite, and holds the transcript of the
// ordinary functions against the first one at each stage.
func TestUpdate(t *testing.T) {
	for _, v := range []struct {
		name  string
		i     byte
		page  int
		suite byte
		q     Quirks
	}{
		{"S8", 0x70, 0, suiteAES, Quirks{}},
		{"S16", 0x71, 0, suiteAES, Quirks{}},
		{"random challenge", 0x60, 0, suiteAES, Quirks{}},
		{"flash", 0x70, 64, suiteAES, Quirks{}},
		{"no R-ENCRYPTION", 0x30, 0, suiteAES, Quirks{}},
		{"no R-MAC", 0x10, 0, suiteAES, Quirks{}},
		{"suite 00", 0x70, 0, suiteChannel, Quirks{}},
		{"suite 00 S16 flash", 0x71, 32, suiteChannel, Quirks{}},
		{"quirks", 0x70, 0, suiteAES, Quirks{EmptyCommandPadded: true, OverPadRENC: true}},
		{"counter quirk", 0x70, 0, suiteAES, Quirks{CounterSkipsEmpty: true}},
	} {
		t.Run(v.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.I, cfg.Quirks = v.i, v.q
			c := newTestCard(t, cfg, v.page)
			c.PowerOn()
			before := GoldenTranscript(c)
			same := func(stage string) {
				t.Helper()
				now := GoldenTranscript(c)
				if err := SameTranscript(before, now); err != nil {
					t.Errorf("%s: %v", stage, err)
				}
				before = now
			}
			same("untouched")
			u := newUpdater(c)
			u.suite = v.suite
			image := testImage(1, 300)
			p := u.start(t, image, 1, 4, versionA, versionB)
			same("opened")
			u.mustConnect(t)
			u.mustStore(t, p.manifest.object, swOK)
			for i := p.manifest.chunks; i > 2; i-- {
				u.mustStore(t, p.sealChunk(image, i), swOK)
			}
			checkStatus(t, u, p, StateStaging, []byte{0xC0}, versionA, 3)
			same("staging")
			u.mustConnect(t)
			u.mustStore(t, p.manifest.object, swOK)
			u.deliver(t, p, image)
			checkStatus(t, u, p, StatePending, nil, versionA, 3)
			reset(t, c)
			u.mustConnect(t)
			checkStatus(t, u, p, StateConfirmed, nil, versionB, 4)
			receipt, sw, err := u.query(tagReceipt)
			want := p.seal(tagReceipt, unhex(t, "920105 8708 0101000000000000 8804 00000004"))
			if err != nil || sw != swOK || !bytes.Equal(receipt, want) {
				t.Errorf("receipt %X %04X %v, want %X", receipt, sw, err, want)
			}
			same("updated")
		})
	}
}

// checkStatus compares the status object with what the package's state should be.
func checkStatus(t *testing.T, u *updater, p *heldPackage, st State, bitmap []byte, version [8]byte, counter uint32) {
	t.Helper()
	seq := uint32(0)
	if st == StateConfirmed {
		seq = p.manifest.seq
	}
	b := appendTLV(nil, 0x92, []byte{byte(st)})
	b = appendTLV(b, 0x82, number4(seq))
	b = appendTLV(b, 0x93, bitmap)
	b = appendTLV(b, 0x87, version[:])
	b = appendTLV(b, 0x88, number4(counter))
	want := p.seal(tagStatus, appendTLV(b, 0x94, []byte{0}))
	got, sw, err := u.query(tagStatus)
	if err != nil || sw != swOK || !bytes.Equal(got, want) {
		t.Errorf("status %X %04X %v, want %X", got, sw, err, want)
	}
}

// TestStatusWithoutPackage: no 8E, because there is no key.
func TestStatusWithoutPackage(t *testing.T) {
	c := newTestCard(t, testConfig(), 0)
	c.PowerOn()
	u := newUpdater(c)
	u.mustConnect(t)
	got, _, _ := u.query(tagStatus)
	if want := unhex(t, "E51E 920100 820400000000 9300 87080100000000000000 880400000003 940100"); !bytes.Equal(got, want) {
		t.Errorf("status %X, want %X", got, want)
	}
	if _, sw, _ := u.query(tagReceipt); sw != swConditions {
		t.Errorf("receipt without update: %04X", sw)
	}
}

// TestAccess: no update command works below the level it needs (CUP-1, rule C1).
func TestAccess(t *testing.T) {
	c := newTestCard(t, testConfig(), 0)
	c.PowerOn()
	u := newUpdater(c)
	image := testImage(1, 300)
	p := u.start(t, image, 1, 4, versionA, versionB)
	objects := map[string][]byte{"OPEN": p.manifest.object, "chunk": p.sealChunk(image, 1), "COMMIT": p.sealCommit(), "ABORT": p.sealAbort()}
	for _, level := range []byte{0xFF, 0x00, 0x01, 0x03, 0x11, 0x13} {
		for name, object := range objects {
			if reset(t, c); level != 0xFF {
				u.level = level
				u.mustConnect(t)
			} else {
				u.session = nil
			}
			if sw, err := u.store(object); err != nil || sw != swSecurity {
				t.Errorf("%s at level %02X: %04X %v", name, level, sw, err)
			}
		}
		for _, tag := range []byte{tagStatus, tagReceipt} {
			if _, sw, err := u.query(tag); err != nil || sw != swSecurity {
				t.Errorf("GET DATA %02X at level %02X: %04X %v", tag, level, sw, err)
			}
		}
	}
	c.cfg.ChunkLevelMin = 0x01
	for _, level := range []byte{0x01, 0x03, 0x11, 0x33} {
		u.level = level
		u.mustConnect(t)
		u.mustStore(t, p.sealChunk(image, 2), swOK)
	}
	u.session = nil
	u.mustStore(t, p.sealChunk(image, 3), swSecurity)
}

// TestReplaceStaged: a new valid manifest takes the place of the staged one, and marks do not pass to it.
func TestReplaceStaged(t *testing.T) {
	c := newTestCard(t, testConfig(), 0)
	c.PowerOn()
	u := newUpdater(c)
	image := testImage(1, 300)
	p := u.start(t, image, 1, 4, versionA, versionB)
	u.mustStore(t, p.sealChunk(image, 1), swOK)
	u.mustStore(t, p.manifest.object, swOK)
	if diff := cmp.Diff([]int{2, 3, 4, 5}, c.Status().Missing); diff != "" {
		t.Errorf("same manifest again: %s", diff)
	}
	next := u.start(t, image, 1, 4, versionA, versionB)
	if diff := cmp.Diff([]int{1, 2, 3, 4, 5}, c.Status().Missing); diff != "" {
		t.Errorf("new manifest: %s", diff)
	}
	u.mustStore(t, p.sealChunk(image, 1), swMAC)
	u.mustStore(t, next.sealAbort(), swOK)
	if got := c.Status(); got.State != StateIdle || got.Seq != 0 {
		t.Errorf("after abort: %+v", got)
	}
	u.mustStore(t, next.sealChunk(image, 1), swConditions)
}

// TestEarlyCommit: COMMIT needs every chunk and an image that reads back right (CUP-1, rule C8).
func TestEarlyCommit(t *testing.T) {
	c := newTestCard(t, testConfig(), 0)
	c.PowerOn()
	u := newUpdater(c)
	image := testImage(1, 300)
	p := u.start(t, image, 1, 4, versionA, versionB)
	for i := 1; i <= 5; i++ {
		u.mustStore(t, p.sealCommit(), swConditions)
		u.mustStore(t, p.sealChunk(image, i), swOK)
	}
	c.nvm.data[c.StagingAddr()+100] ^= 0x10
	u.mustStore(t, p.sealCommit(), swMemory)
	if got := c.Status(); got.State != StateStaging || len(got.Missing) != 5 {
		t.Errorf("after a commit that found a bad image: %+v", got)
	}
	u.deliver(t, p, image)
}

// TestStuckBit: a chunk that does not read back is not marked (CUP-1, rule C4).
func TestStuckBit(t *testing.T) {
	for _, page := range []int{0, 64} {
		c := newTestCard(t, testConfig(), page)
		c.PowerOn()
		u := newUpdater(c)
		image := testImage(1, 300)
		p := u.start(t, image, 1, 4, versionA, versionB)
		c.nvm.StickBit(c.StagingAddr()+70, 3, image[70]&8 == 0)
		u.mustStore(t, p.sealChunk(image, 1), swOK)
		u.mustStore(t, p.sealChunk(image, 2), swMemory)
		u.mustStore(t, p.sealChunk(image, 2), swMemory)
		if diff := cmp.Diff([]int{2, 3, 4, 5}, c.Status().Missing); diff != "" {
			t.Error(diff)
		}
		c.nvm.ClearFaults()
		u.deliver(t, p, image)
	}
}

// TestBadImage: an image that fails its self-test or hangs is reverted; only the sequence number goes up (CUP-1, rule C9).
func TestBadImage(t *testing.T) {
	for _, v := range []struct {
		prefix string
		boots  int
		last   byte
	}{{"FAIL", 1, lastSelfTest}, {"HANG", 3, lastTriesUsed}} {
		t.Run(v.prefix, func(t *testing.T) {
			c := newTestCard(t, testConfig(), 0)
			c.PowerOn()
			before := GoldenTranscript(c)
			u := newUpdater(c)
			image := testImage(1, 300)
			copy(image, v.prefix)
			p := u.start(t, image, 9, 4, versionA, versionB)
			u.deliver(t, p, image)
			for i := 1; i <= v.boots; i++ {
				reset(t, c)
				if st := c.Status(); i < v.boots && (st.State != StateTrial || st.TrialBoots != i || st.Seq != 0) {
					t.Errorf("boot %d: %+v", i, st)
				}
			}
			want := Status{State: StateReverted, Seq: 9, Version: versionA, SecurityCounter: 3, LastError: v.last}
			if diff := cmp.Diff(want, c.Status()); diff != "" {
				t.Error(diff)
			}
			if err := SameTranscript(before, GoldenTranscript(c)); err != nil {
				t.Error(err)
			}
			u.mustConnect(t)
			if status, sw, _ := u.query(tagStatus); sw != swOK || !bytes.Contains(status, []byte{tagMAC, 0x10}) {
				t.Errorf("status after revert %X %04X", status, sw)
			}
			u.mustStore(t, u.pack(image, 9, 4, versionA, versionB).manifest.object, swConditions)
			good := testImage(2, 200)
			p = u.pack(good, 10, 4, versionA, versionB)
			u.mustStore(t, p.manifest.object, swOK)
			u.deliver(t, p, good)
			reset(t, c)
			if st := c.Status(); st.State != StateConfirmed || st.SecurityCounter != 4 || st.Version != versionB {
				t.Errorf("after a good package: %+v", st)
			}
		})
	}
}

// TestImageLostBeforeBoot: an image that decays between COMMIT and reset is not started.
func TestImageLostBeforeBoot(t *testing.T) {
	c := newTestCard(t, testConfig(), 0)
	c.PowerOn()
	u := newUpdater(c)
	image := testImage(1, 300)
	u.deliver(t, u.start(t, image, 1, 4, versionA, versionB), image)
	c.nvm.data[c.StagingAddr()+9] ^= 1
	reset(t, c)
	if st := c.Status(); st.State != StateReverted || st.LastError != lastImage || st.Version != versionA {
		t.Errorf("%+v", st)
	}
}

// TestSuiteChannelBinding: chunks of suite 00 need a session that has presented the manifest.
func TestSuiteChannelBinding(t *testing.T) {
	cfg := testConfig()
	cfg.ChunkLevelMin = 0x01
	c := newTestCard(t, cfg, 0)
	c.PowerOn()
	u := newUpdater(c)
	u.suite = suiteChannel
	image := testImage(1, 300)
	p := u.start(t, image, 1, 4, versionA, versionB)
	u.mustStore(t, p.sealChunk(image, 1), swOK)
	u.mustConnect(t)
	u.mustStore(t, p.sealChunk(image, 2), swConditions)
	u.mustStore(t, p.sealCommit(), swConditions)
	u.mustStore(t, p.manifest.object, swOK)
	u.mustStore(t, p.sealChunk(image, 2), swOK)
	bad := p.sealChunk(image, 3)
	bad[len(bad)-1] ^= 1
	u.mustStore(t, bad, swMemory)
	u.level = 0x01
	u.mustConnect(t)
	u.mustStore(t, p.sealChunk(image, 3), swSecurity) // ChunkLevelMin does not lower suite 00
	u.level = 0x33
	u.mustConnect(t)
	u.mustStore(t, p.manifest.object, swOK)
	u.deliver(t, p, image)
}

// TestChain: block numbers count from 00, and no other command may come between.
func TestChain(t *testing.T) {
	c := newTestCard(t, testConfig(), 0)
	c.PowerOn()
	u := newUpdater(c)
	u.mustConnect(t)
	object := u.pack(testImage(1, 300), 1, 4, versionA, versionB).manifest.object
	block := func(p1, p2 byte, data []byte, want word) {
		t.Helper()
		if _, sw, err := u.send(command{cla: 0x80, ins: insStoreData, p1: p1, p2: p2, data: data}); err != nil || sw != want {
			t.Errorf("P1 %02X P2 %02X: %04X %v, want %04X", p1, p2, sw, err, want)
		}
	}
	block(storeMore, 1, object[:10], swParameters)
	block(0x90, 0, object, swParameters)
	block(storeMore, 0, nil, swLength)
	block(storeMore, 0, object[:10], swOK)
	block(storeMore, 2, object[10:], swParameters)
	block(storeMore, 0, object[:10], swOK)
	u.query(tagStatus)
	block(storeLast, 1, object[10:], swParameters)
	for i := range 256 {
		want := swOK
		if i == 255 {
			want = swFull
		}
		block(storeMore, byte(i), []byte{tagChunk}, want)
	}
	block(storeLast, 0, []byte(strings.Repeat("?", 20)), swData)
	block(storeMore, 0, object[:10], swOK)
	block(storeLast, 1, object[10:], swOK)
	block(storeLast, 0, []byte{tagReceipt, 0}, swData)
}

// TestExtended sends each object in one command with extended length, a chunk of 1024 bytes among them.
func TestExtended(t *testing.T) {
	cfg := testConfig()
	cfg.Extended, cfg.BankBytes = true, 4096
	c := newTestCard(t, cfg, 512)
	c.PowerOn()
	u := newUpdater(c)
	u.chunkSize = 1024
	image := testImage(1, 3000)
	u.mustConnect(t)
	p := u.pack(image, 1, 4, versionA, versionB)
	objects := [][]byte{p.manifest.object, p.sealChunk(image, 1), p.sealChunk(image, 2), p.sealChunk(image, 3), p.sealCommit()}
	for _, object := range objects {
		cmd := command{cla: 0x80, ins: insStoreData, p1: storeLast, data: object, le: 0x10000, extended: true}
		if _, sw, err := u.send(cmd); err != nil || sw != swOK {
			t.Fatalf("object %02X: %04X %v", object[0], sw, err)
		}
	}
	reset(t, c)
	if st := c.Status(); st.State != StateConfirmed {
		t.Errorf("%+v", st)
	}
}

// TestFlashChunks: in flash, chunks that share a page are refused, because writing one could lose another.
func TestFlashChunks(t *testing.T) {
	c := newTestCard(t, testConfig(), 128)
	c.PowerOn()
	u := newUpdater(c)
	u.mustConnect(t)
	u.mustStore(t, u.pack(testImage(1, 300), 1, 4, versionA, versionB).manifest.object, swData)
	u.chunkSize = 300
	u.mustStore(t, u.pack(testImage(1, 300), 1, 4, versionA, versionB).manifest.object, swOK)
}
