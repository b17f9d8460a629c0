package fault_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cardkms/kms/fault"
)

// declared reads the constants of type Code from the source, in their order, with
// their comments.
func declared(t *testing.T) (codes []fault.Code, documented map[fault.Code]bool) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "fault.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	documented = map[fault.Code]bool{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			if id, ok := v.Type.(*ast.Ident); !ok || id.Name != "Code" || len(v.Values) != len(v.Names) {
				t.Fatalf("%s is a constant without its own type Code and value", v.Names[0])
			}
			for i := range v.Names {
				text, err := strconv.Unquote(v.Values[i].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				codes = append(codes, fault.Code(text))
				documented[fault.Code(text)] = v.Doc.Text() != ""
			}
		}
	}
	return codes, documented
}

// TestCodes: Codes lists every constant but OK, once, in the order of the source.
// The OpenAPI document and the metrics are made from it, so a code that is
// missing here could reach a caller who was never told of it.
func TestCodes(t *testing.T) {
	codes, documented := declared(t)
	if len(codes) < 20 || codes[0] != fault.OK {
		t.Fatalf("the source declares %v", codes)
	}
	if d := cmp.Diff(codes[1:], fault.Codes()); d != "" {
		t.Errorf("Codes and the constants differ: %s", d)
	}
	seen := map[fault.Code]bool{}
	for _, c := range codes {
		if seen[c] {
			t.Errorf("%s stands for two reasons", c)
		}
		seen[c] = true
		if !regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`).MatchString(string(c)) {
			t.Errorf("%q is not in snake_case", c)
		}
		if !documented[c] {
			t.Errorf("%s has no comment", c)
		}
	}
}

func TestCodeOf(t *testing.T) {
	cause := errors.New("CKR_DEVICE_ERROR")
	inner := fault.Because(fault.TokenUnavailable, "the token is lost", cause)
	for _, c := range []struct {
		name string
		err  error
		want fault.Code
	}{
		{"nil", nil, fault.OK},
		{"a plain error", cause, fault.Internal},
		{"an Error", fault.New(fault.NotFound, "no such card"), fault.NotFound},
		{"wrapped", fmt.Errorf("wrapping APDU 3 of 17: %w", inner), fault.TokenUnavailable},
		{"joined", errors.Join(cause, inner), fault.TokenUnavailable},
		{"the outer of two", fault.Because(fault.KeyState, "", inner), fault.KeyState},
	} {
		if got := fault.CodeOf(c.err); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if !errors.Is(inner, cause) {
		t.Error("the cause is lost")
	}
}

func TestErrorText(t *testing.T) {
	for _, c := range []struct {
		err  *fault.Error
		want string
	}{
		{fault.New(fault.NotFound, "no such card"), "not_found: no such card"},
		{fault.New(fault.Internal, ""), "internal"},
		{fault.Because(fault.Conflict, "exists", errors.New("disk")), "conflict: exists: disk"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestProof: every failed proof is the same error, field by field, and a fresh
// one, so that nobody can add a reason to another caller's.
func TestProof(t *testing.T) {
	a, b := fault.Proof(), fault.Proof()
	if a == b {
		t.Error("Proof returns a shared value")
	}
	if a.Code != fault.ProofFailed || a.Err != nil || a.Detail != b.Detail || a.Error() != b.Error() {
		t.Errorf("two proofs differ: %v, %v", a, b)
	}
}
