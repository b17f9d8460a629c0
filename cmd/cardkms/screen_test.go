package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/kms/approval"
)

// TestNothingMovesTheCursor: what only the service says stays visible text within
// its line, whatever it is.
func TestNothingMovesTheCursor(t *testing.T) {
	const evil = "\x1b[2A\r\u009b1K\u202e\n  object     issuers/acme/cards/other"
	p := approval.Proposal{Operation: "card.release", Object: "issuers/acme/cards/6d1c", Created: time.Unix(0, 0), Expires: time.Unix(1, 0)}
	shown := api.Proposal{State: evil, EndedBy: evil, Decisions: []api.Decision{{Officer: evil, Decision: evil}}}
	for name, text := range map[string]string{"inWords": inWords(p, evil), "progress": progress(shown), "card": cardLine(api.Card{Package: evil})} {
		if screen(text) != text || strings.Contains(text, "\n  object     issuers/acme/cards/other") {
			t.Errorf("%s: %q", name, text)
		}
	}
	for subject, want := range map[string]string{
		"00010203040506070809":   " 00010203040506070809\n",
		"0001020304050607080F":   " 0001020304050607080F\n",
		"0001020304050607080":    ` "0001020304050607080"`,
		"00010203040506070809\n": ` "00010203040506070809\n"`,
		"card of ada, approved":  ` "card of ada, approved"`,
	} {
		if text := inWords(p, subject); !strings.Contains(text, "the service says is"+want) {
			t.Errorf("%q: %s", subject, text)
		}
	}
	if got, want := screen("a\tb\n— → é\x1b[0m\u009b\x00\x7f\u202e"), "a\tb\n— → é"+`\x1b[0m\u009b\x00\x7f\u202e`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	var out, said bytes.Buffer
	a := &app{out: &out, err: &said}
	if err := errors.Join(a.show(nil, "%s", evil), a.confirm(nil, true, "approve", evil)); err != nil || out.String() != screen(evil)+"\n" || said.String() != screen(evil) {
		t.Errorf("%q, %q, %v", &out, &said, err)
	}
	for in, want := range map[string]string{"": "", "issuers/acme": "issuers/acme", "a b": `"a b"`, "é": `"\u00e9"`} {
		if got := plain(in); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
}

// TestConfirm: an answer is one line, and what was pasted behind it stays where it is.
func TestConfirm(t *testing.T) {
	r, w, err := os.Pipe() // like a terminal, it gives no byte back
	if err != nil {
		t.Fatal(err)
	}
	cmd := &cobra.Command{}
	cmd.SetIn(r)
	if _, err := w.WriteString("halt\nhalted\n\nnot halt\nhalt"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{nil, errUnconfirmed, errUnconfirmed, errUnconfirmed} {
		if err := (&app{err: io.Discard}).confirm(cmd, false, "halt", ""); !errors.Is(err, want) {
			t.Errorf("answer %d: %v, want %v", i, err, want)
		}
	}
	if rest, _ := io.ReadAll(r); !strings.HasSuffix(string(rest), "halt") {
		t.Errorf("behind the answers: %q", rest)
	}
}
