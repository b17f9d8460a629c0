package cardsim

import (
	"bytes"
	"testing"
)

// cup1Vector is one vector of testdata/cup1.json.
type cup1Vector struct {
	ID string
	In struct {
		KUPD      hexBytes `json:"k_upd"`
		Ctx       hexBytes
		ImageLen  int `json:"image_len"`
		ChunkSize int `json:"chunk_size"`
		Card      hexBytes
		ENC, MAC  hexBytes
	}
	Out struct {
		KENC     hexBytes `json:"k_enc"`
		KMAC     hexBytes `json:"k_mac"`
		Manifest hexBytes
		Chunks   []hexBytes
		Commit   hexBytes
		Receipt  hexBytes
		ExtAuth  hexBytes `json:"ext_auth"`
		APDUs    []hexBytes
	}
}

func cup1Vectors(t testing.TB) []cup1Vector {
	var file struct{ Vectors []cup1Vector }
	loadVectors(t, "cup1.json", &file)
	return file.Vectors
}

// config makes the card to which the package of the vector is addressed.
func (v cup1Vector) config(t testing.TB) Config {
	n := len(v.In.Ctx) / 2
	cfg := Config{
		KDD:             [10]byte(v.In.Card),
		ISD:             unhex(t, "A000000151000000"),
		KeySets:         []KeySet{{KVN: 0x30, ENC: v.In.ENC, MAC: v.In.MAC, DEK: v.In.ENC}},
		I:               0x60,
		UpdateKey:       UpdateKey{KVN: 0x5A, ID: 0x01, Value: v.In.KUPD},
		ClassID:         [16]byte(unhex(t, "C3F0E8B06B1D5B7E9A7D2F7C5E1A4B60")),
		Component:       unhex(t, "A000000151000000"),
		Version:         versionA,
		SecurityCounter: 2,
		Rand:            bytes.NewReader(v.In.Ctx[n:]),
	}
	if n == 16 {
		cfg.I = 0x61
	}
	return cfg
}

// image is "byte j = (7*j + (j >> 8)) & 255".
func (v cup1Vector) image() []byte {
	b := make([]byte, v.In.ImageLen)
	for j := range b {
		b[j] = byte(7*j + j>>8)
	}
	return b
}

// TestVectorsCUP1 feeds the published package to the card: the recorded EXTERNAL AUTHENTICATE and OPEN as they are, chunks
// and commit through the same session, and compares the receipt after the reset.
func TestVectorsCUP1(t *testing.T) {
	for _, v := range cup1Vectors(t) {
		t.Run(v.ID, func(t *testing.T) {
			c, err := New(v.config(t), nil)
			if err != nil {
				t.Fatal(err)
			}
			c.PowerOn()
			n := len(v.In.Ctx) / 2
			init := command{cla: 0x80, ins: insInitializeUpdate, p1: 0x30, data: v.In.Ctx[:n], le: 256}
			if r := transmit(t, c, init.encode()); len(r) < 2 || !bytes.HasSuffix(r, []byte{0x90, 0x00}) {
				t.Fatalf("INITIALIZE UPDATE: %X", r)
			}
			if r := transmit(t, c, v.Out.ExtAuth); !bytes.Equal(r, []byte{0x90, 0x00}) {
				t.Fatalf("EXTERNAL AUTHENTICATE: %X", r)
			}
			// The host half follows the same session from here on.
			u := newUpdater(c)
			twin := *c.ram.session
			for _, a := range v.Out.APDUs {
				if r := transmit(t, c, a); !bytes.HasSuffix(r, []byte{0x90, 0x00}) {
					t.Fatalf("OPEN: %X", r)
				}
				twin.counter, twin.mcv = c.ram.session.counter, c.ram.session.mcv
			}
			u.session = &twin
			if held := c.ram.held; !bytes.Equal(held.kENC, v.Out.KENC) || !bytes.Equal(held.kMAC, v.Out.KMAC) {
				t.Error("package keys differ")
			}
			if c.Status().State != StateStaging {
				t.Fatalf("%+v", c.Status())
			}
			for i, object := range v.Out.Chunks {
				if made := c.ram.held.sealChunk(v.image(), i+1); !bytes.Equal(made, object) {
					t.Errorf("chunk %d made here differs", i+1)
				}
				u.mustStore(t, object, swOK)
			}
			u.mustStore(t, v.Out.Commit, swOK)
			c.cfg.Rand = bytes.NewReader(make([]byte, 16))
			reset(t, c)
			u.mustConnect(t)
			got, sw, err := u.query(tagReceipt)
			if err != nil || sw != swOK || !bytes.Equal(got, v.Out.Receipt) {
				t.Errorf("receipt %X %04X %v, want %X", got, sw, err, v.Out.Receipt)
			}
			if addr := c.layout.banks[c.Status().ActiveBank]; !bytes.Equal(c.nvm.read(addr, v.In.ImageLen), v.image()) {
				t.Error("image differs")
			}
		})
	}
}

func TestManifestRoundTrip(t *testing.T) {
	for _, v := range cup1Vectors(t) {
		m, err := parseManifest(v.Out.Manifest)
		if err != nil || !bytes.Equal(m.encode(), v.Out.Manifest) {
			t.Errorf("%s: %v", v.ID, err)
		}
	}
}
