package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"cardkms/kms"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/secret"
	"cardkms/kms/tokens"
	"cardkms/softhsm"
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
		if t.SoftHSM != "" && !c.Development {
			bad(".softhsm is for development: true only")
		}
		if t.name == "main" || t.name != "" && !key.ValidName(t.name) {
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

// openTokens opens the main token, and makes the set that opens the others.
func (n *node) openTokens(ctx context.Context, logger *slog.Logger) error {
	further := map[string]tokens.Opener[*hsm.Token]{}
	var main configuredToken
	for _, t := range n.cfg.allTokens() {
		if softhsm.Is(t.Module) && !n.cfg.Development {
			return errSoftHSM
		}
		if t.SoftHSM != "" {
			if err := softhsm.Use(n.cfg.path(t.SoftHSM)); err != nil {
				return err
			}
		}
		pin, err := n.cfg.resolve(t.PIN)
		if err != nil {
			return fmt.Errorf("%s.pin: %w", t.field, err)
		}
		if t.name == "" {
			main = t
			continue
		}
		further[t.name] = func(ctx context.Context) (*hsm.Token, bool, error) { return n.openFurther(ctx, t, pin, logger) }
	}
	pin, err := n.cfg.resolve(main.PIN)
	if err != nil {
		return err
	}
	if n.token, err = n.openToken(ctx, main, pin, logger); err != nil {
		return err
	}
	n.tokens = tokens.New(n.token, further, time.Now, logger)
	return nil
}

func (n *node) openToken(ctx context.Context, c configuredToken, pin secret.Bytes, logger *slog.Logger) (*hsm.Token, error) {
	t, err := hsm.Open(ctx, hsm.Config{
		Module: c.Module, InitArgs: c.InitArgs, Label: c.Label, PIN: pin, Sessions: c.Sessions, Objects: c.Objects, Logger: logger,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the token %q (%s.module, %[2]s.label, %[2]s.pin): %w", c.Label, c.field, err)
	}
	if softhsm.Made(t.Manufacturer()) && !n.cfg.Development {
		t.Close()
		return nil, errSoftHSM
	}
	return t, nil
}

// openFurther opens a token beside the main one. What another attempt could harm, or
// could not help, is final: a PIN that was refused, a token that cannot derive inside, one
// with an object that is not what it should be.
func (n *node) openFurther(ctx context.Context, c configuredToken, pin secret.Bytes, logger *slog.Logger) (t *hsm.Token, final bool, err error) {
	t, err = n.openToken(ctx, c, pin, logger)
	switch {
	case hsm.PINRefused(err):
		return nil, true, fault.Because(fault.TokenUnavailable, "the token refused its PIN, which is not tried again before a restart", err)
	case errors.Is(err, errSoftHSM), fault.CodeOf(err) == fault.TokenUnable:
		return nil, true, fault.Because(fault.TokenUnavailable, "the token must not or cannot serve, before a restart", err)
	case err != nil:
		return nil, false, err
	}
	err = n.verifyToken(ctx, c.name, t, logger)
	if err == nil {
		err = n.announceToken(ctx, c.name, t, logger)
	}
	if err == nil {
		return t, false, nil
	}
	t.Close()
	if code := fault.CodeOf(err); code == fault.TokenUnavailable || code == fault.AuditUnavailable || code == fault.AuditFull {
		return nil, false, err
	}
	return nil, true, fault.Because(fault.TokenUnavailable, "the token holds an object that is not what it should be; it serves no more before a restart", err)
}

// verifyKeys finds every key of the service in the main token before anybody is served,
// and compares what protects it and its check value.
func (n *node) verifyKeys(ctx context.Context, logger *slog.Logger) error {
	for name, ref := range map[string]keyRef{"pseudonym": n.cfg.Token.Pseudonym, "state": n.cfg.Token.State} {
		root, err := ref.root()
		if err != nil {
			return fmt.Errorf("token.%s: %w", name, err)
		}
		if err := n.token.Check(ctx, root); err != nil {
			return fmt.Errorf("the %s key: %w", name, err)
		}
	}
	versions, err := n.service.AllKeys(ctx)
	if err != nil {
		return err
	}
	for _, v := range versions {
		if _, ok := n.cfg.Tokens[v.Token]; v.Token != "" && !ok && v.State != key.Destroyed {
			return fmt.Errorf("%s is in the token %s, and the configuration has no tokens.%[2]s", v.ID, v.Token)
		}
	}
	return n.verifyToken(ctx, "", n.token, logger)
}

// verifyToken does so for the key versions in one token, and then looks at every key
// object that the token holds, whoever made it.
func (n *node) verifyToken(ctx context.Context, name string, t *hsm.Token, logger *slog.Logger) error {
	versions, err := n.service.AllKeys(ctx)
	if err != nil {
		return err
	}
	ours := n.cfg.serviceKeys()[name]
	for _, v := range versions {
		if v.Token != name || v.State == key.Destroyed {
			continue // an object of a destroyed version that came back is not ours
		}
		for p := range v.KCVs {
			ours = append(ours, v.ID.Label(p))
			if err := t.Check(ctx, kms.Root(v, p)); err != nil {
				return fmt.Errorf("%s: %w", v.ID.Label(p), err)
			}
		}
	}
	found, err := t.Survey(ctx, ours)
	if err != nil {
		return err
	}
	for _, label := range found.Foreign {
		logger.Warn("the token holds a key that is not ours", "token", name, "label", label)
	}
	return found.Err()
}

// announce says and logs which plans the main token's operations follow, and who
// keeps the boundary.
func (n *node) announce(ctx context.Context, logger *slog.Logger) error {
	return n.service.Started(ctx, said(n.token, "", logger))
}

// announceToken does so for another token when it begins to serve.
func (n *node) announceToken(ctx context.Context, name string, t *hsm.Token, logger *slog.Logger) error {
	found := said(t, name, logger)
	if !n.serves {
		return nil // a ceremony says what it did, and a dry run does nothing
	}
	return n.service.TokenServes(ctx, name, found)
}

func said(t *hsm.Token, name string, logger *slog.Logger) map[string]string {
	found := map[string]string{}
	for i, c := range t.Capabilities() {
		state := "yes"
		if c.Err != nil {
			state = "no"
		}
		logger.Info("token", "name", name, "operation", c.Operation, "plan", c.Plan, "able", state)
		found[fmt.Sprintf("op%d", i)] = state
	}
	found["kdf"] = "composed"
	if strings.HasPrefix(t.Capabilities()[0].Plan, "native") {
		found["kdf"] = "native"
	}
	return found
}
