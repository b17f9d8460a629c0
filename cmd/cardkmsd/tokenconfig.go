package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"cardkms/kms/key"
)

// ModuleConfig is one PKCS#11 token, exported because the decoder asks it of what is
// embedded. Tokens of one module share its library, and with it
// the reserved string and SoftHSM2's directory.
type ModuleConfig struct {
	Module   string `yaml:"module"`
	InitArgs string `yaml:"initArgs"` // NSS softokn only
	SoftHSM  string `yaml:"softhsm"`  // directory of SoftHSM2's tokens; development only
	Label    string `yaml:"label"`
	PIN      string `yaml:"pin"` // a reference: file:PATH or env:NAME
	Sessions int    `yaml:"sessions"`
	Objects  int    `yaml:"objects"`
	// KEKs are the labels of key-encryption keys, so that the inventory knows them.
	KEKs []string `yaml:"keks"`
}

// configuredToken is a token of the configuration with the field that it stands in.
type configuredToken struct {
	name, field string // the main one has no name
	ModuleConfig
}

// allTokens returns the main token and then the others, by name.
func (c *config) allTokens() []configuredToken {
	out := []configuredToken{{"", "token", c.Token.ModuleConfig}}
	for _, name := range slices.Sorted(maps.Keys(c.Tokens)) {
		out = append(out, configuredToken{name, "tokens." + name, c.Tokens[name]})
	}
	return out
}

// checkTokens returns what is wrong with each token, and with two of them together.
func (c *config) checkTokens() (wrong []error) {
	all := c.allTokens()
	for i, t := range all {
		bad := func(format string, args ...any) {
			wrong = append(wrong, fmt.Errorf(t.field+format, args...))
		}
		for _, f := range []struct{ name, value string }{{"module", t.Module}, {"label", t.Label}, {"pin", t.PIN}} {
			if f.value == "" && t.name != "" { // of the main one, missing says so
				bad(".%s is missing", f.name)
			}
		}
		if t.PIN != "" && !strings.HasPrefix(t.PIN, vaultPrefix) && checkReference(t.PIN) != nil {
			bad(".pin: %w", errNoReference)
		}
		if t.SoftHSM != "" && !c.Development {
			bad(".softhsm is for development: true only")
		}
		if t.name == mainToken || t.name != "" && !key.ValidName(t.name) {
			bad(": a token has a name of 1 to 63 lower-case letters, digits and hyphens, a letter first, and not main")
		}
		for _, o := range all[:i] {
			t.besides(o, c, bad)
		}
	}
	return wrong
}

// besides says what keeps a token from being open beside another one in one process.
func (t configuredToken) besides(o configuredToken, c *config, bad func(string, ...any)) {
	if t.Module == o.Module && t.Label == o.Label && t.Module != "" {
		bad(" is the token of %s", o.field)
	}
	if t.Module == o.Module && t.InitArgs != o.InitArgs {
		bad(".initArgs is another than that of %s, and a module has one", o.field)
	}
	if t.SoftHSM != "" && o.SoftHSM != "" && c.path(t.SoftHSM) != c.path(o.SoftHSM) {
		bad(".softhsm is another directory than that of %s, and SoftHSM2 has one", o.field)
	}
	for _, label := range t.KEKs {
		if slices.Contains(o.KEKs, label) {
			bad(".keks has %s, and so has %s", label, o.field)
		}
	}
}

// tokenOfKEK returns the name of the token that the configuration gives a key-encryption
// key to; the main one has those that it does not name.
func (c *config) tokenOfKEK(label string) string {
	for name, t := range c.Tokens {
		if slices.Contains(t.KEKs, label) {
			return name
		}
	}
	return ""
}
