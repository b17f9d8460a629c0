package profile_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"cardkms/derive"
	"cardkms/derive/scp11"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/profile"
)

var blocks = regexp.MustCompile(`(?s) +-----BEGIN.*?END CERTIFICATE-----\n`)

// TestCertificates: the host's certificates are a chain whose end agrees on secrets, and what
// cards are trusted for is of authorities.
func TestCertificates(t *testing.T) {
	good := example(t, "scp11a")
	p, err := profile.Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	c := p.Certificates
	if p.Usage() != key.GPSCP11 || p.SCP11 != scp11.A || len(c.Trusted) != 1 || len(c.Host) != 2 || c.Authority != (scp11.Reference{KVN: 3, KID: 0x10}) {
		t.Errorf("%+v", p)
	}
	if want := p.Answers[0].Agreement.Static; derive.PairKCV(c.HostKey()).Value == "" || len(want) != 32 {
		t.Error("no key of the host")
	}
	found := blocks.FindAllString(good, -1)
	if len(found) != 3 {
		t.Fatalf("%d certificates", len(found))
	}
	root, middle, own := found[0], found[1], found[2]
	swap := func(from, to string) string { return strings.Replace(good, from, to, 1) }
	for name, bad := range map[string]struct{ text, want string }{
		"the other way round":            {swap(middle+own, own+middle), "signed by the one before"},
		"without the host's own":         {swap(own, ""), "the last is not of a key"},
		"a card's in place of an anchor": {swap(root, own), "not of an authority"},
		"nine of them":                   {swap(middle, strings.Repeat(middle, 9)), "at most 8"},
		"a key":                          {swap(root, strings.ReplaceAll(root, "CERTIFICATE", "PUBLIC KEY")), "in PEM and nothing else"},
		"no DER":                         {swap(root, "    -----BEGIN CERTIFICATE-----\n    MIIB\n    -----END CERTIFICATE-----\n"), "X.509 certificates"},
	} {
		_, err := profile.Parse([]byte(bad.text))
		var all profile.Problems
		if !errors.As(err, &all) || !strings.Contains(all.Error(), bad.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := profile.Parse([]byte(swap(middle, ""))); err != nil {
		t.Errorf("a host that the authority itself certified: %v", err)
	}
	for at, want := range map[int]fault.Code{2025: fault.ProfileMismatch, 2030: fault.OK, 2050: fault.ProfileMismatch} {
		if err := c.HostValid(time.Date(at, 6, 1, 0, 0, 0, 0, time.UTC)); fault.CodeOf(err) != want {
			t.Errorf("in %d: %v", at, err)
		}
	}
}
