package explain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/scp02"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// TestExplainSearch: what cannot be tried is passed over, but "none" is said only when
// everything that a token could compute was tried.
func TestExplainSearch(t *testing.T) {
	hangs := fault.Because(fault.TokenUnavailable, "hangs", context.DeadlineExceeded)
	unable, away, broken := fault.New(fault.TokenUnable, "unable"), fault.New(fault.TokenUnavailable, "away"), errors.New("broken")
	type answer struct {
		found bool
		err   error
	}
	for name, tt := range map[string]struct {
		answers []answer
		want    Explanation
		err     error
	}{
		"found behind a token that is away":   {[]answer{{err: away}, {}, {found: true}}, "word", nil},
		"found behind what no token computes": {[]answer{{err: unable}, {found: true}}, "word", nil},
		"nothing, and a token away":           {[]answer{{err: away}, {}}, "", away},
		"nothing, and one unable":             {[]answer{{err: unable}, {}}, foundNothing, nil},
		"a token that hangs ends it":          {[]answer{{err: hangs}, {found: true}}, "", hangs},
		"anything else ends it":               {[]answer{{err: broken}, {found: true}}, "", broken},
	} {
		got, err := first(tt.answers, func(a answer) (bool, []string, error) { return a.found, []string{"word"}, a.err })
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// FuzzTranscript: what is read is written as it was, but for spaces, and names no card.
func FuzzTranscript(f *testing.F) {
	kdd := []byte{0xE1, 0xE2, 0xE3, 0, 0, 0, 0, 0, 0, 5}
	f.Add("> 848211001000112233445566778899AABBCCDDEEFF\n< 9000\n> 84CA0066080011223344556677\n")
	f.Add("< 9000")
	f.Add("> 84E200000AE1E2E300000000000005")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := readTranscript(text, kdd)
		if err != nil {
			return
		}
		if len(all) == 0 || len(all) > transcriptCommandsMax || len(text) > transcriptBytesMax {
			t.Errorf("%d commands in %d bytes", len(all), len(text))
		}
		var lines []string
		for _, x := range all {
			lines = append(lines, ">", fmt.Sprintf("%x", x.command.Bytes()))
			if bytes.Contains(x.command.Bytes(), kdd) {
				t.Error("a command names the card")
			}
			if x.response != nil {
				lines = append(lines, "<", fmt.Sprintf("%x", x.response.Bytes()))
			}
		}
		if got, want := strings.Join(lines, " "), strings.ToLower(strings.Join(strings.Fields(text), " ")); got != want {
			t.Errorf("%q is read as %q", want, got)
		}
	})
}

// retailFails is a token whose retail MAC fails so.
type retailFails struct {
	derive.TDEAToken
	err error
}

func (t retailFails) RetailMAC(context.Context, derive.RetailKey, []byte) ([]byte, error) {
	return nil, t.err
}

// TestExplainWithoutRetailMAC: a token that computes no retail MAC does not say that
// nothing explains one, and one that is away says nothing.
func TestExplainWithoutRetailMAC(t *testing.T) {
	ext := apdu.Command{CLA: 0x84, INS: 0x82, P1: 0x01, Data: make([]byte, 16)}
	q := session02{level: scp02.CMAC, exchanges: []exchange{{command: ext}}}
	q.profile.I = 0x15
	h := hypothesis{enc: diversify.DEK, mac: diversify.MAC}
	unable, away := fault.New(fault.TokenUnable, "unable"), fault.New(fault.TokenUnavailable, "away")
	found, words, err := q.try(context.Background(), retailFails{err: unable}, scp02.Session{}, h)
	if want := []string{"enc:dek", "c-mac:0", "mac:not-checked"}; !found || err != nil || !slices.Equal(words, want) {
		t.Errorf("%t, %q, %v", found, words, err)
	}
	if found, words, err := q.try(context.Background(), retailFails{err: away}, scp02.Session{}, h); found || fault.CodeOf(err) != fault.TokenUnavailable {
		t.Errorf("%t, %q, %v", found, words, err)
	}
}
