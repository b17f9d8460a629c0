package approval

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"

	"cardkms/kms/fault"
)

// Restoration is the decision of officers to go on with a database that is older than
// the checkpoints kept outside it. It names both by number of entries and root, so
// that it serves for this step back and for no other.
type Restoration struct {
	Log     string    // origin of the log
	From    Mark      // the newest checkpoint that an anchor keeps
	To      Mark      // the log as the database has it
	Created time.Time // in UTC, whole seconds
	Reason  string
}

// Mark is a log at one size.
type Mark struct {
	Size int64
	Root [32]byte
}

func (m Mark) String() string {
	return fmt.Sprintf("%d %s", m.Size, base64.StdEncoding.EncodeToString(m.Root[:]))
}

const restorationHeader = "cardkms-restoration/1"

var (
	validLog    = regexp.MustCompile(`^[A-Za-z0-9._:/-]{1,128}$`).MatchString
	validReason = regexp.MustCompile(`^[!-~]([ -~]{0,126}[!-~])?$`).MatchString
)

// Validate returns a fault.InvalidInput if the encoding cannot hold the restoration, or
// it is no step.
func (r Restoration) Validate() error {
	switch {
	case !validLog(r.Log):
		return fault.New(fault.InvalidInput, "the log's name has at most 128 letters, digits and . _ : / -")
	case r.To.Size < 0 || r.From.Size < 0 || r.From == r.To:
		return fault.New(fault.InvalidInput, "a restoration goes from what an anchor keeps to another log")
	case !validTime(r.Created):
		return fault.New(fault.InvalidInput, "a restoration is dated in whole seconds")
	case !validReason(r.Reason):
		return fault.New(fault.InvalidInput, "the reason is 1 to 128 visible ASCII characters and spaces between them")
	}
	return nil
}

// Encode returns the one encoding of the restoration.
func (r Restoration) Encode() ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s\nlog %s\nfrom %s\nto %s\ncreated %s\nreason %s\n",
		restorationHeader, r.Log, r.From, r.To, r.Created.UTC().Format(timeLayout), r.Reason), nil
}

// IsRestoration reports whether a file means to be one, and not a ceremony.
func IsRestoration(b []byte) bool { return bytes.HasPrefix(b, []byte(restorationHeader+"\n")) }

// ParseRestoration accepts exactly what Encode produces.
func ParseRestoration(encoding []byte) (r Restoration, err error) {
	var from, to, created string
	lines := strings.Split(string(encoding), "\n")
	for i, v := range []*string{&r.Log, &from, &to, &created, &r.Reason} {
		if i+1 < len(lines) {
			_, *v, _ = strings.Cut(lines[i+1], " ")
		}
	}
	// What does not parse stays zero and fails the comparison.
	r.From, r.To = parseMark(from), parseMark(to)
	r.Created, _ = time.Parse(timeLayout, created)
	again, err := r.Encode()
	if err != nil || !bytes.Equal(again, encoding) {
		return Restoration{}, fault.New(fault.InvalidInput, "this is not the encoding of a restoration")
	}
	return r, nil
}

func parseMark(s string) (m Mark) {
	var root string
	_, _ = fmt.Sscanf(s, "%d %s", &m.Size, &root)
	b, _ := base64.StdEncoding.DecodeString(root)
	copy(m.Root[:], b)
	return m
}

// Statement returns what an officer signs: the line "cardkms-restore/1" and the SHA-256
// digest of the encoding in 64 lower-case hex digits; each ends with one line feed.
func (r Restoration) Statement() ([]byte, error) {
	b, err := r.Encode()
	digest := sha256.Sum256(b)
	return []byte("cardkms-restore/1\n" + hex.EncodeToString(digest[:]) + "\n"), err
}

// live refuses a restoration that officers signed too long ago, or ahead of its time.
func (r Restoration) live(now time.Time) error {
	if now.Before(r.Created.Add(-clockSlack)) || now.After(r.Created.Add(LifeMax+clockSlack)) {
		return fault.New(fault.ApprovalExpired, "the restoration is more than seven days old, or of the future; state it anew")
	}
	return nil
}

// RestoreDetail returns the details of the entry that tells of a restoration: the sizes,
// r0, r1, … as pieces of its encoding, and the signatures. All of them fit into one.
func RestoreDetail(r Restoration, signatures Signatures) (map[string]string, error) {
	b, err := r.Encode()
	detail := map[string]string{"from_size": fmt.Sprint(r.From.Size), "to_size": fmt.Sprint(r.To.Size)}
	addPieces(detail, "r", b)
	signatures.AddTo(detail)
	return detail, err
}

// restoredIn reads what RestoreDetail wrote.
func restoredIn(detail map[string]string) (r Restoration, signatures Signatures, err error) {
	b, err := piecesIn(detail, "r")
	if err == nil {
		r, err = ParseRestoration(b)
	}
	if err == nil {
		signatures, err = signaturesIn(detail)
	}
	return r, signatures, err
}
