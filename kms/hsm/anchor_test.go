package hsm_test

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"

	"cardkms/derive"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/softhsm/testtoken"
)

// TestAnchor keeps values in the token, beside keys that work meanwhile. SoftHSM2
// only: NSS softokn keeps no data objects.
func TestAnchor(t *testing.T) {
	tok := testtoken.SoftHSM(t)
	a := tok.Anchor(unique(t, "anchor"))
	if kept, err := a.Newest(ctx); err != nil || len(kept) != 0 {
		t.Fatalf("before anything is kept: %q, %v", kept, err)
	}
	for _, value := range []string{"one", strings.Repeat("two", 500), ""} {
		if err := a.Keep(ctx, []byte(value)); err != nil {
			t.Fatal(err)
		}
		kept, err := a.Newest(ctx)
		if err != nil || len(kept) != 1 || string(kept[0]) != value {
			t.Errorf("kept %q, %v", kept, err)
		}
	}
	other := tok.Anchor(unique(t, "anchor-other"))
	if err := other.Keep(ctx, []byte("other")); err != nil {
		t.Fatal(err)
	}
	if kept, err := a.Newest(ctx); err != nil || len(kept) != 1 || len(kept[0]) != 0 {
		t.Errorf("two anchors are one: %q, %v", kept, err)
	}
}

func TestAnchorBesideKeys(t *testing.T) {
	tok := testtoken.SoftHSM(t)
	root, err := tok.Generate(ctx, unique(t, "mac"), key.AES256, derive.SessionMAC)
	if err != nil {
		t.Fatal(err)
	}
	k := derive.FromRoot(root)
	want, err := tok.MAC(ctx, k, []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	a := tok.Anchor(unique(t, "anchor-busy"))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if mac, err := tok.MAC(ctx, k, []byte("message")); err != nil || !bytes.Equal(mac, want) {
					t.Errorf("MAC %X, %v", mac, err)
					return
				}
			}
		})
	}
	for i := range 20 {
		if err := a.Keep(ctx, []byte{byte(i)}); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if kept, err := a.Newest(ctx); err != nil || len(kept) != 1 || kept[0][0] != 19 {
		t.Errorf("kept %v, %v", kept, err)
	}
}

// TestAnchorOnNSS pins down that NSS softokn refuses data objects, with an error
// and not by forgetting them.
func TestAnchorOnNSS(t *testing.T) {
	a := testtoken.NSS(t).Anchor("anchor")
	wantCode(t, "a data object", a.Keep(ctx, []byte("value")), fault.TokenUnable)
	if kept, err := a.Newest(ctx); err != nil || len(kept) != 0 {
		t.Errorf("kept %q, %v", kept, err)
	}
}

func TestDestroyAndLabels(t *testing.T) {
	tokens(t, func(t *testing.T, tok *hsm.Token) {
		label := unique(t, "doomed")
		root, err := tok.Generate(ctx, label, key.AES256, derive.SessionMAC)
		if err != nil {
			t.Fatal(err)
		}
		labels, err := tok.Labels(ctx)
		if err != nil || !slices.Contains(labels, label) || !slices.IsSorted(labels) {
			t.Errorf("%s is not among the labels %v, %v", label, labels, err)
		}
		if _, err := tok.MAC(ctx, derive.FromRoot(root), []byte("x")); err != nil {
			t.Error(err)
		}
		if err := tok.Destroy(ctx, label); err != nil {
			t.Fatal(err)
		}
		if _, err := tok.MAC(ctx, derive.FromRoot(root), []byte("x")); err == nil {
			t.Error("a destroyed key makes MACs")
		}
		if labels, err := tok.Labels(ctx); err != nil || slices.Contains(labels, label) {
			t.Errorf("a destroyed key is still there: %v", err)
		}
		wantCode(t, "destroying it again", tok.Destroy(ctx, label), fault.KeyState)
		if !strings.Contains(tok.Description(), "serial number") {
			t.Errorf("the token is %q", tok.Description())
		}
	})
}
