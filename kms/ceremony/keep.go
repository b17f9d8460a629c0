package ceremony

import (
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"cardkms/audit/durable"
	"cardkms/kms/fault"
	"cardkms/kms/secret"
)

// Place says which component of which value of a ceremony something is.
type Place struct {
	Ceremony  string // digest of the file
	Value     string // e.g. issuers/demo/keys/isd/kvn/30#master
	Number    int    // from 1
	Custodian string
}

// info binds a sealed component to its place: see the package comment.
func (p Place) info() (out []byte) {
	for _, s := range []string{"cardkms-component/1", p.Ceremony, p.Value, fmt.Sprint(p.Number), p.Custodian} {
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(s))), s...)
	}
	return out
}

// PairLabel is the label of the key pair of a ceremony's components.
func (f *File) PairLabel() string { return PairLabel(f.Hex()) }

// PairLabel is that of the ceremony with this digest.
func PairLabel(digest string) string { return "cardkms-component/" + digest[:16] }

// Exchanger is the private half of the pair, inside the token.
type Exchanger interface {
	// Exchange returns the shared secret with a peer, see hsm.Token.
	Exchange(peer *ecdh.PublicKey) (secret.Bytes, error)
}

// Pair is a key pair of the token as HPKE wants it.
type Pair struct {
	Public  *ecdh.PublicKey
	Private Exchanger
}

// pair adapts Pair to ecdh.KeyExchanger.
type pair struct{ Pair }

func (p pair) PublicKey() *ecdh.PublicKey { return p.Public }
func (p pair) Curve() ecdh.Curve          { return ecdh.P256() }
func (p pair) ECDH(peer *ecdh.PublicKey) ([]byte, error) {
	z, err := p.Private.Exchange(peer)
	return z.Reveal(), err
}

// seal encrypts a component to the pair.
func (p Pair) seal(at Place, component secret.Bytes) ([]byte, error) {
	k, err := hpke.NewDHKEMPublicKey(p.Public)
	if err != nil {
		return nil, fmt.Errorf("sealing a component: %w", err)
	}
	return hpke.Seal(k, hpke.HKDFSHA256(), hpke.AES256GCM(), at.info(), component.Reveal())
}

// open decrypts a component into room. HPKE leaves one copy on Go's heap, which is
// wiped at once.
func (p Pair) open(at Place, sealed []byte, room secret.Bytes) error {
	k, err := hpke.NewDHKEMPrivateKey(pair{p})
	if err != nil {
		return fmt.Errorf("opening a component: %w", err)
	}
	clearText, err := hpke.Open(k, hpke.HKDFSHA256(), hpke.AES256GCM(), at.info(), sealed)
	defer clear(clearText)
	if err != nil {
		if f := (*fault.Error)(nil); errors.As(err, &f) {
			return err // the token's
		}
		return fault.New(fault.ProofFailed, "a kept component does not open; it was changed, or belongs to another ceremony")
	}
	if len(clearText) != room.Len() {
		return fault.New(fault.ProofFailed, "a kept component has another length than its key")
	}
	copy(room.Reveal(), clearText)
	return nil
}

// Keeper keeps sealed components in a directory.
type Keeper struct{ Dir string }

// kept is the file of a sealed component. What is not encrypted is bound to it.
type kept struct {
	Place  Place  `json:"place"`
	Sealed string `json:"sealed"` // hexadecimal
}

func (k Keeper) path(at Place) string {
	name := strings.NewReplacer("/", ".", "#", ".").Replace(at.Value)
	return filepath.Join(k.Dir, fmt.Sprintf("%s.%d.json", name, at.Number))
}

// Has reports whether a component is kept.
func (k Keeper) Has(at Place) (bool, error) {
	_, err := os.Stat(k.path(at))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Keep seals a component. If the process dies before the rename, nothing is kept and
// the custodian enters it again.
func (k Keeper) Keep(p Pair, at Place, component secret.Bytes) error {
	sealed, err := p.seal(at, component)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(kept{at, hex.EncodeToString(sealed)}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return err
	}
	return durable.Replace(k.path(at), append(b, '\n'), 0o600)
}

// Open decrypts a kept component into room.
func (k Keeper) Open(p Pair, at Place, room secret.Bytes) error {
	b, err := os.ReadFile(k.path(at))
	if err != nil {
		return err
	}
	var in kept
	if err := json.Unmarshal(b, &in); err != nil {
		return fault.New(fault.ProofFailed, "a kept component does not open; its file was changed")
	}
	sealed, err := hex.DecodeString(in.Sealed)
	if err != nil {
		return fault.New(fault.ProofFailed, "a kept component does not open; its file was changed")
	}
	return p.open(at, sealed, room)
}

// Drop removes a kept component. Its pair is destroyed when the ceremony ends; until
// then a copy elsewhere would still open.
func (k Keeper) Drop(at Place) error {
	err := os.Remove(k.path(at))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// isDigest is the SHA-256 of a file as Place has it.
var isDigest = regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString

// Ceremonies returns the digests of the ceremonies whose components are kept, sorted: a
// file that was edited is another ceremony.
func (k Keeper) Ceremonies() (digests []string, err error) {
	files, err := os.ReadDir(k.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(k.Dir, f.Name()))
		if err != nil {
			return nil, err
		}
		var in kept
		if json.Unmarshal(b, &in) == nil && isDigest(in.Place.Ceremony) {
			digests = append(digests, in.Place.Ceremony)
		}
	}
	slices.Sort(digests)
	return slices.Compact(digests), err
}
