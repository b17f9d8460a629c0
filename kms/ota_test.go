package kms_test

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/derive/scp80"
	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

var (
	otaMaster = unhex("000102030405060708090A0B0C0D0E0F")
	iccid     = unhex("89882110000004672850")
)

// otaSIM is the card's side under the keys that its key set was made with, over plain
// values.
type otaSIM struct {
	kic, kid cipher.Block
	tar      [3]byte
}

// loadOTA makes key set 1 for AES and key set 2 for 3DES, and the card that has them.
func (h *harness) loadOTA() (aes, tdea otaSIM) {
	h.t.Helper()
	h.load("ota", key.OTA, key.AES128, 1, otaMaster)
	_, err := h.service.LoadKey(h.ctx, "test", kms.NewKey{
		Issuer: h.issuer, Name: "ota", Usage: key.OTA, Algorithm: key.TDEA2, CardAlgorithm: key.TDEA2, Diversification: diversify.VISA2, KVN: 2,
	}, known{h.token, otaMaster})
	h.must(err)
	return h.otaSIM(diversify.KDF3, key.AES128), h.otaSIM(diversify.VISA2, key.TDEA2)
}

func (h *harness) otaSIM(m diversify.Method, a key.Algorithm) otaSIM {
	h.t.Helper()
	var tok derivetest.Token
	block := func(p diversify.Purpose) cipher.Block {
		k, err := diversify.Card(m, tok.Add("ota", a, derive.Static, otaMaster), iccid, diversify.Target{Purpose: p, Class: derive.Static, Algorithm: a})
		h.must(err)
		return derivetest.Cipher(a, tok.Value(k))
	}
	return otaSIM{kic: block(diversify.ENC), kid: block(diversify.MAC), tar: [3]byte{0xB0, 0x00, 0x11}}
}

func (c otaSIM) cc(message []byte) []byte {
	if c.kid.BlockSize() == 16 {
		return derivetest.CMAC(c.kid, message, 1)[:8]
	}
	padded := append(bytes.Clone(message), make([]byte, (8-len(message)%8)%8)...)
	cipher.NewCBCEncrypter(c.kid, make([]byte, 8)).CryptBlocks(padded, padded)
	return padded[len(padded)-8:]
}

// receive unpacks a ciphered packet with a CC.
func (c otaSIM) receive(packet []byte) (counter uint64, data []byte, intact bool) {
	body := bytes.Clone(packet[10:])
	cipher.NewCBCDecrypter(c.kic, make([]byte, c.kic.BlockSize())).CryptBlocks(body, body)
	covered := bytes.Join([][]byte{packet[:10], body[:6], body[14:]}, nil)
	return binary.BigEndian.Uint64(append(make([]byte, 3), body[:5]...)), body[14 : len(body)-int(body[5])], bytes.Equal(body[6:14], c.cc(covered))
}

// answer packs a response with a CC that is not ciphered.
func (c otaSIM) answer(counter uint64, status byte, data []byte) []byte {
	head := append(binary.BigEndian.AppendUint16(nil, uint16(4+7+8+len(data))), 18)
	head = append(head, c.tar[:]...)
	counted := append(binary.BigEndian.AppendUint64(nil, counter)[3:], 0, status)
	cc := c.cc(bytes.Join([][]byte{{0x02, 0x71, 0x00}, head, counted, data}, nil))
	return bytes.Join([][]byte{head, counted, cc, data}, nil)
}

func (h *harness) otaInput(kvn byte) kms.OTAPacketInput {
	return kms.OTAPacketInput{
		OTACard: kms.OTACard{Issuer: h.issuer, Key: "ota", KVN: kvn, KDD: iccid},
		SPI:     scp80.SPI{0x16, 0x09}, TAR: [3]byte{0xB0, 0x00, 0x11}, Data: unhex("00A40004023F00"),
	}
}

func (h *harness) packet(in kms.OTAPacketInput) kms.OTAPacket {
	h.t.Helper()
	out, err := h.service.SecureOTAPacket(h.ctx, h.req(), in)
	h.must(err)
	return out
}

func (h *harness) verifyOTA(in kms.OTAPacketInput, counter uint64, response []byte) (kms.OTAResponse, error) {
	return h.service.VerifyOTAResponse(h.ctx, h.req(), kms.OTAResponseInput{OTACard: in.OTACard, Counter: counter, Response: response})
}

// TestOTA sends packets to a card with keys of the token, AES and 3DES, and believes
// its responses once.
func TestOTA(t *testing.T) {
	h := newHarness(t)
	aes, tdea := h.loadOTA()
	for kvn, card := range map[byte]otaSIM{1: aes, 2: tdea} {
		in := h.otaInput(kvn)
		for want := uint64(1); want <= 3; want++ {
			out := h.packet(in)
			n, data, intact := card.receive(out.Packet)
			if n != want || out.Counter != want || !bytes.Equal(data, in.Data) || !intact {
				t.Fatalf("key set %d: the card gets %d %X %t, want counter %d", kvn, n, data, intact, want)
			}
			got, err := h.verifyOTA(in, want, card.answer(n, 0, unhex("016132")))
			if err != nil || got.Status != scp80.StatusOK || !bytes.Equal(got.Data, unhex("016132")) {
				t.Fatalf("key set %d: %+v, %v", kvn, got, err)
			}
		}
		_, err := h.verifyOTA(in, 3, card.answer(3, 0, unhex("016132")))
		h.want("the same response again", err, fault.CardCounter)
	}
	e := h.lastEntry()
	if e.Operation != "ota.verify" || e.Card == "" || e.Detail["ota_counter"] != "0000000003" {
		t.Errorf("%+v", e)
	}
	entries, err := h.ledger.Leaves(h.ctx, 0, 1000)
	h.must(err)
	for _, e := range entries {
		if strings.Contains(strings.ToUpper(string(e)), fmt.Sprintf("%X", iccid)) {
			t.Errorf("an entry names the card:\n%s", e)
		}
	}
}

// TestOTACounterNeverGoesBack: not by a restart, not for another application, and each
// key set and card has its own.
func TestOTACounterNeverGoesBack(t *testing.T) {
	h := newHarness(t)
	h.loadOTA()
	in := h.otaInput(1)
	h.packet(in)
	h.restart()
	in.TAR[0]++
	if out := h.packet(in); out.Counter != 2 {
		t.Errorf("counter %d after a restart", out.Counter)
	}
	other := in
	other.KDD = bytes.Repeat([]byte{1}, 10)
	if a, b := h.packet(other).Counter, h.packet(h.otaInput(2)).Counter; a != 1 || b != 1 {
		t.Errorf("another card begins with %d, another key set with %d", a, b)
	}
	// Of packets that are asked for at one time each has a counter of its own.
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			out, err := h.service.SecureOTAPacket(h.ctx, h.req(), in)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && seen[out.Counter] || err != nil && fault.CodeOf(err) != fault.Conflict {
				t.Errorf("counter %d, %v", out.Counter, err)
			}
			seen[out.Counter] = err == nil
		})
	}
	all.Wait()
}

// TestOTAPacketAgain: a packet whose answer was lost is given again under its Idempotency-Key,
// from a process that knows the database alone, and its counter serves no other one.
func TestOTAPacketAgain(t *testing.T) {
	h := newHarness(t)
	h.loadOTA()
	r := h.req()
	r.Idempotency = "lost"
	in := h.otaInput(1)
	first, err := h.service.SecureOTAPacket(h.ctx, r, in)
	h.must(err)
	for range 2 {
		h.restart()
		again, err := h.service.SecureOTAPacket(h.ctx, r, in)
		if err != nil || again.Counter != first.Counter || !bytes.Equal(again.Packet, first.Packet) {
			t.Fatalf("%+v, %v, want %+v", again, err, first)
		}
		if e := h.lastEntry(); e.Detail["again"] != "true" {
			t.Errorf("%+v", e.Detail)
		}
	}
	other := in
	other.Data = []byte("another command")
	_, err = h.service.SecureOTAPacket(h.ctx, r, other)
	h.want("another command under the key", err, fault.IdempotencyMismatch)
	anybody := r
	anybody.Caller.ID += "x"
	next, err := h.service.SecureOTAPacket(h.ctx, anybody, in)
	h.must(err)
	if next.Counter != first.Counter+1 {
		t.Errorf("the key of another caller: counter %d", next.Counter)
	}
	later, err := h.service.SecureOTAPacket(h.ctx, r, in)
	h.must(err)
	if later.Counter != next.Counter+1 {
		t.Errorf("after another packet: counter %d", later.Counter)
	}
	_, err = h.service.ImportCards(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "ota", []kms.ImportedCard{{KDD: [10]byte(iccid), KVN: 1, Counter: 90}})
	h.must(err)
	imported, err := h.service.SecureOTAPacket(h.ctx, r, in)
	h.must(err)
	if imported.Counter != 91 {
		t.Errorf("after an import: counter %d", imported.Counter)
	}
}

// TestOTAImport: a card that another system served goes on behind its counter, which an
// import raises and never takes back.
func TestOTAImport(t *testing.T) {
	h := newHarness(t)
	card, _ := h.loadOTA()
	in := h.otaInput(1)
	add := func(kvn byte, counter uint64) (int64, error) {
		return h.service.ImportCards(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "ota", []kms.ImportedCard{{KDD: [10]byte(iccid), KVN: kvn, Counter: counter}})
	}
	for _, c := range []struct{ imported, added, next uint64 }{{41, 1, 42}, {41, 0, 43}, {7, 0, 44}, {1 << 33, 1, 1<<33 + 1}} {
		if added, err := add(1, c.imported); err != nil || uint64(added) != c.added {
			t.Errorf("counter %d: added %d, %v", c.imported, added, err)
		}
		out := h.packet(in)
		if n, _, intact := card.receive(out.Packet); n != c.next || out.Counter != c.next || !intact {
			t.Errorf("after the import of %d the card gets %d, want %d", c.imported, n, c.next)
		}
	}
	_, err := add(1, scp80.CounterMax+1)
	h.want("a counter of six bytes", err, fault.InvalidInput)
	_, err = add(9, 1)
	h.want("a key set of no version", err, fault.InvalidInput)
	_, err = h.service.ImportCards(h.ctx, h.as(kms.SecurityOfficer), h.issuer, "isd", []kms.ImportedCard{{KDD: [10]byte{1}, KVN: kvn, Counter: 1 << 24}})
	h.want("a counter that SCP03 has not", err, fault.InvalidInput)
}

// TestOTACounterEnds: the end is told from 80 % on, and the greatest value is never
// given away.
func TestOTACounterEnds(t *testing.T) {
	h := newHarness(t)
	h.loadOTA()
	in := h.otaInput(1)
	for _, c := range []struct {
		last   uint64
		ending bool
	}{{scp80.CounterMax/5*4 - 2, false}, {scp80.CounterMax/5*4 - 1, true}, {scp80.CounterMax - 2, true}} {
		h.must(h.service.SetOTACounter(h.ctx, in.OTACard, c.last))
		out := h.packet(in)
		if e := h.lastEntry(); out.Counter != c.last+1 || (e.Detail["counter"] == "ending") != c.ending {
			t.Errorf("counter %X: %+v", out.Counter, e.Detail)
		}
	}
	for range 2 {
		_, err := h.service.SecureOTAPacket(h.ctx, h.req(), in)
		h.want("the greatest counter", err, fault.KeyState)
	}
}

// TestOTARefusals: nothing comes back, no counter is used up, and the entry says why.
func TestOTARefusals(t *testing.T) {
	h := newHarness(t)
	h.loadOTA()
	good := h.otaInput(1)
	for name, c := range map[string]struct {
		change func(*kms.OTAPacketInput)
		want   fault.Code
	}{
		"no check":                      {func(in *kms.OTAPacketInput) { in.SPI[0] = 0x14 }, fault.InvalidInput},
		"a CRC":                         {func(in *kms.OTAPacketInput) { in.SPI[0] = 0x15 }, fault.InvalidInput},
		"no counter":                    {func(in *kms.OTAPacketInput) { in.SPI[0] = 0x06 }, fault.InvalidInput},
		"a counter that nobody checks":  {func(in *kms.OTAPacketInput) { in.SPI[0] = 0x0E }, fault.InvalidInput},
		"a response without a checksum": {func(in *kms.OTAPacketInput) { in.SPI[1] = 0x01 }, fault.InvalidInput},
		"a reserved bit":                {func(in *kms.OTAPacketInput) { in.SPI[0] = 0x96 }, fault.InvalidInput},
		"a response under 3DES":         {func(in *kms.OTAPacketInput) { in.KVN, in.SPI[1] = 2, 0x19 }, fault.TokenUnable},
		"no data":                       {func(in *kms.OTAPacketInput) { in.Data = nil }, fault.InvalidInput},
		"too much data":                 {func(in *kms.OTAPacketInput) { in.Data = make([]byte, scp80.DataMax+1) }, fault.InvalidInput},
		"a short ICCID":                 {func(in *kms.OTAPacketInput) { in.KDD = iccid[:9] }, fault.InvalidInput},
		"an unknown key":                {func(in *kms.OTAPacketInput) { in.Key = "none" }, fault.NotFound},
		"an unknown key set":            {func(in *kms.OTAPacketInput) { in.KVN = 3 }, fault.NotFound},
	} {
		in := good
		c.change(&in)
		size := h.ledger.Size()
		out, err := h.service.SecureOTAPacket(h.ctx, h.req(), in)
		if fault.CodeOf(err) != c.want || out.Packet != nil || h.ledger.Size() != size+1 || h.lastEntry().Outcome != string(c.want) {
			t.Errorf("%s: %X, %v", name, out, err)
		}
	}
	ranged := h.req()
	ranged.Caller.Cards.To = [10]byte{1}
	_, err := h.service.SecureOTAPacket(h.ctx, ranged, good)
	h.want("a card of another range", err, fault.Forbidden)
	if out := h.packet(good); out.Counter != 1 {
		t.Errorf("refusals used up %d counters", out.Counter-1)
	}
}

// TestOTAResponses: a response proves the one packet that it names, and a wrong one
// uses nothing up.
func TestOTAResponses(t *testing.T) {
	h := newHarness(t)
	card, _ := h.loadOTA()
	in := h.otaInput(1)
	silent := in
	silent.SPI[1] = 0
	h.packet(in)     // 1
	h.packet(silent) // 2
	h.packet(in)     // 3
	flipped := card.answer(1, 0, []byte{1})
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		counter  uint64
		response []byte
		want     fault.Code
	}{
		"a changed bit":           {1, flipped, fault.ProofFailed},
		"a response to another":   {1, card.answer(3, 0, nil), fault.ProofFailed},
		"a bare error":            {1, unhex("000B0AB0001100000000010009"), fault.ProofFailed},
		"no packet":               {1, []byte{0}, fault.InvalidInput},
		"one that is not awaited": {2, card.answer(2, 0, nil), fault.CardCounter},
		"one that was not sent":   {4, card.answer(4, 0, nil), fault.NotFound},
	} {
		got, err := h.verifyOTA(in, c.counter, c.response)
		if fault.CodeOf(err) != c.want || got.Data != nil || h.lastEntry().Outcome != string(c.want) {
			t.Errorf("%s: %+v, %v, want %s", name, got, err, c.want)
		}
	}
	// The newer one first: each is its own proof. A status that is none of success is one too.
	for _, n := range []uint64{3, 1} {
		got, err := h.verifyOTA(in, n, card.answer(n, 9, nil))
		if err != nil || got.Status != 9 || h.lastEntry().Detail["status"] != "09" {
			t.Errorf("counter %d: %+v, %v", n, got, err)
		}
	}
	for range 9 {
		h.packet(in) // 4 to 12: the first of them is forgotten
	}
	_, err := h.verifyOTA(in, 4, card.answer(4, 0, nil))
	h.want("one from too long ago", err, fault.CardCounter)
	_, err = h.verifyOTA(in, 5, card.answer(5, 0, nil))
	h.must(err)
}

// TestOTAKeys: what gives no two keys of a card is no ota key.
func TestOTAKeys(t *testing.T) {
	good := kms.NewKey{Issuer: "acme", Name: "ota", Usage: key.OTA, Algorithm: key.AES256, CardAlgorithm: key.AES128, Diversification: diversify.KDF3, KVN: 0x0F}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*kms.NewKey){
		"key set 0":             func(n *kms.NewKey) { n.KVN = 0 },
		"key set 16":            func(n *kms.NewKey) { n.KVN = 0x10 },
		"no diversification":    func(n *kms.NewKey) { n.Diversification, n.Algorithm = diversify.None, key.AES128 },
		"a method that is none": func(n *kms.NewKey) { n.Diversification = "emv-option-a" },
		"3DES of an AES master": func(n *kms.NewKey) { n.CardAlgorithm = key.TDEA2 },
	} {
		n := good
		change(&n)
		if err := n.Check(); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%s: %v", name, err)
		}
	}
}
