package update_test

import (
	"bytes"
	"crypto/sha256"
	"hash/crc32"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/update"
)

// TestVectors makes both known packages from a manifest that is written out
// here, and compares keys, objects and the secured commands byte by byte.
func TestVectors(t *testing.T) {
	var file struct {
		Vectors []struct {
			ID string
			In struct {
				KUPD      octets `json:"k_upd"`
				Ctx       octets
				ImageLen  int `json:"image_len"`
				ChunkSize int `json:"chunk_size"`
				ENC, MAC  octets
			}
			Out struct {
				KEnc                      octets `json:"k_enc"`
				KMac                      octets `json:"k_mac"`
				Manifest, Commit, Receipt octets
				Chunks, APDUs             []octets
				ExtAuth                   octets `json:"ext_auth"`
			}
		}
	}
	readVectors(t, &file)
	if len(file.Vectors) != 2 {
		t.Fatalf("%d vectors", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		t.Run(v.ID, func(t *testing.T) {
			image := content(v.In.ImageLen)
			m := sampleManifest()
			m.Image.Size, m.Image.SHA256, m.Image.CRC32 = uint32(len(image)), sha256.Sum256(image), crc32.ChecksumIEEE(image)
			m.ChunkSize, m.Context = v.In.ChunkSize, v.In.Ctx
			tok := new(derivetest.Token)
			keys := update.PackageKeys(kUPD(tok, len(v.In.KUPD)), m.Context)
			p, err := update.NewPackage(ctx, tok, m, keys)
			if err != nil {
				t.Fatal(err)
			}
			equal := func(what string, got, want []byte) {
				t.Helper()
				if !bytes.Equal(got, want) {
					t.Errorf("%s is %X, want %X", what, got, want)
				}
			}
			equal("K_enc", tok.Value(keys.ENC), v.Out.KEnc)
			equal("K_mac", tok.Value(keys.MAC), v.Out.KMac)
			equal("the manifest", p.Encoded, v.Out.Manifest)
			if m.Chunks() != len(v.Out.Chunks) {
				t.Fatalf("%d chunks, want %d", m.Chunks(), len(v.Out.Chunks))
			}
			for i, want := range v.Out.Chunks {
				from, to := m.ChunkRange(i + 1)
				got, err := p.Seal(ctx, tok, i+1, image[from:to])
				if err != nil {
					t.Fatal(err)
				}
				equal("a chunk", got, want)
			}
			commit, err := p.Commit(ctx, tok)
			if err != nil {
				t.Fatal(err)
			}
			equal("the commit", commit, v.Out.Commit)
			equal("the receipt of the test's card", receipt(t, tok, p), v.Out.Receipt)
			if err := p.VerifyReceipt(ctx, tok, v.Out.Receipt); err != nil {
				t.Errorf("receipt: %v", err)
			}
			secured(t, tok, p, v.In.ENC, v.In.MAC, v.Out.ExtAuth, v.Out.APDUs)
		})
	}
}

// secured compares the commands that carry the manifest at level 33.
func secured(t *testing.T, tok *derivetest.Token, p *update.Package, enc, mac, ext []byte, apdus []octets) {
	t.Helper()
	half := len(p.Manifest.Context) / 2
	host, card := p.Manifest.Context[:half], p.Manifest.Context[half:]
	keys := scp03.SessionKeys(scp03.Static{
		ENC: tok.Add("K-ENC", "aes-128", derive.Static, enc), MAC: tok.Add("K-MAC", "aes-128", derive.Static, mac),
	}, host, card)
	cmd, state, err := scp03.ExternalAuthenticate(ctx, tok, keys, 0x33, host, card)
	if err != nil || !bytes.Equal(cmd.Bytes(), ext) {
		t.Fatalf("EXTERNAL AUTHENTICATE is %X (%v), want %X", cmd.Bytes(), err, ext)
	}
	msg := scp03.Messaging{Token: tok, Keys: keys, Level: 0x33, Mode: scp03.Mode(half)}
	script, err := update.StoreData(p.Encoded, msg.DataMax(apdu.ShortDataMax), false)
	if err != nil || len(script) != len(apdus) {
		t.Fatalf("%d commands (%v), want %d", len(script), err, len(apdus))
	}
	for i, c := range script {
		var w apdu.Command
		if w, state, err = msg.Wrap(ctx, state, c); err != nil || !bytes.Equal(w.Bytes(), apdus[i]) {
			t.Errorf("command %d is %X (%v), want %X", i, w.Bytes(), err, apdus[i])
		}
	}
}

// TestOpenPackage: a stored MAC opens a package only as it was made, and only with
// the manifest that it was made for.
func TestOpenPackage(t *testing.T) {
	for _, suite := range []func(*update.Manifest){func(*update.Manifest) {}, plain} {
		tok, p := samplePackage(t, suite)
		if _, err := update.OpenPackage(ctx, tok, p.Manifest, p.Keys, p.MAC); err != nil {
			t.Errorf("as it was made: %v", err)
		}
		for i := range p.MAC {
			bad := bytes.Clone(p.MAC)
			bad[i] ^= 0x01
			if _, err := update.OpenPackage(ctx, tok, p.Manifest, p.Keys, bad); fault.CodeOf(err) != fault.ProofFailed {
				t.Errorf("byte %d altered: %v", i, err)
			}
		}
		for n := range p.MAC {
			if _, err := update.OpenPackage(ctx, tok, p.Manifest, p.Keys, p.MAC[:n]); fault.CodeOf(err) != fault.ProofFailed {
				t.Errorf("cut to %d bytes: %v", n, err)
			}
		}
		other := p.Manifest
		other.Sequence++
		if _, err := update.OpenPackage(ctx, tok, other, p.Keys, p.MAC); len(p.MAC) > 0 && fault.CodeOf(err) != fault.ProofFailed {
			t.Errorf("another manifest: %v", err)
		}
	}
}

// TestManifestCheck refuses what no card could use, at both edges.
func TestManifestCheck(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*update.Manifest)
		ok     bool
	}{
		{"as it is", func(*update.Manifest) {}, true},
		{"least chunk", func(m *update.Manifest) { m.ChunkSize = 64 }, true},
		{"chunk too small", func(m *update.Manifest) { m.ChunkSize = 63 }, false},
		{"no chunk size", func(m *update.Manifest) { m.ChunkSize = 0 }, false},
		{"greatest chunk", func(m *update.Manifest) { m.ChunkSize = 4096 }, true},
		{"chunk too large", func(m *update.Manifest) { m.ChunkSize = 4097 }, false},
		{"most chunks", func(m *update.Manifest) { m.ChunkSize, m.Image.Size = 64, 64*0xFFFF }, true},
		{"too many chunks", func(m *update.Manifest) { m.ChunkSize, m.Image.Size = 64, 64*0xFFFF+1 }, false},
		{"largest image", func(m *update.Manifest) { m.ChunkSize, m.Image.Size = 4096, 0xFFFFFFFF }, false},
		{"empty image", func(m *update.Manifest) { m.Image.Size = 0 }, false},
		{"AID of 4", func(m *update.Manifest) { m.Image.Component = make([]byte, 4) }, false},
		{"AID of 5", func(m *update.Manifest) { m.Image.Component = make([]byte, 5) }, true},
		{"AID of 16", func(m *update.Manifest) { m.Image.Component = make([]byte, 16) }, true},
		{"AID of 17", func(m *update.Manifest) { m.Image.Component = make([]byte, 17) }, false},
		{"S16 challenges", func(m *update.Manifest) { m.Context = make([]byte, 32) }, true},
		{"no challenges", func(m *update.Manifest) { m.Context = nil }, false},
		{"half a challenge", func(m *update.Manifest) { m.Context = make([]byte, 24) }, false},
	} {
		m := sampleManifest()
		c.change(&m)
		err := m.Check()
		if (err == nil) != c.ok || err != nil && fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("%s: %v", c.name, err)
		}
		tok := new(derivetest.Token)
		if _, err := update.NewPackage(ctx, tok, m, update.PackageKeys(kUPD(tok, 16), m.Context)); (err == nil) != c.ok {
			t.Errorf("%s: NewPackage: %v", c.name, err)
		}
	}
}

// TestPlainSuite: under suite 00 no object has a MAC and the token is not used.
func TestPlainSuite(t *testing.T) {
	tok, p := samplePackage(t, plain)
	image := content(2500)
	chunk, err := p.Seal(ctx, nil, 3, image[2048:])
	if err != nil {
		t.Fatal(err)
	}
	want := append([]byte{0xE3, 0x82, 0x01, 0xD1, 0x80, 0x03, 0, 0, 3, 0x81, 0x82, 0x01, 0xC8}, image[2048:]...)
	sum := crc32.ChecksumIEEE(image[2048:])
	if want = append(want, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)); !bytes.Equal(chunk, want) {
		t.Errorf("the chunk is %X, want %X", chunk, want)
	}
	commit, err := p.Commit(ctx, nil)
	if err != nil || !bytes.HasPrefix(commit, unhex("E42E820400000007880400000003"+"8A20")) || len(commit) != 48 {
		t.Errorf("the commit is %X, %v", commit, err)
	}
	abort, err := p.Abort(ctx, nil)
	if err != nil || !bytes.Equal(abort, unhex("E706820400000007")) {
		t.Errorf("the abort is %X, %v", abort, err)
	}
	if err := p.VerifyReceipt(ctx, nil, receipt(t, tok, p)); err != nil {
		t.Errorf("the receipt: %v", err)
	}
	// A MAC where none belongs is not what the card said.
	if err := p.VerifyReceipt(ctx, nil, append(receipt(t, tok, p), field(0x8E, make([]byte, 16)...)...)); fault.CodeOf(err) != fault.ProofFailed {
		t.Errorf("a receipt with a MAC: %v", err)
	}
	if tok.Calls != 0 {
		t.Errorf("the token was used %d times", tok.Calls)
	}
}

// TestAbort: the abort's MAC is another than any object's over the same bytes.
func TestAbort(t *testing.T) {
	tok, p := samplePackage(t)
	got, err := p.Abort(ctx, tok)
	if want := object(t, tok, p, 0xE7, field(0x82, 0, 0, 0, 7)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the abort is %X (%v), want %X", got, err, want)
	}
}
