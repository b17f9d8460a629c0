package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"cardkms/derive"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/update"
)

// runPackage makes a CUP-1 package from the fields of the known manifest and the
// vector's image, byte j = (7*j + (j >> 8)) & 255.
func runPackage(b *bench, in input) error {
	m, err := manifestOf(in)
	if err != nil {
		return err
	}
	kUPD, err := b.aes(derive.Static, in.KUPD)
	if err != nil {
		return err
	}
	keys := update.PackageKeys(kUPD, in.Ctx)
	if err := b.equalKey("K_enc", keys.ENC, in.Out.KEnc); err != nil {
		return err
	}
	if err := b.equalKey("K_mac", keys.MAC, in.Out.KMac); err != nil {
		return err
	}
	p, err := update.NewPackage(b.ctx, b.token, m, keys)
	if err != nil {
		return err
	}
	if !bytes.Equal(p.Encoded, in.Out.Manifest) {
		return mismatch("the manifest", p.Encoded, in.Out.Manifest)
	}
	if err := b.chunks(p, in); err != nil {
		return err
	}
	return b.transport(p, in)
}

// imageBytesMax bounds the image that a vector may ask for.
const imageBytesMax = 1 << 24

func image(n int) []byte {
	out := make([]byte, n)
	for j := range out {
		out[j] = byte(7*j + j>>8)
	}
	return out
}

func manifestOf(in input) (update.Manifest, error) {
	var m update.Manifest
	if in.ImageLen < 1 || in.ImageLen > imageBytesMax {
		return m, fmt.Errorf("the image has %d bytes, at most %d are made", in.ImageLen, imageBytesMax)
	}
	objs, err := apdu.ParseTLVs(in.Out.Manifest)
	if err != nil || len(objs) != 2 {
		return m, errors.New("the known manifest is not one object with its MAC")
	}
	fields, err := apdu.ParseTLVs(objs[0].Value)
	if err != nil {
		return m, err
	}
	for _, f := range fields {
		v := f.Value
		if len(v) < 2 && f.Tag != 0x80 && f.Tag != 0x81 || len(v) == 0 {
			return m, fmt.Errorf("field %X of the known manifest has %d bytes", f.Tag, len(v))
		}
		switch f.Tag {
		case 0x81:
			m.Suite = update.Suite(v[0])
		case 0x82:
			m.Sequence = number(v)
		case 0x83:
			copy(m.Image.Class[:], v)
		case 0x84:
			copy(m.Card[:], v)
		case 0x85:
			m.Image.Component = v
		case 0x86:
			copy(m.Image.From[:], v)
		case 0x87:
			copy(m.Image.To[:], v)
		case 0x88:
			m.Image.Counter = number(v)
		case 0x8C:
			m.ChunkSize = int(number(v))
		case 0x8F:
			m.KVN, m.Key = v[0], v[1]
		}
	}
	m.Context = in.Ctx
	if err := equalStated("the card in the manifest", m.Card[:], in.Card); err != nil {
		return m, err
	}
	c := update.NewContent()
	_, _ = c.Write(image(in.ImageLen))
	c.Fill(&m.Image)
	if err := equalStated("the image's SHA-256", m.Image.SHA256[:], in.Out.SHA256); err != nil {
		return m, err
	}
	return m, equalStated("the image's CRC-32", binary.BigEndian.AppendUint32(nil, m.Image.CRC32), in.Out.CRC32)
}

func number(b []byte) uint32 {
	var n uint32
	for _, x := range b {
		n = n<<8 | uint32(x)
	}
	return n
}

// chunks seals every chunk, commits, and verifies the card's receipt.
func (b *bench) chunks(p *update.Package, in input) error {
	data := image(in.ImageLen)
	if len(in.Out.Chunks) > p.Manifest.Chunks() {
		return fmt.Errorf("the case has %d chunks, the package %d", len(in.Out.Chunks), p.Manifest.Chunks())
	}
	for i, want := range in.Out.Chunks {
		from, to := p.Manifest.ChunkRange(i + 1)
		got, err := p.Seal(b.ctx, b.token, i+1, data[from:to])
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return mismatch(fmt.Sprintf("chunk %d", i+1), got, want)
		}
	}
	commit, err := p.Commit(b.ctx, b.token)
	if err != nil {
		return err
	}
	if !bytes.Equal(commit, in.Out.Commit) {
		return mismatch("the commit", commit, in.Out.Commit)
	}
	if err := p.VerifyReceipt(b.ctx, b.token, in.Out.Receipt); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	return nil
}

// transport compares the secured commands that carry the manifest at level 33.
// The host's cryptogram is the vector's own; its card has no answer to verify.
func (b *bench) transport(p *update.Package, in input) error {
	half := len(in.Ctx) / 2
	host, card := in.Ctx[:half], in.Ctx[half:]
	st := scp03.Static{}
	var err error
	if st.ENC, err = b.aes(derive.Static, in.ENC); err != nil {
		return err
	}
	if st.MAC, err = b.aes(derive.Static, in.MAC); err != nil {
		return err
	}
	keys := scp03.SessionKeys(st, host, card)
	defer b.token.Release(keys.ENC, keys.MAC, keys.RMAC)
	ext, state, err := scp03.ExternalAuthenticate(b.ctx, b.token, keys, 0x33, host, card)
	if err != nil {
		return err
	}
	if got := ext.Bytes(); !bytes.Equal(got, in.Out.ExtAuth) {
		return mismatch("EXTERNAL AUTHENTICATE", got, in.Out.ExtAuth)
	}
	msg := scp03.Messaging{Token: b.token, Keys: keys, Level: 0x33, Mode: scp03.Mode(half)}
	script, err := update.StoreData(p.Encoded, msg.DataMax(apdu.ShortDataMax), false)
	if err != nil {
		return err
	}
	for i, c := range script {
		var w apdu.Command
		if w, state, err = msg.Wrap(b.ctx, state, c); err != nil {
			return err
		}
		if i < len(in.Out.APDUs) && !bytes.Equal(w.Bytes(), in.Out.APDUs[i]) {
			return mismatch(fmt.Sprintf("command %d of the manifest", i+1), w.Bytes(), in.Out.APDUs[i])
		}
	}
	return nil
}
