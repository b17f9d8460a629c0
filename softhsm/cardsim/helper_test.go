package cardsim

import (
	"bytes"
	"crypto/sha256"
	"hash/crc32"
	"math/rand"
	"testing"
)

var (
	versionA = [8]byte{1, 0, 0, 0, 0, 0, 0, 0}
	versionB = [8]byte{1, 1, 0, 0, 0, 0, 0, 0}
	versionC = [8]byte{1, 2, 0, 0, 0, 0, 0, 0}
)

// testConfig is a card with everything: i = 70, two key sets, a small bank.
func testConfig() Config {
	key := func(first byte) []byte {
		b := make([]byte, 16)
		for i := range b {
			b[i] = first + byte(i)
		}
		return b
	}
	return Config{
		KDD:             [10]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
		ISD:             []byte{0xA0, 0, 0, 1, 0x51, 0, 0, 0},
		KeySets:         []KeySet{{0x30, key(0x00), key(0x10), key(0x20)}, {0x31, key(0x50), key(0x60), key(0x70)}},
		I:               0x70,
		UpdateKey:       UpdateKey{KVN: 0x5A, ID: 0x01, Value: key(0x40)},
		ClassID:         [16]byte{0xC3, 0xF0},
		Component:       []byte{0xA0, 0, 0, 1, 0x51, 0, 0, 0},
		Version:         versionA,
		SecurityCounter: 3,
		BankBytes:       1024,
	}
}

func newTestCard(t testing.TB, cfg Config, pageBytes int) *Card {
	t.Helper()
	c, err := New(cfg, NewNVM(pageBytes))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testImage is an image that passes its self-test and has no two equal chunks.
func testImage(seed int64, size int) []byte {
	b := make([]byte, size)
	rand.New(rand.NewSource(seed)).Read(b)
	copy(b, "GOOD")
	return b
}

// updater is the sender's half of CUP-1, small and without anything a server needs.
type updater struct {
	host
	suite     byte
	level     byte
	chunkSize int
	dirty     func(*manifest) // changes the manifest before it is signed
}

func newUpdater(c *Card) *updater {
	return &updater{
		host:  host{card: c, set: c.cfg.KeySets[0], quirks: c.cfg.Quirks},
		suite: suiteAES, level: c.cfg.updateLevel(), chunkSize: 64,
	}
}

// connect opens a session with a new host challenge.
func (u *updater) connect() (word, error) {
	challenge := make([]byte, u.card.cfg.macLen())
	rand.Read(challenge)
	return u.authenticate(challenge, u.level)
}

// pack makes the package of one image for the present session.
func (u *updater) pack(image []byte, seq, counter uint32, from, to [8]byte) *heldPackage {
	cfg := u.card.cfg
	m := manifest{
		suite: u.suite, seq: seq, class: cfg.ClassID[:], card: cfg.KDD[:], component: cfg.Component,
		precursor: from, target: to, counter: counter, size: uint32(len(image)), digest: sha256.Sum256(image),
		crc: crc32.ChecksumIEEE(image), chunkSize: u.chunkSize, chunks: (len(image) + u.chunkSize - 1) / u.chunkSize,
		context: bytes.Clone(u.session.context),
	}
	if u.suite == suiteAES {
		m.key = [2]byte{u.card.ram.keys.update.KVN, u.card.ram.keys.update.ID}
	}
	if u.dirty != nil {
		u.dirty(&m)
	}
	return u.sealManifest(m)
}

// sealManifest signs a manifest and derives the keys of its package.
func (u *updater) sealManifest(m manifest) *heldPackage {
	p := u.card.packageOf(m)
	if m.suite == suiteAES {
		p.manifest.mac = cmac(p.kMAC, m.encodeSigned())
	}
	p.manifest.object = p.manifest.encode()
	return p
}

// sealChunk makes the E3 object of chunk i.
func (p *heldPackage) sealChunk(image []byte, i int) []byte {
	at := (i - 1) * p.manifest.chunkSize
	data := image[at:min(at+p.manifest.chunkSize, len(image))]
	return p.sealData(data, i)
}

func (p *heldPackage) sealData(data []byte, i int) []byte {
	content := append(bytes.Clone(data), number4(crc32.ChecksumIEEE(data))...)
	body := appendTLV(nil, 0x80, []byte{byte(i >> 16), byte(i >> 8), byte(i)})
	if p.manifest.suite == suiteChannel {
		return appendTLV(nil, tagChunk, appendTLV(body, 0x81, content))
	}
	c := cbcEncrypt(p.kENC, counterBlock(uint64(i)), pad(content))
	body = appendTLV(body, 0x87, append([]byte{0x01}, c...))
	body = appendTLV(body, tagMAC, p.mac(tagChunk, body)[:chunkMACBytes])
	return appendTLV(nil, tagChunk, body)
}

// seal makes a commit or abort object.
func (p *heldPackage) seal(tag byte, content []byte) []byte {
	b := appendTLV(nil, tag, content)
	if p.manifest.suite == suiteAES {
		b = appendTLV(b, tagMAC, p.mac(tag, content))
	}
	return b
}

func (p *heldPackage) sealCommit() []byte {
	b := appendTLV(nil, 0x82, number4(p.manifest.seq))
	b = appendTLV(b, 0x88, number4(p.manifest.counter))
	return p.seal(tagCommit, appendTLV(b, 0x8A, p.manifest.digest[:]))
}

func (p *heldPackage) sealAbort() []byte {
	return p.seal(tagAbort, appendTLV(nil, 0x82, number4(p.manifest.seq)))
}

// store sends one object as a STORE DATA chain of short commands.
func (u *updater) store(object []byte) (word, error) {
	const room = 223 // S16, level 33
	for block := 0; ; block++ {
		part := object[:min(room, len(object))]
		object = object[len(part):]
		cmd := command{cla: 0x80, ins: insStoreData, p1: storeMore, p2: byte(block), data: part, le: 256}
		if len(object) == 0 {
			cmd.p1 = storeLast
		}
		if _, sw, err := u.send(cmd); err != nil || sw != swOK || len(object) == 0 {
			return sw, err
		}
	}
}

// query reads status or receipt.
func (u *updater) query(tag byte) ([]byte, word, error) {
	return u.send(command{cla: 0x80, ins: insGetData, p2: tag, le: 256})
}

// mustStore fails the test unless the card answers as wanted.
func (u *updater) mustStore(t testing.TB, object []byte, want word) {
	t.Helper()
	sw, err := u.store(object)
	if err != nil || sw != want {
		t.Fatalf("object %02X: %04X %v, want %04X", object[0], sw, err, want)
	}
}

func (u *updater) mustConnect(t testing.TB) {
	t.Helper()
	if sw, err := u.connect(); err != nil || sw != swOK {
		t.Fatalf("authentication: %04X %v", sw, err)
	}
}

// start opens a session and a package.
func (u *updater) start(t testing.TB, image []byte, seq, counter uint32, from, to [8]byte) *heldPackage {
	t.Helper()
	u.mustConnect(t)
	p := u.pack(image, seq, counter, from, to)
	u.mustStore(t, p.manifest.object, swOK)
	return p
}

// deliver sends all chunks and the commit.
func (u *updater) deliver(t testing.TB, p *heldPackage, image []byte) {
	t.Helper()
	for i := 1; i <= p.manifest.chunks; i++ {
		u.mustStore(t, p.sealChunk(image, i), swOK)
	}
	u.mustStore(t, p.sealCommit(), swOK)
}

// reset switches the card off and on.
func reset(t testing.TB, c *Card) {
	t.Helper()
	c.PowerOff()
	if c.PowerOn() == nil {
		t.Fatal("card is mute")
	}
}
