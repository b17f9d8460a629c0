package key

import "testing"

func TestParseID(t *testing.T) {
	good := ID{Issuer: "acme", Name: "isd-keys", Version: 3}
	got, err := ParseID(good.String())
	if err != nil || got != good {
		t.Fatalf("ParseID(%q) = %v, %v", good, got, err)
	}
	for _, bad := range []string{
		"", "issuers/acme/keys/isd/versions/0", "issuers/acme/keys/isd/versions/01",
		"issuers/acme/keys/isd/versions/-1", "issuers//keys/isd/versions/1",
		"issuers/Acme/keys/isd/versions/1", "issuers/acme/keys/isd/versions/1/x",
		"issuers/a#b/keys/isd/versions/1", "keys/acme/issuers/isd/versions/1",
	} {
		if id, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %v, want an error", bad, id)
		}
	}
}

func TestSizes(t *testing.T) {
	for _, a := range []Algorithm{AES128, AES192, AES256} {
		b, err := AESOfSize(a.Size())
		if err != nil || a != b || a.TDEA() || MethodFor(a) != KCVGPAES {
			t.Errorf("%s: %s, %v", a, b, err)
		}
	}
	if _, err := AESOfSize(17); err == nil {
		t.Error("AESOfSize(17) passed")
	}
	if !TDEA2.TDEA() || TDEA2.Size() != 16 || TDEA3.Size() != 24 || MethodFor(TDEA2) != KCVTDEA || P256.Size() != 0 {
		t.Error("the sizes of TDEA keys are wrong")
	}
}
