package approval

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cardkms/kms/fault"
)

// Bounds of a proposal.
const (
	// ProposalBytesMax is the greatest length of an encoding in bytes: twelve
	// detail values of an audit entry hold it in base64url.
	ProposalBytesMax = 12 * 192
	// ParamsMax is the greatest number of parameters.
	ParamsMax = 16
	// LifeMax is the longest time between creation and expiry.
	LifeMax = 7 * 24 * time.Hour
)

const (
	header     = "cardkms-proposal/1"
	none       = "-"
	timeLayout = "2006-01-02T15:04:05Z"
)

// Proposal is an operation that an officer wants to have done.
type Proposal struct {
	ID        string // 128 random bits, 32 lower-case hex digits
	Issuer    string // empty: concerns every issuer
	Operation string
	Object    string // resource name
	Expected  int64  // version of the object's row; 0: there must be none
	Proposer  string // name of an officer
	Created   time.Time
	Expires   time.Time
	Params    map[string]string
}

// invalid never repeats a value, because a refused value may be anything.
func invalid(field, want string) error {
	return fault.New(fault.InvalidInput, "the proposal's "+field+" is not "+want)
}

// Validate returns a fault.InvalidInput if the encoding cannot hold the proposal.
func (p Proposal) Validate() error {
	switch {
	case !validID(p.ID):
		return invalid("id", "128 bits in lower-case hexadecimal")
	case p.Issuer != "" && !validIssuer(p.Issuer):
		return invalid("issuer", "the name of an issuer")
	case !validOperation(p.Operation):
		return invalid("operation", "the name of an operation")
	case !validObject(p.Object):
		return invalid("object", "a resource name")
	case p.Expected < 0:
		return invalid("expected version", "a version")
	case !validOfficer(p.Proposer):
		return invalid("proposer", "the name of an officer")
	case !validTime(p.Created) || !validTime(p.Expires) || !p.Created.Before(p.Expires) || p.Expires.Sub(p.Created) > LifeMax:
		return invalid("life time", "at most seven days, in whole seconds")
	case len(p.Params) > ParamsMax:
		return invalid("parameter list", "one of at most 16")
	}
	for k, v := range p.Params {
		if !validKey(k) || !validValue(v) {
			return invalid("parameter", "made of the characters that are allowed")
		}
	}
	return nil
}

// validTime accepts what the layout holds without loss.
func validTime(t time.Time) bool {
	again, err := time.Parse(timeLayout, t.UTC().Format(timeLayout))
	return err == nil && again.Equal(t)
}

// Encode returns the one encoding of the proposal.
func (p Proposal) Encode() ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nid %s\nissuer %s\noperation %s\nobject %s\nexpected %d\nproposer %s\ncreated %s\nexpires %s\nparams %s\n",
		header, p.ID, orNone(p.Issuer), p.Operation, p.Object, p.Expected, p.Proposer,
		p.Created.UTC().Format(timeLayout), p.Expires.UTC().Format(timeLayout), orNone(p.params()))
	if b.Len() > ProposalBytesMax {
		return nil, fault.New(fault.TooLarge, fmt.Sprintf("a proposal has at most %d bytes", ProposalBytesMax))
	}
	return b.Bytes(), nil
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

func (p Proposal) params() string {
	pairs := make([]string, 0, len(p.Params))
	for _, k := range slices.Sorted(maps.Keys(p.Params)) {
		pairs = append(pairs, k+"="+p.Params[k])
	}
	return strings.Join(pairs, " ")
}

// errEncoding: the bytes are not the encoding of a proposal.
var errEncoding = fault.New(fault.InvalidInput, "this is not the encoding of a proposal")

// Parse returns the proposal with this encoding. It encodes the result again and
// compares, so that two different texts never mean the same proposal.
func Parse(encoding []byte) (Proposal, error) {
	names := [...]string{"id", "issuer", "operation", "object", "expected", "proposer", "created", "expires", "params"}
	if len(encoding) > ProposalBytesMax {
		return Proposal{}, errEncoding
	}
	lines := strings.Split(string(encoding), "\n")
	if len(lines) != len(names)+2 || lines[0] != header {
		return Proposal{}, errEncoding
	}
	var values [len(names)]string
	for i, name := range names {
		v, ok := strings.CutPrefix(lines[i+1], name+" ")
		if !ok {
			return Proposal{}, errEncoding
		}
		if v != none {
			values[i] = v
		}
	}
	// What does not parse stays zero and fails the comparison.
	p := Proposal{ID: values[0], Issuer: values[1], Operation: values[2], Object: values[3], Proposer: values[5]}
	p.Expected, _ = strconv.ParseInt(values[4], 10, 64)
	p.Created, _ = time.Parse(timeLayout, values[6])
	p.Expires, _ = time.Parse(timeLayout, values[7])
	p.Params = parseParams(values[8])
	again, err := p.Encode()
	if err != nil || !bytes.Equal(again, encoding) {
		return Proposal{}, errEncoding
	}
	return p, nil
}

func parseParams(line string) map[string]string {
	if line == "" {
		return nil
	}
	params := map[string]string{}
	for pair := range strings.SplitSeq(line, " ") {
		k, v, _ := strings.Cut(pair, "=")
		params[k] = v
	}
	return params
}

// MarshalText returns the encoding, so that a proposal in JSON is its encoding.
func (p Proposal) MarshalText() ([]byte, error) { return p.Encode() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Proposal) UnmarshalText(b []byte) (err error) {
	*p, err = Parse(b)
	return err
}

// Digest is the SHA-256 digest of a proposal's encoding.
type Digest [sha256.Size]byte

// Digest returns the digest of the proposal; an invalid one has none.
func (p Proposal) Digest() (Digest, error) {
	b, err := p.Encode()
	if err != nil {
		return Digest{}, err
	}
	return sha256.Sum256(b), nil
}

// DigestOf returns the digest of an encoding.
func DigestOf(encoding []byte) Digest { return sha256.Sum256(encoding) }
