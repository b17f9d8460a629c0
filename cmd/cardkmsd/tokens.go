package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/tokens"
	"cardkms/softhsm"
)

// readTokens reads what the configuration says of tokens, and asks none of them: it
// returns their PINs by name. A module that is named by a path is there.
func (c *config) readTokens() (map[string]pin, error) {
	pins := map[string]pin{}
	for _, t := range c.allTokens() {
		if softhsm.Is(t.Module) && !c.Development {
			return nil, errUsage{errSoftHSM}
		}
		// A further token that does not open keeps no other from serving.
		if t.name == "" && strings.Contains(t.Module, "/") {
			if _, err := os.Stat(t.Module); err != nil {
				return nil, errUsage{fmt.Errorf("%s.module: %w", t.field, err)}
			}
		}
		pin, err := c.pin(t.PIN)
		if err != nil {
			return nil, errUsage{fmt.Errorf("%s.pin: %w", t.field, err)}
		}
		pins[t.name] = pin
	}
	return pins, nil
}

// openTokens opens the main token, and makes the set that opens the others.
func (n *node) openTokens(ctx context.Context, logger *slog.Logger) error {
	pins, err := n.cfg.readTokens()
	if err != nil {
		return err
	}
	further := map[string]tokens.Opener[*hsm.Token]{}
	all := n.cfg.allTokens() // the main one first
	for _, t := range all {
		if t.SoftHSM != "" {
			if err := softhsm.Use(n.cfg.path(t.SoftHSM)); err != nil {
				return err
			}
		}
	}
	for _, t := range all[1:] {
		further[t.name] = func(ctx context.Context) (*hsm.Token, bool, error) {
			return n.openFurther(ctx, t, pins[t.name], logger)
		}
	}
	if n.token, err = n.openToken(ctx, all[0], pins[""], logger); err != nil {
		return err
	}
	n.tokens = tokens.New(n.token, further, time.Now, logger)
	return nil
}

// callWait bounds each call of a token, 0 for the default. A test shortens it.
var callWait time.Duration

func (n *node) openToken(ctx context.Context, c configuredToken, pin pin, logger *slog.Logger) (*hsm.Token, error) {
	t, err := hsm.Open(ctx, hsm.Config{
		Module: c.Module, InitArgs: c.InitArgs, Label: c.Label, PIN: pin.value, PINSource: pin.source, Sessions: c.Sessions, Objects: c.Objects, CallWait: callWait, Logger: logger,
	})
	if errors.Is(err, hsm.ErrModule) {
		return nil, errUsage{fmt.Errorf("%s.module: %w", c.field, err)}
	}
	if err != nil {
		return nil, fmt.Errorf("%s.module, %[1]s.label, %[1]s.pin: %w", c.field, err)
	}
	made, err := t.Manufacturer()
	if err == nil && softhsm.Made(made) && !n.cfg.Development {
		err = errUsage{errSoftHSM}
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// openFurther opens a token beside the main one. What another attempt could harm, or
// could not help, is final: a PIN that was refused or not answered to, a token that cannot
// derive inside, one with an object that is not what it should be.
func (n *node) openFurther(ctx context.Context, c configuredToken, pin pin, logger *slog.Logger) (t *hsm.Token, final bool, err error) {
	t, err = n.openToken(ctx, c, pin, logger)
	switch {
	case hsm.PINRefused(err):
		return nil, true, fault.Because(fault.TokenUnavailable, "the token refused its PIN, which is not tried again before a restart", err)
	case hsm.PINUnanswered(err):
		return nil, true, fault.Because(fault.TokenUnavailable, "the token did not answer to its PIN, which is not presented again before a restart", err)
	case errors.Is(err, errSoftHSM), fault.CodeOf(err) == fault.TokenUnable:
		return nil, true, fault.Because(fault.TokenUnavailable, "the token must not or cannot serve, before a restart", err)
	case err != nil:
		return nil, false, err
	}
	versions, err := n.service.AllKeys(ctx)
	if err == nil {
		err = n.verifyToken(ctx, c.name, t, versions, logger)
		if final = err != nil && fault.CodeOf(err) != fault.TokenUnavailable && ctx.Err() == nil; final {
			err = fault.Because(fault.TokenUnavailable, "the token holds an object that is not what it should be; it does not serve before a restart", err)
		}
	}
	if err == nil {
		err = n.announceToken(ctx, c.name, t, logger)
	}
	if err != nil {
		t.Close()
		return nil, final, err
	}
	return t, false, nil
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
	return n.verifyToken(ctx, "", n.token, versions, logger)
}

// verifyToken does so for the key versions in one token, and then looks at every key
// object that the token holds, whoever made it.
func (n *node) verifyToken(ctx context.Context, name string, t *hsm.Token, versions []key.Version, logger *slog.Logger) error {
	ours := n.cfg.serviceKeys()[name]
	for _, v := range versions {
		if v.Token != name || v.State == key.Destroyed {
			continue // an object of a destroyed version that came back is not ours
		}
		for p := range v.KCVs {
			ours = append(ours, v.ID.Label(p))
			if v.Destroying {
				continue // its objects are there as far as they have not gone
			}
			if err := t.Check(ctx, cardkey.Root(v, p)); err != nil {
				return fmt.Errorf("%s: %w", v.ID.Label(p), err)
			}
		}
	}
	found, err := t.Survey(ctx, ours)
	if err != nil {
		return err
	}
	for _, label := range found.Foreign {
		logger.Warn("the token holds a key that is not ours", "token", cmp.Or(name, mainToken), "label", label)
	}
	return found.Err()
}

// announce says and logs which plans the main token's operations follow, and who
// keeps the boundary.
func (n *node) announce(ctx context.Context, logger *slog.Logger) error {
	found := said(n.token, "", logger)
	if v := n.cfg.fromVault; v != nil && v.pinVersion.Load() > 0 {
		found["pin_version"] = fmt.Sprint(v.pinVersion.Load())
	}
	return n.service.Started(ctx, found)
}

// announceToken does so for another token when it begins to serve.
func (n *node) announceToken(ctx context.Context, name string, t *hsm.Token, logger *slog.Logger) error {
	found := said(t, name, logger)
	if !n.serves {
		return nil // a ceremony says what it did, and a dry run does nothing
	}
	return n.service.TokenServes(ctx, name, found)
}

// said tells the operator what a token was found able to do, and returns it as details of
// an entry: yes or no by the word of each capability, and which derivation it has.
func said(t *hsm.Token, name string, logger *slog.Logger) map[string]string {
	found := map[string]string{}
	for _, c := range t.Capabilities() {
		state := "yes"
		if c.Err != nil {
			state = "no"
		}
		logger.Info("token", "name", cmp.Or(name, mainToken), "operation", c.Operation, "plan", c.Plan, "able", state)
		found[c.Word] = state
	}
	found["kdf"] = "composed"
	if strings.HasPrefix(t.Capabilities()[0].Plan, "native") {
		found["kdf"] = "native"
	}
	return found
}
