package explain_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms/channel"
	"cardkms/kms/explain"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/profile"
)

var (
	kdd = unhex("00010203040506070809")
	// card is the profile of a card whose challenges are pseudo-random, of the issuer's
	// Security Domain.
	card = profile.Profile{Name: "default", I: 0x70, Profile: channel.Profile{AID: unhex("A000000151000000")}}
	// asked is what softhsm/cardsim answered with K-ENC and K-MAC exchanged and KVN 31.
	asked = map[string]string{"key": "isd", "host": "0011223344556677", "answer": "31037096F78A3395250A770D39A546CE4643A5000001"}
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// held returns a token with one master, and the version that it is of.
func held() (*derivetest.Token, key.Version) {
	v := key.Version{
		ID: key.ID{Issuer: "demo", Name: "isd", Version: 1}, Usage: key.GPSCP03, Algorithm: key.AES128, CardAlgorithm: key.AES128,
		Diversification: string(diversify.KDF3), KVN: 0x30, State: key.Active,
	}
	t := &derivetest.Token{}
	master := t.Add(v.ID.Label(key.Master), v.Algorithm, derive.Static, unhex("404142434445464748494A4B4C4D4E4F"))
	v.KCVs = map[key.Part]key.KCV{key.Master: master.Root().KCV}
	return t, v
}

// The worked example of the package comment: a card that was given its keys in the wrong
// order, under a Key Version Number that the issuer has not.
func Example() {
	token, version := held()
	q, err := explain.Answer(asked, kdd, card)
	if err != nil {
		panic(err)
	}
	found, err := q.Search(context.Background(), token, []key.Version{version})
	fmt.Println(found, err)
	// Output: kvn:30/keys:mac-enc <nil>
}

// TestVersions: a proof is explained under the versions that it is about and whose objects
// are there, and under no other.
func TestVersions(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*key.Version)
		want   explain.Explanation
	}{
		"deactivated":      {func(v *key.Version) { v.State = key.Deactivated }, "kvn:30/keys:mac-enc"},
		"the card's KVN":   {func(v *key.Version) { v.KVN = 0x31 }, "keys:mac-enc"},
		"destroyed":        {func(v *key.Version) { v.State = key.Destroyed }, "none"},
		"half destroyed":   {func(v *key.Version) { v.Destroying = true }, "none"},
		"another key":      {func(v *key.Version) { v.ID.Name = "other" }, "none"},
		"of another usage": {func(v *key.Version) { v.Usage = key.CardUpdate }, "none"},
	} {
		token, version := held()
		tt.change(&version)
		q, err := explain.Answer(asked, kdd, card)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := q.Search(context.Background(), token, []key.Version{version}); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
		}
	}
}

// TestParameters: a question has the parameters of its kind and no others, so that nobody
// gives a value to try.
func TestParameters(t *testing.T) {
	with := func(of map[string]string, name, value string) map[string]string {
		of = maps.Clone(of)
		of[name] = value
		return of
	}
	cryptogram := map[string]string{"profile": "visa-10", "key": "ac", "dki": "01", "psn": "00", "atc": "001C", "arqc": "29CCA15AE665FA2E", "data": "00"}
	pan := unhex("1234567890123456FFFF")
	if _, err := explain.Cryptogram(cryptogram, pan); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"value", "sha256", "host"} {
		if _, err := explain.Cryptogram(with(cryptogram, name, "00"), pan); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("a cryptogram with %s: %v", name, err)
		}
	}
	for _, name := range []string{"value", "arqc", "document"} {
		if _, err := explain.Answer(with(asked, name, "00"), kdd, card); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("an answer with %s: %v", name, err)
		}
		if _, err := explain.Session(with(asked, name, "00"), "> 00A4040000\n", kdd, card); fault.CodeOf(err) != fault.InvalidInput {
			t.Errorf("a session with %s: %v", name, err)
		}
	}
}
