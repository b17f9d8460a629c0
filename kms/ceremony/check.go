package ceremony

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"cardkms/kms/cardkey"
	"cardkms/kms/key"
	"cardkms/kms/profile"
)

// check refuses a file that no ceremony could follow.
func (f *File) check() error {
	switch {
	case f.Title == "" || f.Configuration == "":
		return invalid("ceremony (a title) and configuration are needed")
	case !distinct(f.Present) || len(f.Present) < 2:
		return invalid("present names two or more different people, by letters, digits, dots, hyphens and underscores")
	case f.Token != nil && (f.Token.Module == "" || f.Token.Label == "" || f.Token.PIN == ""):
		return invalid("token needs module, label and pin")
	case f.ServiceKeys != nil && (f.Token == nil || f.ServiceKeys.Origin == "" || f.ServiceKeys.Log == "" || f.ServiceKeys.Pseudonym == "" || f.ServiceKeys.State == ""):
		return invalid("serviceKeys needs origin, log, pseudonym and state, and a token")
	}
	labels := map[string]bool{}
	for _, k := range f.KEKs {
		if labels[k.Label] {
			return invalid("two key-encryption keys are called %s", k.Label)
		}
		labels[k.Label] = true
		if err := k.check(); err != nil {
			return err
		}
	}
	for _, label := range f.Destroy {
		if labels[label] || !personName.MatchString(label) {
			return invalid("%s is destroyed in a ceremony of its own: this one could not be run again", label)
		}
	}
	if err := f.checkProfiles(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, k := range f.Keys {
		if seen[k.String()] {
			return invalid("%s stands in the file twice", k)
		}
		seen[k.String()] = true
		if err := k.check(); err != nil {
			return err
		}
	}
	return nil
}

// checkProfiles reads the documents of profiles, and refuses two versions of one: nobody
// could say which serves.
func (f *File) checkProfiles() error {
	seen := map[string]bool{}
	for i, p := range f.Profiles {
		document, err := profile.Parse([]byte(p.Document))
		if err != nil {
			return fmt.Errorf("profile %d: %w", i+1, err)
		}
		p.name = document.Name
		if !key.ValidName(p.Issuer) || seen[p.String()] {
			return invalid("profile %d: each profile has an issuer and stands in the file once", i+1)
		}
		seen[p.String()], f.Profiles[i] = true, p
	}
	return nil
}

// distinct reports whether names are what the log can hold, and differ.
func distinct(names []string) bool {
	seen := map[string]bool{}
	for _, n := range names {
		n = strings.ToLower(n)
		if !personName.MatchString(n) || seen[n] {
			return false
		}
		seen[n] = true
	}
	return true
}

func (k KEK) check() error {
	if !personName.MatchString(k.Label) {
		return invalid("a key-encryption key has a label of letters, digits, dots, hyphens and underscores")
	}
	switch k.Algorithm {
	case key.AES256:
		if len(k.Components) == 0 || k.Public != "" {
			return invalid("%s: an aes-256 key-encryption key comes as components: nobody could wrap a key under one that is generated", k.Label)
		}
		return k.Value.check(k.Label, key.AES256)
	case key.RSA3072:
		if !k.Generate || k.Public == "" || k.KCV != "" || k.Wrapped != nil || len(k.Components) > 0 {
			return invalid("%s: an rsa-3072 key-encryption key is generated, and public names the file for its public half", k.Label)
		}
		return nil
	}
	return invalid("%s: a key-encryption key is aes-256 or rsa-3072", k.Label)
}

func (k Key) check() error {
	n, err := k.Describe()
	if err != nil {
		return err
	}
	want, values := cardkey.Parts(n.Diversification, n.Usage), k.Values()
	if len(values) != len(want) {
		return invalid("%s has the values %v, and the file says where %d come from", k, want, len(values))
	}
	for _, p := range want {
		v, ok := values[p]
		if !ok {
			return invalid("%s lacks the value %s", k, p)
		}
		if err := v.check(k.String()+"#"+string(p), k.Algorithm); err != nil {
			return err
		}
	}
	return nil
}

func (v Value) check(name string, a key.Algorithm) error {
	sources := 0
	for _, there := range []bool{v.Generate, len(v.Components) > 0, v.Wrapped != nil} {
		if there {
			sources++
		}
	}
	switch {
	case sources != 1:
		return invalid("%s comes from one of generate, components, wrapped", name)
	case v.Generate && v.KCV != "":
		return invalid("%s is generated: nobody knows its check value before", name)
	case v.Generate:
		return nil
	}
	if err := stated(name, v.KCV, a); err != nil {
		return err
	}
	if w := v.Wrapped; w != nil {
		if _, err := hex.DecodeString(w.Blob); err != nil || w.Blob == "" || w.KEK == "" || w.Method == "" {
			return invalid("%s: wrapped needs kek, method and blob in hexadecimal", name)
		}
		return nil
	}
	return v.checkComponents(name, a)
}

// stated refuses a check value of another method than the token computes.
func stated(name, kcv string, a key.Algorithm) error {
	got, err := ParseKCV(kcv)
	if err == nil && got.Method != key.MethodFor(a) {
		err = invalid("%s: the check value of a %s key is stated as %s:XXXXXX", name, a, key.MethodFor(a))
	}
	return err
}

func (v Value) checkComponents(name string, a key.Algorithm) error {
	if n := len(v.Components); n != 2 && n != 3 {
		return invalid("%s: a key has 2 or 3 components: one custodian alone must not know it", name)
	}
	var custodians, kcvs []string
	for _, c := range v.Components {
		if err := stated(name, c.KCV, a); err != nil {
			return err
		}
		custodians, kcvs = append(custodians, c.Custodian), append(kcvs, c.KCV)
	}
	if !distinct(custodians) {
		return invalid("%s: each component has a custodian of its own", name)
	}
	slices.Sort(kcvs)
	if len(slices.Compact(kcvs)) != len(v.Components) {
		return invalid("%s: two components have one check value; custodians must not enter the same one", name)
	}
	return nil
}
