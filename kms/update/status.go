package update

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// CardState is where a card stands.
type CardState byte

// The states that a card reports.
const (
	Idle      CardState = 0x00
	Staging   CardState = 0x01
	Pending   CardState = 0x02 // committed; the next reset starts the trial
	Trial     CardState = 0x03
	Reverted  CardState = 0x04 // idle; the last package was judged bad
	Confirmed CardState = 0x05 // idle; the last package runs
)

// Status is a card's report about itself.
type Status struct {
	State     CardState
	Sequence  uint32 // highest that the card tried or confirmed
	missing   []byte // one bit per chunk while staging, most significant first
	Version   Version
	Counter   uint32
	LastError byte
	content   []byte
	mac       []byte
}

// parseObject splits an object into its fields, which must have exactly these
// tags, the content that its MAC covers, and the MAC; re-encoding must give the
// same bytes.
func parseObject(b []byte, tag apdu.Tag, tags ...apdu.Tag) (fields [][]byte, content, mac []byte, err error) {
	bad := fault.New(fault.InvalidInput, "the card's answer is not the object that was asked for")
	objs, err := apdu.ParseTLVs(b)
	if err != nil || len(objs) < 1 || len(objs) > 2 || objs[0].Tag != tag {
		return nil, nil, nil, bad
	}
	if len(objs) == 2 {
		if objs[1].Tag != 0x8E || len(objs[1].Value) != 16 {
			return nil, nil, nil, bad
		}
		mac = objs[1].Value
	}
	content = objs[0].Value
	inner, err := apdu.ParseTLVs(content)
	if err != nil || len(inner) != len(tags) {
		return nil, nil, nil, bad
	}
	for i, f := range inner {
		if f.Tag != tags[i] {
			return nil, nil, nil, bad
		}
		fields = append(fields, f.Value)
	}
	return fields, content, mac, nil
}

// ParseStatus parses the answer to GetStatus without checking its MAC: a card
// that holds no package has no key for one, and the secure channel protected the
// answer. Verify checks it for a package.
func ParseStatus(b []byte) (Status, error) {
	f, content, mac, err := parseObject(b, 0xE5, 0x92, 0x82, 0x93, 0x87, 0x88, 0x94)
	if err != nil {
		return Status{}, err
	}
	if len(f[0]) != 1 || len(f[1]) != 4 || len(f[3]) != 8 || len(f[4]) != 4 || len(f[5]) != 1 || f[0][0] > byte(Confirmed) {
		return Status{}, fault.New(fault.InvalidInput, "a field of the card's status has another length or value")
	}
	return Status{
		State: CardState(f[0][0]), Sequence: binary.BigEndian.Uint32(f[1]), missing: f[2],
		Version: Version(f[3]), Counter: binary.BigEndian.Uint32(f[4]), LastError: f[5][0],
		content: content, mac: mac,
	}, nil
}

// Missing returns the numbers of the chunks that a card which stages a package
// of n chunks still needs, ascending.
func (s Status) Missing(n int) ([]int, error) {
	if s.State != Staging || len(s.missing) != (n+7)/8 {
		return nil, fault.New(fault.InvalidInput, "the card's list of missing chunks does not fit the package")
	}
	var out []int
	for i := range 8 * len(s.missing) {
		if s.missing[i/8]&(0x80>>(i%8)) == 0 {
			continue
		}
		if i >= n {
			return nil, fault.New(fault.InvalidInput, "the card misses a chunk that the package does not have")
		}
		out = append(out, i+1)
	}
	return out, nil
}

// Accepts checks that a card in this status can take an image: it runs the
// version that the image replaces, and its security counter does not fall.
func (s Status) Accepts(im Image) error {
	if s.Version != im.From {
		return fault.New(fault.VersionMismatch, fmt.Sprintf("the card runs version %X, and the image replaces %X", s.Version, im.From))
	}
	if im.Counter < s.Counter {
		return fault.New(fault.Downgrade, "the image's security counter is below the card's")
	}
	return nil
}

// verify compares a MAC that the card made under the package's keys.
func (p *Package) verify(ctx context.Context, t derive.Token, tag apdu.Tag, content, mac []byte) error {
	if p.Manifest.Suite == Plain {
		if len(mac) != 0 {
			return fault.Proof()
		}
		return nil
	}
	want, err := p.computeMAC(ctx, t, tag, content)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(want, mac) != 1 {
		return fault.Proof()
	}
	return nil
}

// VerifyStatus checks that a status speaks of this package.
func (p *Package) VerifyStatus(ctx context.Context, t derive.Token, s Status) error {
	return p.verify(ctx, t, 0xE5, s.content, s.mac)
}

// VerifyReceipt checks the card's proof that it runs the package's image. A
// receipt that does not verify, or speaks of another version or counter, is
// fault.Proof().
func (p *Package) VerifyReceipt(ctx context.Context, t derive.Token, receipt []byte) error {
	f, content, mac, err := parseObject(receipt, 0xE6, 0x92, 0x87, 0x88)
	if err != nil {
		return err
	}
	if err := p.verify(ctx, t, 0xE6, content, mac); err != nil {
		return err
	}
	im := p.Manifest.Image
	if !bytes.Equal(f[0], []byte{byte(Confirmed)}) || !bytes.Equal(f[1], im.To[:]) || !bytes.Equal(f[2], be32(im.Counter)) {
		return fault.Proof()
	}
	return nil
}
