package cardsim

import (
	"bytes"
	"errors"
	"testing"
)

// TestVectorsPutKey replays the PUT KEY commands of the host programs, in both formats of the key block, and authenticates
// with the keys they brought.
func TestVectorsPutKey(t *testing.T) {
	var file struct {
		Cases []struct {
			ID         string
			I          hexBytes
			AID        hexBytes
			KeyVersion hexBytes                         `json:"key_version"`
			StaticKeys struct{ ENC, MAC, DEK hexBytes } `json:"static_keys"`
			PutKey     *struct {
				NewKVN  hexBytes                         `json:"new_kvn"`
				NewKeys struct{ ENC, MAC, DEK hexBytes } `json:"new_keys"`
				ByPeer  map[string]struct {
					Plain         hexBytes
					ResponsePlain hexBytes `json:"response_plain"`
				} `json:"by_peer"`
			} `json:"put_key"`
		}
	}
	loadVectors(t, "scp03.json", &file)
	commands := 0
	for _, v := range file.Cases {
		if v.PutKey == nil {
			continue
		}
		for peer, p := range v.PutKey.ByPeer {
			if len(p.Plain) == 0 {
				continue // the peer refused to make this command
			}
			commands++
			t.Run(v.ID+"/"+peer, func(t *testing.T) {
				cfg := Config{ISD: v.AID, I: v.I[0]}
				cfg.KeySets = []KeySet{{v.KeyVersion[0], v.StaticKeys.ENC, v.StaticKeys.MAC, v.StaticKeys.DEK}}
				// The greatest odd length of the first block tells the format: 88 | key length + 1 | key length.
				cfg.Quirks.PutKeyNoLength = p.Plain[7]%2 == 0
				h := openHost(t, cfg, 0x01)
				cmd, err := parseCommand(p.Plain)
				if err != nil {
					t.Fatal(err)
				}
				data, sw, err := h.send(cmd)
				if got := response(data, sw); err != nil || !bytes.Equal(got, p.ResponsePlain) {
					t.Fatalf("%X %v, want %X", got, err, p.ResponsePlain)
				}
				k := v.PutKey.NewKeys
				h.set = KeySet{v.PutKey.NewKVN[0], k.ENC, k.MAC, k.DEK}
				h.mustAuthenticate(t, 0x03)
			})
		}
	}
	t.Logf("%d commands", commands)
}

// TestVectorsKeyBlock: both codings of a key block.
func TestVectorsKeyBlock(t *testing.T) {
	var file struct {
		Vectors []struct {
			ID  string
			In  struct{ DEK, Key hexBytes }
			Out struct {
				WithLen hexBytes `json:"block_with_len"`
				NoLen   hexBytes `json:"block_no_len"`
			}
		}
	}
	loadVectors(t, "putkey.json", &file)
	for _, v := range file.Vectors {
		for _, noLength := range []bool{false, true} {
			block := v.Out.WithLen
			if noLength && v.Out.NoLen != nil {
				block = v.Out.NoLen
			}
			c := &Card{cfg: Config{Quirks: Quirks{PutKeyNoLength: noLength}}}
			key, rest, ok := c.keyBlock(append(bytes.Clone(block), 0x99), v.In.DEK)
			if !ok || !bytes.Equal(key, v.In.Key) || !bytes.Equal(rest, []byte{0x99}) {
				t.Errorf("%s, without length %v: %X %X %v", v.ID, noLength, key, rest, ok)
			}
			for n := range block {
				if _, _, ok := c.keyBlock(block[:n], v.In.DEK); ok {
					t.Errorf("%s: first %d bytes accepted", v.ID, n)
				}
			}
		}
	}
}

// sealKeys makes a PUT KEY with these keys under the DEK.
func sealKeys(old, id, kvn byte, dek []byte, keys ...[]byte) command {
	cmd := command{cla: 0x80, ins: insPutKey, p1: old, p2: id, data: []byte{kvn}, le: 256}
	for _, k := range keys {
		padded := append(bytes.Clone(k), make([]byte, (16-len(k)%16)%16)...)
		// CBC with a zero initial value: the counter block whose encryption is zero.
		var iv [16]byte
		blockCipher(dek).Decrypt(iv[:], iv[:])
		field := append([]byte{byte(len(k))}, cbcEncrypt(dek, iv, padded)...)
		cmd.data = append(cmd.data, keyTypeAES, byte(len(field)))
		cmd.data = append(append(cmd.data, field...), 3)
		cmd.data = append(cmd.data, keyCheckValue(k)...)
	}
	return cmd
}

// TestPutKey: rotation of key sets and of K-UPD, and what is refused (CUP-1, rule C13).
func TestPutKey(t *testing.T) {
	cfg := testConfig()
	h := openHost(t, cfg, 0x33)
	fresh := func(b byte) []byte { return bytes.Repeat([]byte{b}, 16) }
	dek := cfg.KeySets[0].DEK
	put := func(name string, cmd command, want word) {
		t.Helper()
		if _, sw, err := h.send(cmd); err != nil || sw != want {
			t.Errorf("%s: %04X %v, want %04X", name, sw, err, want)
		}
	}
	three := func(old, kvn byte) command { return sealKeys(old, 0x81, kvn, dek, fresh(1), fresh(2), fresh(3)) }
	put("absent old version", three(0x35, 0x36), swReference)
	put("version taken", three(0x00, 0x31), swData)
	put("version of the other set", three(0x30, 0x31), swData)
	put("version of K-UPD", three(0x00, 0x5A), swData)
	put("version 00", three(0x00, 0x00), swData)
	put("version 80", three(0x00, 0x80), swData)
	put("two keys", sealKeys(0, 0x81, 0x36, dek, fresh(1), fresh(2)), swData)
	put("two sizes", sealKeys(0, 0x81, 0x36, dek, fresh(1), make([]byte, 24), fresh(3)), swData)
	put("no data", command{cla: 0x80, ins: insPutKey}, swLength)
	wrong := three(0x00, 0x36)
	wrong.data[len(wrong.data)-1] ^= 1
	put("key check value", wrong, swData)
	put("wrong DEK", sealKeys(0, 0x81, 0x36, fresh(9), fresh(1), fresh(2), fresh(3)), swData)
	put("K-UPD id", sealKeys(0x5A, 0x02, 0x5B, dek, fresh(7)), swReference)
	put("K-UPD same version", sealKeys(0x5A, 0x01, 0x5A, dek, fresh(7)), swData)
	if _, sw, _ := h.plain(three(0x00, 0x36)); sw != swSecurity {
		t.Errorf("without secure messaging: %04X", sw)
	}

	put("third set", three(0x00, 0x36), swOK)
	put("fourth set", three(0x00, 0x37), swOK)
	put("fifth set", three(0x00, 0x38), swFull)
	put("replace", sealKeys(0x31, 0x81, 0x31, dek, make([]byte, 32), make([]byte, 32), make([]byte, 32)), swOK)
	old := h.set
	h.set = KeySet{0x36, fresh(1), fresh(2), fresh(3)}
	h.mustAuthenticate(t, 0x33)
	h.set = KeySet{0x31, make([]byte, 32), make([]byte, 32), make([]byte, 32)}
	h.mustAuthenticate(t, 0x33)
	if !bytes.Equal(h.counter, []byte{0, 0, 1}) {
		t.Errorf("sequence counter of new keys %X", h.counter)
	}
	h.set = cfg.KeySets[1]
	if _, err := h.authenticate(make([]byte, 8), 0x33); !errors.Is(err, errHost) {
		t.Errorf("replaced keys: %v", err)
	}

	h.set = old
	h.mustAuthenticate(t, 0x33)
	u := newUpdater(h.card)
	image := testImage(1, 300)
	p := u.start(t, image, 1, 4, versionA, versionB)
	*h = u.host
	put("K-UPD while staging", sealKeys(0x5A, 0x01, 0x5B, dek, fresh(7)), swConditions)
	u.host = *h
	u.deliver(t, p, image)
	reset(t, h.card)
	h.mustAuthenticate(t, 0x33)
	put("K-UPD", sealKeys(0x5A, 0x01, 0x5B, dek, fresh(7)), swOK)
	reset(t, h.card)
	u.mustConnect(t)
	if receipt, sw, err := u.query(tagReceipt); err != nil || sw != swOK || bytes.Contains(receipt, []byte{tagMAC, 0x10}) {
		t.Errorf("receipt after its key went: %X %04X %v", receipt, sw, err)
	}
	stale := u.pack(image, 2, 4, versionB, versionC)
	stale.manifest.key[0] = 0x5A
	u.mustStore(t, u.sealManifest(stale.manifest).manifest.object, swData)
	u.mustStore(t, u.pack(image, 2, 4, versionB, versionC).manifest.object, swOK)
}

// TestTearPutKey: a power cut in PUT KEY leaves the old key set or the new one, never neither.
func TestTearPutKey(t *testing.T) {
	cfg := testConfig()
	cfg.KeySets = cfg.KeySets[:1]
	next := KeySet{0x30, bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 16), bytes.Repeat([]byte{3}, 16)}
	cut := 0
	for _, page := range []int{0, 64} {
		for write, struck := 1, true; struck; write++ {
			for _, tear := range Tears {
				c := newTestCard(t, cfg, page)
				c.PowerOn()
				h := &host{card: c, set: cfg.KeySets[0]}
				h.mustAuthenticate(t, 0x33)
				c.nvm.CutAt(write, tear)
				_, _, err := h.send(sealKeys(0x30, 0x81, 0x30, h.set.DEK, next.ENC, next.MAC, next.DEK))
				struck = errors.Is(err, ErrTorn)
				c.nvm.ClearFaults()
				reset(t, c)
				cut++
				works := 0
				for _, set := range []KeySet{cfg.KeySets[0], next} {
					h.set = set
					if sw, err := h.authenticate(make([]byte, 8), 0x33); err == nil && sw == swOK {
						works++
					}
				}
				if works != 1 || !struck && h.session == nil {
					t.Fatalf("page %d write %d tear %d: %d key sets work", page, write, tear, works)
				}
			}
		}
	}
	t.Logf("%d power cuts", cut)
}

// TestDeleteKey: a deleted key set is gone at once and after a reset, its place serves again, and the counters of the others go
// on where they were.
func TestDeleteKey(t *testing.T) {
	cfg := testConfig()
	third := KeySet{0x32, bytes.Repeat([]byte{7}, 16), bytes.Repeat([]byte{8}, 16), bytes.Repeat([]byte{9}, 16)}
	cfg.KeySets = append(cfg.KeySets, third)
	h := openHost(t, cfg, 0x01)
	del := func(kvn, length byte) word {
		_, sw, err := h.send(command{cla: 0x80, ins: insDeleteKey, data: []byte{0xD2, length, kvn}})
		if err != nil {
			t.Fatal(err)
		}
		return sw
	}
	for kvn, want := range map[byte]word{0x30: swConditions, 0x00: swReference, 0x77: swReference} {
		if sw := del(kvn, 1); sw != want {
			t.Errorf("deleting %02X: %04X, want %04X", kvn, sw, want)
		}
	}
	if sw := del(0x31, 2); sw != swData {
		t.Errorf("a malformed DELETE: %04X", sw)
	}
	h.set = third
	h.mustAuthenticate(t, 0x01)
	before := h.card.loadSequence(2)
	if sw := del(0x31, 1); sw != swOK {
		t.Fatalf("deleting: %04X", sw)
	}
	h.card.PowerOff()
	h.card.PowerOn()
	if n := len(h.card.keySets()); n != 2 {
		t.Errorf("%d key sets are left", n)
	}
	h.mustAuthenticate(t, 0x01)
	if after := h.card.loadSequence(2); after != before+1 {
		t.Errorf("the counter went from %d to %d", before, after)
	}
	if sw := del(0x30, 1); sw != swOK || h.card.ram.keys.find(0) != 2 || h.card.ram.keys.vacant() != 0 {
		t.Errorf("deleting the default: %04X; the default is place %d", sw, h.card.ram.keys.find(0))
	}
}
