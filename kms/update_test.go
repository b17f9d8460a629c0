package kms_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"cardkms/kms"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/store"
	"cardkms/kms/update"
	"cardkms/softhsm/cardsim"
	"cardkms/softhsm/testtoken"
)

// TestTwoUpdatesInARow runs two whole updates for each kind of card and token:
// what a profile says and what the card does must fit, both ways.
func TestTwoUpdatesInARow(t *testing.T) {
	type kind struct {
		host func(*harness)
		card func(*cardsim.Config)
	}
	none := func(*cardsim.Config) {}
	for name, k := range map[string]kind{
		"suite 01":                 {func(*harness) {}, none},
		"suite 00":                 {func(h *harness) { h.profile.Suite = update.Plain }, none},
		"extended":                 {func(h *harness) { h.profile.Extended = true }, func(c *cardsim.Config) { c.Extended = true }},
		"S16":                      {func(h *harness) { h.profile.I = 0x71 }, func(c *cardsim.Config) { c.I = 0x71 }},
		"no counter":               {func(h *harness) { h.profile.AID, h.profile.I = nil, 0x60 }, func(c *cardsim.Config) { c.I = 0x60 }},
		"level 13":                 {func(h *harness) { h.profile.Level, h.profile.I = 0x13, 0x30 }, func(c *cardsim.Config) { c.I = 0x30 }},
		"padded empty commands":    {func(h *harness) { h.profile.PadEmpty = true }, func(c *cardsim.Config) { c.Quirks.EmptyCommandPadded = true }},
		"uncounted empty commands": {func(h *harness) { h.profile.SkipEmpty = true }, func(c *cardsim.Config) { c.Quirks.CounterSkipsEmpty = true }},
		"over-padded responses":    {func(*harness) {}, func(c *cardsim.Config) { c.Quirks.OverPadRENC = true }},
		"NSS softokn":              {func(h *harness) { h.token = testtoken.NSS(h.t) }, none},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, k.host)
			card := h.card(1, k.card)
			before := cardsim.GoldenTranscript(card)
			for n := byte(1); n <= 2; n++ {
				image := fmt.Sprintf("cos-%d", n)
				h.image(image, n, random(3000))
				p, err := h.download(card, image)
				h.must(err)
				done, err := h.confirm(card, p.ID)
				h.must(err)
				if done.State != kms.PackageConfirmed || card.Status().Version != [8]byte{n + 1} {
					t.Fatalf("package %s, card runs %v", done.State, card.Status().Version)
				}
			}
			h.must(cardsim.SameTranscript(before, cardsim.GoldenTranscript(card)))
		})
	}
}

// TestProfileThatDoesNotFit shows that the options above matter.
func TestProfileThatDoesNotFit(t *testing.T) {
	h := newHarness(t)
	h.image("cos", 1, random(300))
	for name, card := range map[string]*cardsim.Card{
		"padded":    h.card(1, func(c *cardsim.Config) { c.Quirks.EmptyCommandPadded = true }),
		"uncounted": h.card(2, func(c *cardsim.Config) { c.Quirks.CounterSkipsEmpty = true }),
	} {
		if _, err := h.download(card, "cos"); err == nil {
			t.Errorf("%s: a card that does otherwise was updated", name)
		}
	}
}

// TestPowerCuts cuts the power at writes spread over the whole update, and the
// service finishes the job, now and then as a new process. softhsm/cardsim cuts at
// every write of two updates; here the service is the real one, and CARDKMS_LONG=1
// has it cut at every write too.
func TestPowerCuts(t *testing.T) {
	h := newHarness(t)
	h.image("cos", 1, random(2000))
	writes := h.countWrites()
	step := max(1, writes/24)
	if os.Getenv("CARDKMS_LONG") == "1" {
		step = 1
	}
	cuts := 0
	for at := 1; at <= writes; at += step {
		card := h.cardOf([10]byte{7: byte(cuts >> 8), 8: byte(cuts), 9: 10})
		before := cardsim.GoldenTranscript(card)
		card.NVM().CutAt(at, cardsim.Tears[cuts%len(cardsim.Tears)])
		for try := 0; ; try++ {
			if try > 3 {
				t.Fatalf("cut at write %d: the update does not end", at)
			}
			err := h.updateOnce(card)
			if err == nil {
				break
			}
			if !torn(err) {
				t.Fatalf("cut at write %d, try %d: %v", at, try, err)
			}
			card.PowerOff()
			card.PowerOn()
			if try == 0 && cuts%6 == 0 {
				h.restart()
			}
		}
		if v := card.Status().Version; v != [8]byte{2} {
			t.Errorf("cut at write %d: the card runs %v", at, v)
		}
		card.NVM().ClearFaults() // the last cut may lie behind the end of this run
		if err := cardsim.SameTranscript(before, cardsim.GoldenTranscript(card)); err != nil {
			t.Fatalf("cut at write %d: %v", at, err)
		}
		cuts++
	}
	t.Logf("%d cuts over %d writes of one update", cuts, writes)
}

func (h *harness) countWrites() int {
	card := h.card(9)
	start := card.NVM().Writes()
	h.must(h.updateOnce(card))
	return card.NVM().Writes() - start
}

// updateOnce does what is left of an update, wherever the card stands.
func (h *harness) updateOnce(card *cardsim.Card) error {
	if s := card.Status().State; s == cardsim.StatePending || s == cardsim.StateTrial {
		card.PowerOff()
		card.PowerOn()
	}
	if card.Status().State != cardsim.StateConfirmed {
		if _, err := h.download(card, "cos"); err != nil {
			return err
		}
	}
	p, err := h.newest(card)
	if err != nil {
		return err
	}
	_, err = h.confirm(card, p)
	return err
}

// newest returns the id of the newest package of a card.
func (h *harness) newest(card *cardsim.Card) (string, error) {
	_, answer, err := h.connect(card)
	if err != nil {
		return "", err
	}
	c, err := h.service.Card(h.ctx, h.req(), h.issuer, apdu.Hex(answer[:10]))
	return c.Package, err
}

func TestResumeSendsOnlyWhatIsMissing(t *testing.T) {
	h := newHarness(t)
	card := h.card(1)
	h.image("cos", 1, random(5000))
	id, err := h.authenticate(card)
	h.must(err)
	p, err := h.create(card, id, "cos")
	h.must(err)
	in := kms.PackageScriptInput{Issuer: h.issuer, Channel: id, Package: p.ID, Step: kms.StepOpen}
	h.must(h.step(card, in))
	in.Step, in.Chunks = kms.StepChunks, []int{1, 2, 4}
	h.must(h.step(card, in))
	card.PowerOff()
	card.PowerOn()
	h.restart()
	id, err = h.authenticate(card)
	h.must(err)
	again, err := h.create(card, id, "cos")
	h.must(err)
	if !again.Resumed || again.ID != p.ID || !bytes.Equal(again.Encoded(), p.Encoded()) || !slices.Equal(again.Missing, []int{3, 5, 6, 7, 8, 9, 10}) {
		t.Errorf("resumed %v, package %s of %s, missing %v", again.Resumed, again.ID, p.ID, again.Missing)
	}
}

func TestRefusedUpdates(t *testing.T) {
	h := newHarness(t)
	h.image("one-two", 1, random(700))
	h.image("two-three", 2, random(700))
	card := h.card(1)
	id, err := h.authenticate(card)
	h.must(err)

	_, err = h.create(card, id, "two-three")
	h.want("an image for another version", err, fault.VersionMismatch)
	_, err = h.create(card, id, "none")
	h.want("an unknown image", err, fault.NotFound)

	id, err = h.authenticate(card)
	h.must(err)
	first, err := h.create(card, id, "one-two")
	h.must(err)
	_, err = h.create(card, id, "one-two")
	h.want("a second package of one channel", err, fault.Conflict)

	// The script of one card's package does not go through another card's channel.
	other := h.card(2)
	id2, err := h.authenticate(other)
	h.must(err)
	_, err = h.service.PackageScript(h.ctx, h.req(), kms.PackageScriptInput{Issuer: h.issuer, Channel: id2, Package: first.ID, Step: kms.StepOpen})
	h.want("another card's package", err, fault.Conflict)

	for what, in := range map[string]kms.PackageScriptInput{
		"no such step":   {Step: "jump"},
		"no chunks":      {Step: kms.StepChunks},
		"chunk 0":        {Step: kms.StepChunks, Chunks: []int{0}},
		"chunk past end": {Step: kms.StepChunks, Chunks: []int{3}},
		"too many":       {Step: kms.StepChunks, Chunks: make([]int, kms.ChunksPerScript+1)},
	} {
		in.Issuer, in.Channel, in.Package = h.issuer, id, first.ID
		_, err := h.service.PackageScript(h.ctx, h.req(), in)
		h.want(what, err, fault.InvalidInput)
	}
}

func TestDowngrade(t *testing.T) {
	h := newHarness(t)
	content := random(300)
	m := meta(1, content)
	m.Counter = 4
	_, err := h.service.RegisterImage(h.ctx, h.req(), kms.RegisterImageInput{
		Issuer: h.issuer, Name: "old", Meta: m, ReleaseKey: "release", Signature: ed25519.Sign(h.release, m.Statement()),
	})
	h.must(err)
	_, err = h.service.UploadImage(h.ctx, h.req(), h.issuer, "old", bytes.NewReader(content))
	h.must(err)
	card := h.card(1, func(c *cardsim.Config) { c.SecurityCounter = 5 })
	id, err := h.authenticate(card)
	h.must(err)
	_, err = h.create(card, id, "old")
	h.want("a lower security counter", err, fault.Downgrade)
}

func TestImages(t *testing.T) {
	h := newHarness(t)
	content := random(200_000)
	m := meta(1, content)
	good := ed25519.Sign(h.release, m.Statement())
	register := func(name string, m update.Image, by string, sig []byte) error {
		_, err := h.service.RegisterImage(h.ctx, h.req(), kms.RegisterImageInput{Issuer: h.issuer, Name: name, Meta: m, ReleaseKey: by, Signature: sig})
		return err
	}
	bad := bytes.Clone(good)
	bad[0] ^= 1
	h.want("a wrong signature", register("cos", m, "release", bad), fault.ImageUnverified)
	h.want("no signature", register("cos", m, "release", nil), fault.ImageUnverified)
	h.want("an unknown release key", register("cos", m, "other", good), fault.ImageUnverified)
	h.want("a name that is none", register("Cos", m, "release", good), fault.InvalidInput)
	changed := m
	changed.Counter++
	h.want("another counter", register("cos", changed, "release", good), fault.ImageUnverified)
	h.must(register("cos", m, "release", good))
	h.must(register("cos", m, "release", good)) // the same again changes nothing
	h.want("another image of the name", register("cos", changed, "release", ed25519.Sign(h.release, changed.Statement())), fault.Conflict)

	upload := func(r io.Reader) error {
		_, err := h.service.UploadImage(h.ctx, h.req(), h.issuer, "cos", r)
		return err
	}
	flipped := bytes.Clone(content)
	flipped[150_000] ^= 1
	h.want("a flipped bit", upload(bytes.NewReader(flipped)), fault.ImageUnverified)
	h.want("a byte less", upload(bytes.NewReader(content[1:])), fault.ImageUnverified)
	h.want("a byte more", upload(bytes.NewReader(append(bytes.Clone(content), 0))), fault.ImageUnverified)
	h.want("broken off", upload(io.MultiReader(bytes.NewReader(content[:70_000]), iotest.ErrReader(errors.New("reset")))), fault.InvalidInput)
	h.must(upload(bytes.NewReader(content)))
	h.want("uploaded twice", upload(bytes.NewReader(content)), fault.Conflict)

	// A block that the database changed is not sealed for a card.
	h.must(h.db.Update(h.ctx, func(tx store.Tx) error {
		return tx.PutBlock(h.issuer+"/cos", 1, flipped[store.BlockBytesMax:2*store.BlockBytesMax])
	}))
	h.must(h.db.Update(h.ctx, func(tx store.Tx) error { return tx.PutBlock(h.issuer+"/cos", 2, make([]byte, 10)) }))
	card := h.card(1, func(c *cardsim.Config) { c.BankBytes = 1 << 18 })
	id, err := h.authenticate(card)
	h.must(err)
	p, err := h.create(card, id, "cos")
	h.must(err)
	_, err = h.service.PackageScript(h.ctx, h.req(), kms.PackageScriptInput{
		Issuer: h.issuer, Channel: id, Package: p.ID, Step: kms.StepChunks, Chunks: []int{2*store.BlockBytesMax/512 + 1},
	})
	h.want("a changed block", err, fault.ImageUnverified)
}

// TestStreamingMemory shows that a stream of chunks needs the same memory for 16
// MiB as for 1 MiB.
func TestStreamingMemory(t *testing.T) {
	h := newHarness(t, func(h *harness) { h.profile.ChunkSize = 4096 })
	peak := func(name string, size int) uint64 {
		h.image(name, 1, random(size))
		card := h.card(byte(size>>20), func(c *cardsim.Config) { c.BankBytes = size })
		id, err := h.authenticate(card)
		h.must(err)
		p, err := h.create(card, id, name)
		h.must(err)
		w := &heapWatch{}
		h.must(h.service.StreamChunks(h.ctx, h.req(), h.issuer, p.ID, 1, w))
		if w.bytes < int64(size) {
			t.Errorf("%d bytes streamed for an image of %d", w.bytes, size)
		}
		return w.peak
	}
	small, large := peak("small", 1<<20), peak("large", 16<<20)
	t.Logf("peak of the live heap: %d KiB at 1 MiB, %d KiB at 16 MiB", small>>10, large>>10)
	if large > small+4<<20 {
		t.Errorf("the live heap grows with the image: %d and %d bytes", small, large)
	}
}

// heapWatch measures the live heap now and then while it throws data away.
type heapWatch struct {
	bytes, next int64
	peak        uint64
}

func (w *heapWatch) Write(p []byte) (int, error) {
	w.bytes += int64(len(p))
	if w.bytes >= w.next {
		w.next += 1 << 20
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		w.peak = max(w.peak, m.HeapAlloc)
	}
	return len(p), nil
}
