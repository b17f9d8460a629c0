package cardkey_test

import (
	"slices"
	"testing"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/kms/cardkey"
	"cardkms/kms/key"
)

var kdd = []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}

func version(u key.Usage, a key.Algorithm, m diversify.Method) key.Version {
	return key.Version{
		ID: key.ID{Issuer: "demo", Name: "isd", Version: 1}, Token: "second", Usage: u, Algorithm: a, CardAlgorithm: a, Diversification: string(m),
		KCVs: map[key.Part]key.KCV{key.Master: {Value: "0"}, key.ENC: {Value: "1"}, key.MAC: {Value: "2"}, key.DEK: {Value: "3"}},
	}
}

// TestRoot: an object is of the class that the use of its key needs, and no wider one.
func TestRoot(t *testing.T) {
	for _, tt := range []struct {
		name string
		of   key.Version
		part key.Part
		want derive.Class
	}{
		{"a master", version(key.GPSCP03, key.AES128, diversify.KDF3), key.Master, derive.Static},
		{"a master of SCP02", version(key.GPSCP02, key.TDEA2, diversify.VISA2), key.Master, derive.Static},
		{"K-ENC of all cards", version(key.GPSCP03, key.AES128, diversify.None), key.ENC, derive.Static},
		{"K-DEK of all cards", version(key.GPSCP03, key.AES128, diversify.None), key.DEK, derive.DataEncryption},
		{"K-ENC of all cards of SCP02", version(key.GPSCP02, key.TDEA2, diversify.None), key.ENC, derive.StaticCBC},
		{"K-DEK of all cards of SCP02", version(key.GPSCP02, key.TDEA2, diversify.None), key.DEK, derive.StaticCBC},
		{"a pair", version(key.GPSCP11, key.ECP256, ""), key.Master, derive.Agreeing},
	} {
		want := derive.Root{Token: "second", Label: tt.of.ID.Label(tt.part), Algorithm: tt.of.Algorithm, Class: tt.want, KCV: tt.of.KCVs[tt.part]}
		if tt.want == derive.Agreeing {
			tt.of.PublicKey, want.Public = []byte("in DER"), "in DER"
		}
		if got := cardkey.Root(tt.of, tt.part); got != want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, want)
		}
	}
}

// TestOf: a key of a card follows from each part that Parts names, from the master by one
// step and from a key that all cards have by none.
func TestOf(t *testing.T) {
	purposes := []diversify.Purpose{diversify.ENC, diversify.MAC, diversify.DEK}
	for _, tt := range []struct {
		of    key.Version
		class []derive.Class
		want  []key.Part
	}{
		{version(key.GPSCP03, key.AES128, diversify.KDF3), []derive.Class{derive.Static, derive.Static, derive.DataEncryption}, []key.Part{key.Master}},
		{version(key.GPSCP03, key.AES128, diversify.None), []derive.Class{derive.Static, derive.Static, derive.DataEncryption}, []key.Part{key.ENC, key.MAC, key.DEK}},
		{version(key.GPSCP02, key.TDEA2, diversify.None), []derive.Class{derive.StaticCBC, derive.StaticCBC, derive.StaticCBC}, []key.Part{key.ENC, key.MAC, key.DEK}},
	} {
		method := diversify.Method(tt.of.Diversification)
		if got := cardkey.Parts(method, tt.of.Usage); !slices.Equal(got, tt.want) {
			t.Errorf("parts of %s %s: %v", tt.of.Usage, method, got)
		}
		for n, p := range purposes {
			k, err := cardkey.Of(tt.of, kdd, diversify.Target{Purpose: p, Class: tt.class[n]})
			if err != nil {
				t.Fatalf("%s of %s %s: %v", p, tt.of.Usage, method, err)
			}
			root := k
			if method != diversify.None {
				root = k.Parent()
			}
			if want := cardkey.Root(tt.of, tt.want[min(n, len(tt.want)-1)]); root.Parent() != nil || root.Root() != want || k.Class() != tt.class[n] {
				t.Errorf("%s of %s %s is %+v of class %d", p, tt.of.Usage, method, root.Root(), k.Class())
			}
		}
	}
}

// TestPurposes: no two keys of one card are one, whatever the protocol.
func TestPurposes(t *testing.T) {
	aes, des := version(key.GPSCP03, key.AES128, diversify.KDF3), version(key.GPSCP02, key.TDEA2, diversify.VISA2)
	scp03, err := cardkey.SCP03(aes, kdd)
	if err != nil {
		t.Fatal(err)
	}
	scp02, err := cardkey.SCP02(des, kdd)
	if err != nil {
		t.Fatal(err)
	}
	ota, err := cardkey.OTA(version(key.OTA, key.AES128, diversify.KDF3), kdd)
	if err != nil {
		t.Fatal(err)
	}
	update, err := cardkey.Update(version(key.CardUpdate, key.AES128, diversify.KDF3), kdd)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[32]byte]bool{}
	for n, k := range []*derive.Key{scp03.ENC, scp03.MAC, scp02.ENC, scp02.MAC, scp02.DEK, ota.KIc, ota.KID, update} {
		if seen[k.ID()] {
			t.Errorf("key %d is another one", n)
		}
		seen[k.ID()] = true
	}
}
