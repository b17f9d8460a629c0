package derive_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"cardkms/derive"
	"cardkms/kms/key"
)

var (
	baseRoot = derive.Root{
		Label: "issuers/a/keys/k/versions/1#master", Algorithm: key.AES128, Class: derive.Static,
		KCV: key.KCV{Method: key.KCVGPAES, Value: "504A77"},
	}
	baseStep = derive.Step{
		Function: derive.CMACCounter, Before: []byte{1, 2}, After: []byte{3},
		Class: derive.SessionMAC, Algorithm: key.AES128,
	}
)

// TestRootIdentity changes every field of a Root: a table of live objects is
// keyed by the ID, so two roots that differ anywhere must not share one.
func TestRootIdentity(t *testing.T) {
	seen := map[[32]byte]string{derive.FromRoot(baseRoot).ID(): "base"}
	for name, change := range map[string]func(*derive.Root){
		"label":      func(r *derive.Root) { r.Label += "2" },
		"algorithm":  func(r *derive.Root) { r.Algorithm = key.AES256 },
		"class":      func(r *derive.Root) { r.Class = derive.SessionMAC },
		"kcv value":  func(r *derive.Root) { r.KCV.Value = "504A78" },
		"kcv method": func(r *derive.Root) { r.KCV.Method = key.KCVCMAC },
		"volatile":   func(r *derive.Root) { r.Volatile = true },
		// A byte that moves from one field to its neighbour.
		"boundary": func(r *derive.Root) { r.Label, r.Algorithm = r.Label+"a", key.AES128[1:] },
	} {
		r := baseRoot
		change(&r)
		id := derive.FromRoot(r).ID()
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s have one ID", name, other)
		}
		seen[id] = name
	}
	if derive.FromRoot(baseRoot).ID() != derive.FromRoot(baseRoot).ID() {
		t.Error("equal roots have different IDs")
	}
}

// TestStepIdentity changes every field of a Step, moves bytes across the
// boundary of two fields, and moves a step to another parent.
func TestStepIdentity(t *testing.T) {
	root := derive.FromRoot(baseRoot)
	otherRoot := baseRoot
	otherRoot.Label = "other"
	ecb := derive.Step{Function: derive.ECB, Class: derive.Static, Algorithm: key.AES128}
	messages := func(m ...string) derive.Step {
		s := ecb
		for _, x := range m {
			s.Messages = append(s.Messages, []byte(x))
		}
		return s
	}
	with := func(change func(*derive.Step)) derive.Step {
		s := baseStep
		change(&s)
		return s
	}
	cases := []struct {
		name   string
		parent *derive.Key
		step   derive.Step
	}{
		{"base", root, baseStep},
		{"function", root, with(func(s *derive.Step) { s.Function = derive.CMACTwoBlocks })},
		{"class", root, with(func(s *derive.Step) { s.Class = derive.SessionENC })},
		{"algorithm", root, with(func(s *derive.Step) { s.Algorithm = key.AES256 })},
		{"before", root, with(func(s *derive.Step) { s.Before = []byte{1, 3} })},
		{"after", root, with(func(s *derive.Step) { s.After = []byte{4} })},
		{"offset", root, with(func(s *derive.Step) { s.Offset = 16 })},
		{"boundary before|after", root, with(func(s *derive.Step) { s.Before, s.After = []byte{1}, []byte{2, 3} })},
		{"all in before", root, with(func(s *derive.Step) { s.Before, s.After = []byte{1, 2, 3}, nil })},
		{"after in messages", root, with(func(s *derive.Step) { s.After, s.Messages = nil, [][]byte{{3}} })},
		{"an empty message", root, with(func(s *derive.Step) { s.Messages = [][]byte{{}} })},
		{"messages ab c", root, messages("ab", "c")},
		{"messages a bc", root, messages("a", "bc")},
		{"messages abc", root, messages("abc")},
		{"messages c ab", root, messages("c", "ab")},
		{"another root", derive.FromRoot(otherRoot), baseStep},
		{"one generation later", root.Derive(baseStep), baseStep},
	}
	seen := map[[32]byte]string{root.ID(): "the root"}
	for _, c := range cases {
		id := c.parent.Derive(c.step).ID()
		if other, ok := seen[id]; ok {
			t.Errorf("%q and %q have one ID", c.name, other)
		}
		seen[id] = c.name
		if id != c.parent.Derive(c.step).ID() {
			t.Errorf("%q has two IDs", c.name)
		}
	}
}

func TestKeyAccessors(t *testing.T) {
	root := derive.FromRoot(baseRoot)
	child := root.Derive(baseStep)
	if root.Parent() != nil || child.Parent() != root {
		t.Error("a parent is wrong")
	}
	if root.Class() != derive.Static || child.Class() != derive.SessionMAC {
		t.Error("a class is wrong")
	}
	other := baseStep
	other.Algorithm = key.AES256
	if root.Algorithm() != key.AES128 || root.Derive(other).Algorithm() != key.AES256 {
		t.Error("an algorithm is wrong")
	}
	if d := cmp.Diff(baseRoot, root.Root()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(baseStep, child.Step()); d != "" {
		t.Error(d)
	}
}
