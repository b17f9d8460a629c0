package ceremony

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/goccy/go-yaml"

	"cardkms/derive/diversify"
	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// fileBytesMax bounds the file: somebody has to read it.
const fileBytesMax = 64 << 10

// File is a key ceremony. Unknown and duplicate fields are refused, and everything
// that a file can say wrongly is found before anything is done. Paths are relative to
// the file.
type File struct {
	Title         string       `yaml:"ceremony"`
	Configuration string       `yaml:"configuration"` // of the service
	Present       []string     `yaml:"present"`       // who is there beside the custodians; two or more
	Together      bool         `yaml:"together"`      // custodians enter one after the other, in one run
	Token         *Token       `yaml:"token"`
	ServiceKeys   *ServiceKeys `yaml:"serviceKeys"`
	Officers      *Officers    `yaml:"officers"`
	KEKs          []KEK        `yaml:"keks"`
	Keys          []Key        `yaml:"keys"`
	Profiles      []Profile    `yaml:"profiles"`
	Destroy       []string     `yaml:"destroy"` // labels of key-encryption keys that are done

	Digest [32]byte `yaml:"-"` // SHA-256 of the file
}

// Token says which token the service's keys are made in, and that it is initialised
// if there is none of this label.
type Token struct {
	Module  string `yaml:"module"`
	SoftHSM string `yaml:"softhsm"` // directory of SoftHSM2's tokens; development only
	Label   string `yaml:"label"`
	PIN     string `yaml:"pin"`   // a reference: file:PATH or env:NAME
	SOPIN   string `yaml:"soPIN"` // a reference; needed to initialise
}

// ServiceKeys are the labels of the service's own keys.
type ServiceKeys struct {
	Origin    string `yaml:"origin"` // name of the audit log
	Log       string `yaml:"log"`
	Pseudonym string `yaml:"pseudonym"`
	State     string `yaml:"state"`
}

// Officers are the first ones.
type Officers struct {
	Approvals int       `yaml:"approvals"` // k
	First     []Officer `yaml:"first"`
}

// Officer is one of them.
type Officer struct {
	Name     string `yaml:"name"`
	Identity string `yaml:"identity"` // SPIFFE URI
	Public   string `yaml:"public"`   // the line that "cardkms officer enrol" printed
}

// KEK is a key-encryption key of the token: an AES-256 key from components, or an
// RSA-3072 pair that is generated and whose public half is written to a file.
type KEK struct {
	Label     string        `yaml:"label"`
	Algorithm key.Algorithm `yaml:"algorithm"`
	Public    string        `yaml:"public"` // file for the public half of a pair
	Value     `yaml:",inline"`
}

// Key is one version of a master key. Without diversification it has three values.
type Key struct {
	Issuer          string           `yaml:"issuer"`
	Name            string           `yaml:"key"`
	Token           string           `yaml:"token"` // of the configuration's tokens; none for the main one
	Usage           key.Usage        `yaml:"usage"`
	KVN             string           `yaml:"kvn"` // two hexadecimal digits
	Algorithm       key.Algorithm    `yaml:"algorithm"`
	CardAlgorithm   key.Algorithm    `yaml:"cardAlgorithm"`
	Diversification diversify.Method `yaml:"diversification"`
	Master          *Value           `yaml:"master"`
	ENC             *Value           `yaml:"enc"`
	MAC             *Value           `yaml:"mac"`
	DEK             *Value           `yaml:"dek"`
}

// Profile registers a version of a card profile. Whoever signs the file signs its
// document.
type Profile struct {
	Issuer   string `yaml:"issuer"`
	Document string `yaml:"document"` // YAML, see package profile

	name string // that the document has
}

// String names the profile.
func (p Profile) String() string { return "issuers/" + p.Issuer + "/profiles/" + p.name }

// Name returns the name of the profile.
func (p Profile) Name() string { return p.name }

// Value says where the value of a key comes from: one of the three.
type Value struct {
	Generate   bool        `yaml:"generate"`
	Components []Component `yaml:"components"` // 2 or 3
	Wrapped    *Wrapped    `yaml:"wrapped"`
	KCV        string      `yaml:"kcv"` // METHOD:VALUE of the key; not for a generated one
}

// Component is an XOR component of a key.
type Component struct {
	Custodian string `yaml:"custodian"`
	KCV       string `yaml:"kcv"` // METHOD:VALUE, as the custodian's sheet has it
}

// Wrapped is a key under a key-encryption key.
type Wrapped struct {
	KEK    string `yaml:"kek"`
	Method string `yaml:"method"`
	Blob   string `yaml:"blob"` // hexadecimal
}

// Parse reads and checks a file.
func Parse(b []byte) (*File, error) {
	if len(b) > fileBytesMax {
		return nil, invalid("the file is larger than %d bytes", fileBytesMax)
	}
	f := &File{Digest: sha256.Sum256(b)}
	if err := decode(b, f); err != nil {
		return nil, fmt.Errorf("reading the ceremony's file: %w", err)
	}
	for i := range f.Keys {
		f.Keys[i].defaults()
	}
	return f, f.check()
}

// decode reads the YAML. goccy/go-yaml 1.19.2 panics on some files, e.g. with a tag
// where a list belongs; to whoever wrote such a file that is one that cannot be read.
func decode(b []byte, f *File) (err error) {
	defer func() {
		if why := recover(); why != nil {
			err = invalid("this is not YAML of the form that stands in deploy/CEREMONY.md")
		}
	}()
	d := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict())
	if err := d.Decode(f); err != nil {
		return err
	}
	var more any
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return invalid("the file has more than one document; nobody would read the others")
	}
	return nil
}

// defaults are those of a key that says no more than where it comes from.
func (k *Key) defaults() {
	if k.Usage == "" {
		k.Usage = key.GPSCP03
	}
	if k.Usage == key.GPSCP02 { // the only algorithm that there is; how cards were diversified is said
		k.Algorithm, k.CardAlgorithm = cmp.Or(k.Algorithm, key.TDEA2), cmp.Or(k.CardAlgorithm, key.TDEA2)
		return
	}
	k.Algorithm, k.CardAlgorithm = cmp.Or(k.Algorithm, key.AES256), cmp.Or(k.CardAlgorithm, key.AES128)
	k.Diversification = cmp.Or(k.Diversification, diversify.KDF3)
}

// Hex returns the digest as the log has it.
func (f *File) Hex() string { return hex.EncodeToString(f.Digest[:]) }

func invalid(format string, args ...any) error {
	return fault.New(fault.InvalidInput, fmt.Sprintf(format, args...))
}

// personName is what the log can hold of a person's name.
var personName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// kcvText is a check value with its method.
var kcvText = regexp.MustCompile(`^([a-z-]+):([0-9A-F]{6})$`)

// ParseKCV reads METHOD:VALUE.
func ParseKCV(s string) (key.KCV, error) {
	m := kcvText.FindStringSubmatch(s)
	if m == nil {
		return key.KCV{}, invalid("a check value is METHOD:VALUE with six upper-case hexadecimal digits, e.g. gp-aes:57C409")
	}
	return key.KCV{Method: key.KCVMethod(m[1]), Value: m[2]}, nil
}

// Describe returns the key version that the service makes.
func (k Key) Describe() (kms.NewKey, error) {
	kvn, err := hex.DecodeString(k.KVN)
	if err != nil || len(kvn) != 1 {
		return kms.NewKey{}, invalid("kvn has two hexadecimal digits")
	}
	n := kms.NewKey{
		Issuer: k.Issuer, Name: k.Name, Token: k.Token, Usage: k.Usage, KVN: kvn[0],
		Algorithm: k.Algorithm, CardAlgorithm: k.CardAlgorithm, Diversification: k.Diversification,
	}
	return n, n.Check()
}

// String names the version before it has a number.
func (k Key) String() string {
	return fmt.Sprintf("issuers/%s/keys/%s/kvn/%s", k.Issuer, k.Name, k.KVN)
}

// Values returns the values of the key by part.
func (k Key) Values() map[key.Part]*Value {
	out := map[key.Part]*Value{}
	for p, v := range map[key.Part]*Value{key.Master: k.Master, key.ENC: k.ENC, key.MAC: k.MAC, key.DEK: k.DEK} {
		if v != nil {
			out[p] = v
		}
	}
	return out
}
