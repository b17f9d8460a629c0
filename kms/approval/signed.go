package approval

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"cardkms/kms/fault"
)

// What officers sign as a file, each on a machine of their own, because there is no
// service to take a decision: the file of a key ceremony, and a Restoration. The
// signatures go with it in a second file, see ParseSignatures.
const (
	// CeremonyOperation is the signing of a key ceremony, which needs as many officers
	// as the strictest of the policies default, key.create, key.activate and
	// profile.register says.
	CeremonyOperation = "ceremony.run"
	// LogRestore is the signing of a Restoration, and the entry that tells of it. It
	// may take back anything, so the strictest policy of all counts.
	LogRestore = "log.restore"
)

// CeremonyStatement returns what an officer signs to approve a key ceremony: the line
// "cardkms-ceremony/1" and the SHA-256 digest of its file in 64 lower-case hex digits;
// each ends with one line feed. The first line keeps it apart from a decision about a
// proposal.
func CeremonyStatement(digest [32]byte) []byte {
	return []byte("cardkms-ceremony/1\n" + hex.EncodeToString(digest[:]) + "\n")
}

// Signatures are those of officers over one statement, by name.
type Signatures map[string][]byte

// SignaturesMax bounds how many signatures there are of one statement: one audit entry
// holds them all, and no policy asks for more.
const SignaturesMax = KMax

// Quorum returns the names, sorted, of the active officers for every issuer who signed
// a statement; each counts once. Fewer than k are fault.ApprovalRequired. A signature
// that does not verify is fault.ProofFailed, so that nobody takes a damaged file for an
// approved one.
func (all Officers) Quorum(statement []byte, signatures Signatures, k int) (names []string, err error) {
	if len(signatures) > SignaturesMax {
		return nil, fault.New(fault.TooLarge, fmt.Sprintf("at most %d signatures count", SignaturesMax))
	}
	for _, name := range slices.Sorted(maps.Keys(signatures)) {
		o, ok := all[name]
		if !ok || !o.Serves("") || !ed25519.Verify(o.Public, statement, signatures[name]) {
			// The name is a line of a file beside the one that was signed.
			return nil, fault.New(fault.ProofFailed, fmt.Sprintf("the signature of %q is not that of an active officer for every issuer over this file; remove its line and sign again", name))
		}
		names = append(names, name)
	}
	if k = max(k, KMin); len(names) < k {
		return names, fault.New(fault.ApprovalRequired, fmt.Sprintf("%d officers signed the file, %d are needed", len(names), k))
	}
	return names, nil
}

// ParseSignatures reads the file of signatures: lines of a name, a space and the
// signature in base64.
func ParseSignatures(b []byte) (Signatures, error) {
	out := Signatures{}
	for line := range bytes.Lines(b) {
		name, text, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		signature, err := base64.StdEncoding.Strict().DecodeString(text)
		if _, twice := out[name]; err != nil || twice || !validOfficer(name) || len(signature) != ed25519.SignatureSize {
			return nil, fault.New(fault.InvalidInput, "a line of signatures is the name of an officer, a space and a signature in base64, one for each officer")
		}
		out[name] = signature
	}
	return out, nil
}

// Encode returns the file of signatures, sorted by name.
func (s Signatures) Encode() []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "%s %s\n", name, base64.StdEncoding.EncodeToString(s[name]))
	}
	return b.Bytes()
}

// AddTo puts the signatures into the details of an entry: s0, s1, … are pieces of the
// base64url of, for each officer by name, the length of the name (1 byte), the name
// and the signature (64 bytes). SignaturesMax of them take eleven details.
func (s Signatures) AddTo(detail map[string]string) {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(s)) {
		b = append(append(append(b, byte(len(name))), name...), s[name]...)
	}
	addPieces(detail, "s", b)
}

// signaturesIn reads what AddTo wrote.
func signaturesIn(detail map[string]string) (Signatures, error) {
	b, err := piecesIn(detail, "s")
	out := Signatures{}
	for err == nil && len(b) > 0 {
		n := 1 + int(b[0])
		if len(b) < n+ed25519.SignatureSize {
			return nil, errEncoding
		}
		out[string(b[1:n])], b = b[n:n+ed25519.SignatureSize], b[n+ed25519.SignatureSize:]
	}
	return out, err
}

// How bytes stand in an entry: NAME0, NAME1, … are pieces of their base64url.
const (
	pieceChars = 256
	piecesMax  = 16 // an entry has no more details
)

func addPieces(detail map[string]string, name string, b []byte) {
	rest := base64.RawURLEncoding.EncodeToString(b)
	for i := 0; rest != ""; i++ {
		n := min(len(rest), pieceChars)
		detail[name+strconv.Itoa(i)], rest = rest[:n], rest[n:]
	}
}

// piecesIn reads what addPieces wrote.
func piecesIn(detail map[string]string, name string) ([]byte, error) {
	var all strings.Builder
	for i := range piecesMax {
		all.WriteString(detail[name+strconv.Itoa(i)])
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(all.String())
	if err != nil {
		return nil, errEncoding
	}
	return b, nil
}
