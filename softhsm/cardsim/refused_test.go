package cardsim

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestManifestRefused: each manifest that is not for this card now is refused and changes nothing (CUP-1, rules C2 and C6).
func TestManifestRefused(t *testing.T) {
	image := testImage(1, 300)
	for _, v := range []struct {
		name  string
		dirty func(*manifest)
		want  word
	}{
		{"class", func(m *manifest) { m.class = make([]byte, 16) }, swData},
		{"card", func(m *manifest) { m.card = make([]byte, 10) }, swData},
		{"component", func(m *manifest) { m.component = []byte{1, 2, 3, 4, 5} }, swData},
		{"short component", func(m *manifest) { m.component = []byte{1, 2, 3, 4} }, swData},
		{"suite", func(m *manifest) { m.suite = 2 }, swData},
		{"key version", func(m *manifest) { m.key[0]++ }, swData},
		{"key id", func(m *manifest) { m.key[1]++ }, swData},
		{"chunk count", func(m *manifest) { m.chunks++ }, swData},
		{"chunk size 0", func(m *manifest) { m.chunkSize = 0 }, swData},
		{"size 0", func(m *manifest) { m.size, m.chunks = 0, 0 }, swData},
		{"too large", func(m *manifest) { m.size, m.chunks = 1025, 17 }, swFull},
		{"chunk size", func(m *manifest) { m.chunkSize, m.chunks = 16385, 1 }, swFull},
		{"stale context", func(m *manifest) { m.context[0] ^= 1 }, swConditions},
		{"longer context", func(m *manifest) { m.context = append(m.context, m.context...) }, swConditions},
		{"sequence 0", func(m *manifest) { m.seq = 0 }, swConditions},
		{"security counter", func(m *manifest) { m.counter = 2 }, swConditions},
		{"precursor", func(m *manifest) { m.precursor = versionB }, swConditions},
	} {
		t.Run(v.name, func(t *testing.T) {
			c := newTestCard(t, testConfig(), 0)
			c.PowerOn()
			u := newUpdater(c)
			u.dirty = v.dirty
			u.mustConnect(t)
			before, writes := c.Status(), c.nvm.Writes()
			u.mustStore(t, u.pack(image, 1, 4, versionA, versionB).manifest.object, v.want)
			if diff := cmp.Diff(before, c.Status()); diff != "" || c.nvm.Writes() != writes {
				t.Errorf("state changed: %s", diff)
			}
		})
	}
}

// TestAlteredBytes changes each byte of each object by each of two masks, and shortens and lengthens the object: nothing is
// accepted and nothing is written (CUP-1, rules C3 and C5).
func TestAlteredBytes(t *testing.T) {
	c := newTestCard(t, testConfig(), 0)
	c.PowerOn()
	u := newUpdater(c)
	image := testImage(1, 300)
	u.mustConnect(t)
	p := u.pack(image, 1, 4, versionA, versionB)
	refused := 0
	attack := func(object []byte) {
		t.Helper()
		try := func(what string, bad []byte) {
			t.Helper()
			writes := c.nvm.Writes()
			sw, err := u.store(bad)
			if err != nil || sw == swOK || c.nvm.Writes() != writes {
				t.Errorf("object %02X, %s: %04X %v", object[0], what, sw, err)
			}
			refused++
		}
		for i := range object {
			for _, mask := range []byte{0x01, 0x80, 0xFF} {
				bad := bytes.Clone(object)
				bad[i] ^= mask
				try(fmt.Sprintf("byte %d", i), bad)
			}
			if i > 0 {
				try(fmt.Sprintf("first %d bytes", i), object[:i])
			}
		}
		try("trailing byte", append(bytes.Clone(object), 0))
	}
	attack(p.manifest.object)
	u.mustStore(t, p.manifest.object, swOK)
	attack(p.sealChunk(image, 1))
	attack(p.sealChunk(image, 5)) // the short one
	for i := 1; i <= 5; i++ {
		u.mustStore(t, p.sealChunk(image, i), swOK)
	}
	attack(p.sealCommit())
	attack(p.sealAbort())
	u.mustStore(t, p.sealCommit(), swOK)
	t.Logf("%d altered objects refused", refused)
}

// TestOneCodeForChunks: MAC and padding errors look alike, and a MAC error is found before the index is looked at.
func TestOneCodeForChunks(t *testing.T) {
	c := newTestCard(t, testConfig(), 0)
	c.PowerOn()
	u := newUpdater(c)
	image := testImage(1, 300)
	p := u.start(t, image, 1, 4, versionA, versionB)
	good := p.sealChunk(image, 1)
	value, _, _ := readTLV(good, tagChunk)
	for i := 12; i < len(value); i++ { // behind the tags and lengths of 80 and 87
		if i >= len(value)-10 && i < len(value)-8 {
			continue // tag and length of 8E
		}
		bad := bytes.Clone(value)
		bad[i] ^= 0x01
		u.mustStore(t, appendTLV(nil, tagChunk, bad), swMAC)
	}
	noPadding := appendTLV(nil, 0x80, []byte{0, 0, 1})
	noPadding = appendTLV(noPadding, 0x87, append([]byte{1}, cbcEncrypt(p.kENC, counterBlock(1), make([]byte, 80))...))
	noPadding = appendTLV(noPadding, tagMAC, p.mac(tagChunk, noPadding)[:8])
	u.mustStore(t, appendTLV(nil, tagChunk, noPadding), swMAC)
	for _, i := range []int{0, 6, 0x10001} {
		u.mustStore(t, p.sealData(image[:64], i), swData)
	}
	u.mustStore(t, p.sealData(image[:63], 1), swData)
	u.mustStore(t, p.sealData(image[:64], 5), swData)
}

// TestReplay: objects of one session and package are worth nothing in another.
func TestReplay(t *testing.T) {
	c := newTestCard(t, testConfig(), 0)
	c.PowerOn()
	u := newUpdater(c)
	image := testImage(1, 300)
	u.mustConnect(t)
	stale := u.pack(image, 1, 4, versionA, versionB)
	u.mustConnect(t)
	u.mustStore(t, stale.manifest.object, swConditions)
	p := u.start(t, image, 1, 4, versionA, versionB)
	u.mustStore(t, stale.sealChunk(image, 1), swMAC)
	u.mustStore(t, stale.sealCommit(), swMAC)
	u.mustStore(t, stale.sealAbort(), swMAC)
	u.deliver(t, p, image)
	for _, object := range [][]byte{p.manifest.object, p.sealChunk(image, 1), p.sealCommit(), p.sealAbort()} {
		u.mustStore(t, object, swConditions) // pending
	}
	reset(t, c)
	u.mustConnect(t)
	for _, object := range [][]byte{p.manifest.object, p.sealChunk(image, 1), p.sealCommit(), p.sealAbort()} {
		u.mustStore(t, object, swConditions) // confirmed
	}
	// The same again, well made for this session, but not newer.
	u.mustStore(t, u.pack(image, 1, 4, versionB, versionC).manifest.object, swConditions)
	u.mustStore(t, u.pack(image, 2, 3, versionB, versionC).manifest.object, swConditions)
	u.mustStore(t, u.pack(image, 2, 4, versionB, versionC).manifest.object, swOK)
}
