package profile_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/profile"
	"cardkms/softhsm/testtoken"
)

func TestMain(m *testing.M) { testtoken.Main(m) }

func prove(t *testing.T, tok *hsm.Token, document string, used ...key.KCV) error {
	t.Helper()
	p, err := profile.Parse([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	return p.Prove(context.Background(), tok, used)
}

// TestProve: the known answers of the examples come out on both tokens, and leave
// nothing behind.
func TestProve(t *testing.T) {
	for name, tok := range map[string]*hsm.Token{"softhsm": testtoken.SoftHSM(t), "nss": testtoken.NSS(t)} {
		before := tok.LiveObjects()
		for _, file := range []string{"scp03-s8", "scp03-s16", "scp02", "template", "scp11a", "scp11b"} {
			want := fault.OK
			if name == "softhsm" && strings.HasPrefix(file, "scp11") {
				want = fault.TokenUnable // and what it cannot do, it cannot answer
			}
			if err := prove(t, tok, example(t, file)); fault.CodeOf(err) != want {
				t.Errorf("%s, %s: %v", name, file, err)
			}
		}
		if n := tok.LiveObjects(); n != before {
			t.Errorf("%s: %d objects more than before", name, n-before)
		}
	}
}

// values are what an example says that a token must compute.
var values = regexp.MustCompile(`(?:checkValues: .*?|externalAuthenticate: |authenticate: |secured: |data: |answer: )"([0-9A-F]+)"`)

// TestAltered: of each value that a token must compute, one digit that is another fails
// the known answer by its name, and says nothing of what would be right.
func TestAltered(t *testing.T) {
	for _, file := range []string{"scp03-s8", "scp03-s16", "scp02", "template", "scp11a", "scp11b"} {
		tok := testtoken.SoftHSM(t)
		if strings.HasPrefix(file, "scp11") {
			tok = testtoken.NSS(t)
		}
		good := example(t, file)
		found := values.FindAllStringSubmatchIndex(good, -1)
		if len(found) == 0 {
			t.Fatalf("%s holds no values", file)
		}
		for _, at := range found {
			last := at[3] - 1
			digit := "0"
			if good[last] == '0' {
				digit = "1"
			}
			err := prove(t, tok, good[:last]+digit+good[last+1:])
			if fault.CodeOf(err) != fault.InvalidInput || !strings.Contains(err.Error(), "known answer") || strings.Contains(err.Error(), good[at[2]:at[3]]) {
				t.Errorf("%s, %s: %v", file, good[at[0]:at[1]], err)
			}
		}
	}
}

// TestNamed: whatever is wrong with a known answer that has the form of one, its name is
// said.
func TestNamed(t *testing.T) {
	tok := testtoken.SoftHSM(t)
	for name, c := range map[string]struct {
		change
		code fault.Code
	}{
		"an answer of another length": {change{"scp03-s8", `00024F"`, `00"`}, fault.InvalidInput},
		"another i parameter":         {change{"scp03-s8", "652D3A0370", "652D3A0360"}, fault.InvalidInput},
		"PUT KEY under 3DES": {change{"scp02", "    session:", "    putKey:\n      kvn: \"22\"\n      data: \"22\"\n" +
			"      testKeys: {enc: \"C8FC29332150575F55F871368C107EA4\", mac: \"6B8E6DFF98533FC3E669EC9B434C0DC5\", dek: \"C32997B0A2D3F4CBC5D26F0A02779A58\"}\n    session:"}, fault.TokenUnable},
	} {
		good := example(t, c.in)
		text := strings.Replace(good, c.from, c.to, 1)
		if text == good {
			t.Fatalf("%s: the example does not hold what this case changes", name)
		}
		var f *fault.Error
		if err := prove(t, tok, text); !errors.As(err, &f) || f.Code != c.code || !strings.Contains(f.Detail, "known answer session: ") {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

// TestTestKeys: a key that serves is refused as a test key, whichever of them it is.
func TestTestKeys(t *testing.T) {
	tok := testtoken.SoftHSM(t)
	text := example(t, "scp03-s8")
	for _, kcv := range []string{"7B5976", "F07D13"} { // new keys of its PUT KEY
		err := prove(t, tok, text, key.KCV{Method: key.KCVGPAES, Value: kcv})
		if fault.CodeOf(err) != fault.InvalidInput || !strings.Contains(err.Error(), "must serve nobody") {
			t.Errorf("%s: %v", kcv, err)
		}
	}
	for _, pair := range []string{"C7444B", "9F4527"} {
		err := prove(t, testtoken.NSS(t), example(t, "scp11a"), key.KCV{Method: key.KCVSPKI, Value: pair})
		if fault.CodeOf(err) != fault.InvalidInput || !strings.Contains(err.Error(), "must serve nobody") {
			t.Errorf("%s: %v", pair, err)
		}
	}
	if err := prove(t, tok, text, key.KCV{Method: key.KCVTDEA, Value: "7B5976"}); err != nil {
		t.Error(err)
	}
}
