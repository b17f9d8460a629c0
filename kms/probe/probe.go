// Package probe runs known answers through a token.
//
// It reads the vector files that standards bodies and other people's programs
// published, in the schemas interop-gp-1 (SCP02 and SCP03), interop-div-1,
// interop-recorded-1 and the list of known answers "cardkms known-answer vectors
// v1". Each key of a vector is imported as a session object, used by the same code
// that serves cards, and destroyed. Derived keys cannot be read, so they are
// compared by what they compute: cryptograms, wrapped commands, unwrapped
// responses, check values, or inside the token with the expected value.
//
// One vector gives one Result, PUT KEY a further one. A vector that cardkms does
// not serve, or that the token cannot compute inside, is skipped with its reason;
// nothing is ever computed outside the token instead.
package probe

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// Verdict is what became of a vector.
type Verdict string

// The verdicts.
const (
	Pass Verdict = "PASS"
	Fail Verdict = "FAIL"
	Skip Verdict = "SKIP"
)

// Result is one line of a report.
type Result struct {
	Verdict Verdict
	ID      string
	Reason  string // empty for Pass
}

// String formats the result as one line.
func (r Result) String() string {
	return strings.TrimRight(fmt.Sprintf("%s %s %s", r.Verdict, r.ID, r.Reason), " ")
}

// Count returns how many results have each verdict.
func Count(results []Result) (passed, failed, skipped int) {
	for _, r := range results {
		switch r.Verdict {
		case Pass:
			passed++
		case Fail:
			failed++
		case Skip:
			skipped++
		}
	}
	return passed, failed, skipped
}

// skip is the reason not to run a vector.
type skip string

func (s skip) Error() string { return string(s) }

// mismatch is a value that is not the known answer. Vectors are public, so both
// values may be shown.
func mismatch(what string, got, want []byte) error {
	return fmt.Errorf("%s is %X, want %X", what, got, want)
}

// Judge makes the line of a report of what became of a case.
func Judge(id string, err error) Result {
	var s skip
	switch {
	case err == nil:
		return Result{Verdict: Pass, ID: id}
	case errors.As(err, &s):
		return Result{Verdict: Skip, ID: id, Reason: string(s)}
	case fault.CodeOf(err) == fault.TokenUnable:
		return Result{Verdict: Skip, ID: id, Reason: err.Error()}
	}
	return Result{Verdict: Fail, ID: id, Reason: err.Error()}
}

// Run reads one file and runs its vectors. An unreadable file is an error, an
// unexpected vector a failed result.
func Run(ctx context.Context, t derive.VectorToken, file []byte) ([]Result, error) {
	var head struct {
		Meta struct {
			Schema string `json:"schema"`
		} `json:"meta"`
		Vectors []standard        `json:"vectors"`
		Cases   []json.RawMessage `json:"cases"`
		cmacFile
	}
	if err := json.Unmarshal(file, &head); err != nil {
		return nil, fmt.Errorf("probe: reading a vector file: %w", err)
	}
	switch {
	case head.Vectors != nil:
		return runStandards(ctx, t, head.Vectors), nil
	case head.SP != nil:
		return head.run(ctx, t), nil
	case head.Cases == nil:
		return nil, errors.New("probe: the file has neither vectors nor cases")
	}
	run, err := runnerFor(head.Meta.Schema, head.Cases)
	if err != nil {
		return nil, err
	}
	var out []Result
	for _, raw := range head.Cases {
		out = append(out, run(ctx, t, raw)...)
	}
	return out, nil
}

type runner func(context.Context, derive.VectorToken, json.RawMessage) []Result

// runnerFor chooses by the schema's name, or by the first case of a file that
// does not name its schema.
func runnerFor(schema string, cases []json.RawMessage) (runner, error) {
	if schema == "" && len(cases) > 0 {
		var c struct {
			Protocol   string          `json:"protocol"`
			Method     string          `json:"method"`
			Transcript json.RawMessage `json:"transcript"`
			PRF        string          `json:"prf"`
			Constant   string          `json:"constant"`
		}
		if err := json.Unmarshal(cases[0], &c); err != nil {
			return nil, fmt.Errorf("probe: reading a vector file: %w", err)
		}
		switch {
		case c.Protocol != "":
			schema = "interop-gp-1"
		case c.Transcript != nil:
			schema = "interop-recorded-1"
		case c.Method != "":
			schema = "interop-div-1"
		case c.PRF != "":
			return numbered(runKDF), nil
		case c.Constant != "":
			return numbered(runConstant), nil
		}
	}
	switch schema {
	case "interop-gp-1":
		return runGP, nil
	case "interop-div-1":
		return one(runDiversification), nil
	case "interop-recorded-1":
		return one(runRecorded), nil
	case "interop-emv-1":
		return one(runEMVPeer), nil
	}
	return one(func(context.Context, derive.VectorToken, json.RawMessage) error {
		return unservedReason(schema)
	}), nil
}

// numbered makes a runner for cases that have no name.
func numbered(f func(context.Context, derive.VectorToken, json.RawMessage) error) runner {
	n := 0
	return func(ctx context.Context, t derive.VectorToken, raw json.RawMessage) []Result {
		n++
		return []Result{Judge(fmt.Sprintf("case-%d", n), f(ctx, t, raw))}
	}
}

// one makes a runner of a function that gives one verdict per case.
func one(f func(context.Context, derive.VectorToken, json.RawMessage) error) runner {
	return func(ctx context.Context, t derive.VectorToken, raw json.RawMessage) []Result {
		var c struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(raw, &c); err != nil {
			return []Result{{Fail, "?", err.Error()}}
		}
		return []Result{Judge(c.ID, f(ctx, t, raw))}
	}
}

// octets are bytes in hexadecimal of either case; nil for null.
type octets []byte

// UnmarshalJSON implements json.Unmarshaler.
func (o *octets) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil || s == nil {
		return err
	}
	v, err := hex.DecodeString(*s)
	*o = append(octets{}, v...)
	return err
}

// octetList is one value in hexadecimal, or several.
type octetList []octets

// UnmarshalJSON implements json.Unmarshaler.
func (l *octetList) UnmarshalJSON(b []byte) error {
	var one octets
	if json.Unmarshal(b, &one) == nil {
		*l = nil
		if one != nil {
			*l = octetList{one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]octets)(l))
}

// bench imports the keys of one vector and forgets them all at its end.
type bench struct {
	ctx     context.Context
	token   derive.VectorToken
	count   int
	cleanup []func()
}

func (b *bench) close() {
	for _, f := range b.cleanup {
		f()
	}
}

// aes imports an AES key.
func (b *bench) aes(c derive.Class, value []byte) (*derive.Key, error) {
	a, err := key.AESOfSize(len(value))
	if err != nil {
		return nil, err
	}
	return b.add(a, c, value)
}

// tdea imports a 3DES master key.
func (b *bench) tdea(value []byte) (*derive.Key, error) {
	if len(value) == key.TDEA3.Size() {
		return b.add(key.TDEA3, derive.Static, value)
	}
	return b.tdeaOf(derive.Static, value)
}

// tdeaOf imports a 2-key 3DES key.
func (b *bench) tdeaOf(c derive.Class, value []byte) (*derive.Key, error) {
	return b.add(key.TDEA2, c, value)
}

func (b *bench) add(a key.Algorithm, c derive.Class, value []byte) (*derive.Key, error) {
	b.count++
	k, forget, err := b.token.ImportVolatile(b.ctx, fmt.Sprintf("cardkms-vector-%d", b.count), a, c, value)
	if err != nil {
		return nil, fmt.Errorf("importing a key: %w", err)
	}
	b.cleanup = append(b.cleanup, forget)
	return k, nil
}

// errNoAnswer is a case that gives nothing to compare; it must not pass.
var errNoAnswer = errors.New("the case has no known answer")

// equalKey compares a derived key with its known value inside the token; 3DES
// keys by check value, because parity bits do not matter.
func (b *bench) equalKey(what string, k *derive.Key, want []byte) error {
	if len(want) != k.Algorithm().Size() {
		return fmt.Errorf("the known answer for %s has %d bytes, a key of type %s has %d", what, len(want), k.Algorithm(), k.Algorithm().Size())
	}
	b.cleanup = append([]func(){func() { b.token.Release(k) }}, b.cleanup...)
	if k.Algorithm().TDEA() || k.Parent() == nil {
		kcv, err := b.token.KCV(b.ctx, k)
		if err != nil {
			return err
		}
		return equalKCV(what, kcv, kcvOf(k.Algorithm(), want))
	}
	ok, err := b.token.Matches(b.ctx, k.Parent(), k.Step(), want)
	if err == nil && !ok {
		err = fmt.Errorf("%s is another key than the known answer", what)
	}
	return err
}

func equalKCV(what string, got key.KCV, want string) error {
	if got.Value != strings.ToUpper(want) {
		return fmt.Errorf("%s has the check value %s (%s), want %s", what, got.Value, got.Method, strings.ToUpper(want))
	}
	return nil
}
