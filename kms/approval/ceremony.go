package approval

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"

	"cardkms/kms/fault"
)

// CeremonyOperation is the signing of the file of a key ceremony, which needs as many
// officers as the default policy says.
const CeremonyOperation = "ceremony.run"

// CeremonyStatement returns what an officer signs to approve a key ceremony: the line
// "cardkms-ceremony/1" and the SHA-256 digest of its file in 64 lower-case hex digits;
// each ends with one line feed. The first line keeps it apart from a decision about a
// proposal.
func CeremonyStatement(digest [32]byte) []byte {
	return []byte("cardkms-ceremony/1\n" + hex.EncodeToString(digest[:]) + "\n")
}

// CeremonySigners returns the active officers for every issuer whose signatures over
// a ceremony these are, by name; each counts once. A signature that does not verify is
// a fault.ProofFailed, so that nobody takes a damaged file for an approved one.
func (all Officers) CeremonySigners(digest [32]byte, signatures map[string][]byte) (names []string, err error) {
	for name, signature := range signatures {
		o, ok := all[name]
		if !ok || !o.Serves("") || !ed25519.Verify(o.Public, CeremonyStatement(digest), signature) {
			// The name is a line of a file of the ceremony's own directory.
			return nil, fault.New(fault.ProofFailed, fmt.Sprintf("the ceremony's signature of %q is not that of an active officer for every issuer; remove its line and sign again", name))
		}
		names = append(names, name)
	}
	return names, nil
}
