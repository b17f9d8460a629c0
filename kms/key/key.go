// Package key names master keys and says what each of them may do.
//
// A key belongs to one issuer and has a usage fixed at its creation; a version
// of it is one value (or, without diversification, one value each for K-ENC,
// K-MAC and K-DEK) inside the token. Nothing here holds a key value or does I/O.
//
// Life-cycle states are those of [SP 800-57] NIST SP 800-57 Part 1 Revision 5,
// Section 7. What each state may still do is decided here and nowhere else:
//
//	                     ┌────────────┐
//	                     ▼            │
//	pre-activation ──▶ active ──▶ suspended          may do
//	    │  │             │  │         │  │           pre-activation  nothing
//	    │  │             │  ▼         ▼  │           active          everything
//	    │  │             │ deactivated ──┼──┐        suspended       nothing
//	    │  │             │     │         │  │        deactivated     move its cards
//	    │  ▼             ▼     ▼         ▼  │        compromised     move its cards, if a
//	    │ compromised ◀──┴─────┴─────────┘  │                        plan was approved
//	    │  │                                │        destroyed       nothing
//	    ▼  ▼                                │
//	destroyed ◀─────────────────────────────┘
//
// Token, usage, algorithms, diversification and KVN are fixed at creation. A cryptoperiod
// that is over makes an active version a deactivated one for every use.
package key

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Usage says which protocol a key serves. It never changes.
type Usage string

// The usages that this version serves.
const (
	GPSCP03    Usage = "gp-scp03"    // card static keys K-ENC, K-MAC, K-DEK of SCP03
	GPSCP02    Usage = "gp-scp02"    // the same of SCP02, which is deprecated: see Version.LegacyUntil
	CardUpdate Usage = "card-update" // K-UPD, the update key of a card
	EMVAC      Usage = "emv-ac"      // issuer master key of application cryptograms, IMK-AC
	EMVSMI     Usage = "emv-smi"     // of the integrity of issuer scripts, IMK-SMI
	EMVSMC     Usage = "emv-smc"     // of their confidentiality, IMK-SMC
	OTA        Usage = "ota"         // a card's KIc and KID of SCP80, secured packets over the air
	// GPSCP11 is the host's own pair of SCP11a and c, SK.OCE.ECKA: no card has it.
	GPSCP11    Usage = "gp-scp11"
	LogSigning Usage = "log-signing" // Ed25519 or ECDSA P-256, signs checkpoints of the audit log
)

// Channels reports whether keys of the usage open Secure Channel Sessions.
func (u Usage) Channels() bool { return u == GPSCP03 || u == GPSCP02 }

// EMV reports whether keys of the usage are issuer master keys of EMV.
func (u Usage) EMV() bool { return u == EMVAC || u == EMVSMI || u == EMVSMC }

// Algorithm is the type and size of a key value.
type Algorithm string

// The algorithms of master and card keys.
const (
	AES128  Algorithm = "aes-128"
	AES192  Algorithm = "aes-192"
	AES256  Algorithm = "aes-256"
	TDEA2   Algorithm = "tdea-2key" // 16 bytes, K1|K2|K1
	TDEA3   Algorithm = "tdea-3key" // 24 bytes
	Ed25519 Algorithm = "ed25519"
	P256    Algorithm = "ecdsa-p256"
	RSA3072 Algorithm = "rsa-3072" // of a key-encryption key
	ECP256  Algorithm = "ec-p256"  // a pair on P-256 that agrees on secrets
)

// Size returns the length of a symmetric key value in bytes, 0 for others.
func (a Algorithm) Size() int {
	switch a {
	case AES128, TDEA2:
		return 16
	case AES192, TDEA3:
		return 24
	case AES256:
		return 32
	}
	return 0
}

// TDEA reports whether the algorithm is 3DES.
func (a Algorithm) TDEA() bool { return a == TDEA2 || a == TDEA3 }

// Strength returns the bits of security of an algorithm that keeps other keys
// secret or is kept secret by one: [SP 800-57], Table 2. 0 for others.
func (a Algorithm) Strength() int {
	switch a {
	case TDEA2:
		return 80
	case TDEA3:
		return 112
	case AES128, RSA3072:
		return 128
	case AES192:
		return 192
	case AES256:
		return 256
	}
	return 0
}

// AESOfSize returns the AES algorithm with keys of n bytes.
func AESOfSize(n int) (Algorithm, error) {
	switch n {
	case 16:
		return AES128, nil
	case 24:
		return AES192, nil
	case 32:
		return AES256, nil
	}
	return "", fmt.Errorf("key: no AES key has %d bytes", n)
}

// KCVMethod names how a key check value was computed; a value without its
// method cannot be compared.
type KCVMethod string

// The methods of key check values.
const (
	KCVGPAES KCVMethod = "gp-aes"    // first 3 bytes of AES over 16 bytes 01
	KCVTDEA  KCVMethod = "tdea-zero" // first 3 bytes of 3DES over 8 zero bytes
	KCVCMAC  KCVMethod = "aes-cmac"  // first 3 bytes of AES-CMAC over a zero block
	KCVSPKI  KCVMethod = "spki-sha"  // first 3 bytes of SHA-256 over the SubjectPublicKeyInfo of a pair
)

// KCV is a key check value with its method.
type KCV struct {
	Method KCVMethod `json:"method"`
	Value  string    `json:"value"` // 6 upper-case hex digits
}

// MethodFor returns the method that the field uses for an algorithm.
func MethodFor(a Algorithm) KCVMethod {
	switch {
	case a.TDEA():
		return KCVTDEA
	case a == ECP256:
		return KCVSPKI
	}
	return KCVGPAES
}

// Part is one key value of a version inside the token.
type Part string

// The parts of a version. A diversified version has only a Master; a version
// without diversification holds the card keys themselves.
const (
	Master Part = "master"
	ENC    Part = "enc"
	MAC    Part = "mac"
	DEK    Part = "dek"
)

// ID names one version of a key.
type ID struct {
	Issuer  string
	Name    string
	Version int
}

// String returns the resource name issuers/{issuer}/keys/{key}/versions/{n}.
func (id ID) String() string {
	return fmt.Sprintf("issuers/%s/keys/%s/versions/%d", id.Issuer, id.Name, id.Version)
}

// Label returns the CKA_LABEL of one part of the version inside the token.
func (id ID) Label(p Part) string { return id.String() + "#" + string(p) }

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// ValidName reports whether s can name an issuer, a key, an image or a profile:
// 1 to 63 lower-case letters, digits and hyphens, a letter first.
func ValidName(s string) bool { return nameRE.MatchString(s) }

// ParseID parses what String returns.
func ParseID(s string) (ID, error) {
	f := strings.Split(s, "/")
	if len(f) != 6 || f[0] != "issuers" || f[2] != "keys" || f[4] != "versions" {
		return ID{}, fmt.Errorf("key: %q is not a version's resource name", s)
	}
	n, err := strconv.Atoi(f[5])
	id := ID{Issuer: f[1], Name: f[3], Version: n}
	if err != nil || n < 1 || !ValidName(id.Issuer) || !ValidName(id.Name) || id.String() != s {
		return ID{}, fmt.Errorf("key: %q is not a version's resource name", s)
	}
	return id, nil
}

// Version is what the service knows of one version: everything but its value.
type Version struct {
	ID              ID        `json:"id"`
	Token           string    `json:"token,omitempty"` // name of the token that holds it; empty for the main one
	Usage           Usage     `json:"usage"`
	Algorithm       Algorithm `json:"algorithm"`
	CardAlgorithm   Algorithm `json:"cardAlgorithm"`   // of the card keys derived from it
	Diversification string    `json:"diversification"` // a method of derive/diversify
	KVN             byte      `json:"kvn"`             // Key Version Number on the cards
	State           State     `json:"state"`
	Created         time.Time `json:"created"` // begin of the cryptoperiod
	Ends            time.Time `json:"ends"`    // of the cryptoperiod; zero for none
	// MovePlanned: an approved plan lets a compromised version reach the cards that
	// carry it, to give them a newer one.
	MovePlanned bool `json:"movePlanned,omitempty"`
	// LegacyUntil is the end of the exception under which a version of gp-scp02 serves at
	// all; zero for none.
	LegacyUntil time.Time `json:"legacyUntil,omitzero"`
	// DestroyAt is when the version's objects leave the token; zero for never.
	DestroyAt time.Time `json:"destroyAt,omitzero"`
	// Destroying is set before the first object goes.
	Destroying bool `json:"destroying,omitempty"`
	// PublicKey is the SubjectPublicKeyInfo of a version that is a pair, in DER; empty for
	// others.
	PublicKey []byte       `json:"publicKey,omitempty"`
	KCVs      map[Part]KCV `json:"kcvs"`
	// Ceremony is the SHA-256 of the file of the ceremony that made it, in hex; empty for
	// one that officers had made by proposal.
	Ceremony string `json:"ceremony,omitempty"`
}
