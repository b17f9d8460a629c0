package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"cardkms/audit/durable"
	"cardkms/derive"
	"cardkms/kms"
	"cardkms/kms/ceremony"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/secret"
	"cardkms/softhsm"
)

// tokenSteps are the steps before there is a service, and so before there is a log:
// ceremony.token and the record tell of them.
func (c *conductor) tokenSteps() (out []step) {
	if c.f.Token == nil {
		return nil
	}
	t := c.f.Token
	out = append(out, step{
		name: ceremony.TokenStep, words: fmt.Sprintf("Initialise a token labelled %s in %s, unless there is one.", t.Label, t.Module),
		done: func(context.Context) (facts, bool, error) {
			there, err := c.tokenExists()
			return nil, there, err
		},
		do: c.formatToken,
	})
	if c.f.ServiceKeys != nil {
		k := c.f.ServiceKeys
		out = append(out, step{
			name:  ceremony.ServiceKeysStep,
			words: fmt.Sprintf("Make the service's own keys in it, unless they are there: %s signs the audit log, %s names cards in it, %s makes the MACs of rows.", k.Log, k.Pseudonym, k.State),
			done:  c.findServiceKeys,
			do:    c.makeServiceKeys,
		})
	}
	return out
}

// tokenExists looks for the token. Where SoftHSM2's directory is not there yet, a dry
// run does not make it.
func (c *conductor) tokenExists() (bool, error) {
	if dir := c.f.Token.SoftHSM; dir != "" {
		if _, err := os.Stat(c.beside(dir)); err != nil && c.dry {
			return false, nil
		}
		if err := softhsm.Use(c.beside(dir)); err != nil {
			return false, err
		}
	}
	return hsm.Exists(c.f.Token.Module, c.f.Token.Label)
}

// secret resolves references of a file that has no configuration yet.
func (c *conductor) secret(ref string) (secret.Bytes, error) {
	cfg := config{dir: c.dir, secrets: c.secrets}
	return cfg.resolve(ref)
}

func (c *conductor) formatToken(context.Context) (facts, error) {
	so, err := c.secret(c.f.Token.SOPIN)
	if err != nil {
		return nil, fmt.Errorf("soPIN: %w", err)
	}
	pin, err := c.secret(c.f.Token.PIN)
	if err != nil {
		return nil, fmt.Errorf("pin: %w", err)
	}
	return nil, hsm.Format(c.f.Token.Module, c.f.Token.Label, so, pin)
}

// withToken opens the token for one step. There is one Token at a time, and the
// service opens its own afterwards.
func (c *conductor) withToken(ctx context.Context, f func(*hsm.Token) error) error {
	there, err := c.tokenExists()
	if err != nil || !there {
		return err
	}
	pin, err := c.secret(c.f.Token.PIN)
	if err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	t, err := hsm.Open(ctx, hsm.Config{Module: c.f.Token.Module, Label: c.f.Token.Label, PIN: pin, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer t.Close()
	return f(t)
}

func (c *conductor) findServiceKeys(ctx context.Context) (found facts, done bool, err error) {
	err = c.withToken(ctx, func(t *hsm.Token) error {
		for _, label := range []string{c.f.ServiceKeys.Log, c.f.ServiceKeys.Pseudonym, c.f.ServiceKeys.State} {
			taken, err := t.Taken(ctx, label)
			if err != nil || !taken {
				return err
			}
		}
		done = true
		made, err := serviceKeysOf(ctx, t, *c.f.ServiceKeys)
		c.made, found = &made, made.facts()
		return err
	})
	if err == nil && done && !c.dry {
		err = c.writeLines()
	}
	return found, done, err
}

func (c *conductor) makeServiceKeys(ctx context.Context) (found facts, err error) {
	err = c.withToken(ctx, func(t *hsm.Token) error {
		made, err := serviceKeysOf(ctx, t, *c.f.ServiceKeys)
		c.made, found = &made, made.facts()
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, c.writeLines()
}

// serviceKeys is what a configuration says of the service's own keys.
type serviceKeys struct {
	verifier         string // of the log
	pseudonym, state key.KCV
}

// serviceKeysOf makes the service's keys, or finds those that an attempt which broke
// off made.
func serviceKeysOf(ctx context.Context, t *hsm.Token, names ceremony.ServiceKeys) (made serviceKeys, err error) {
	sign, err := t.GenerateSigning(ctx, names.Log, t.PreferredSigning())
	if fault.CodeOf(err) == fault.Conflict {
		sign, err = t.Signing(ctx, names.Log)
	}
	if err != nil {
		return made, fmt.Errorf("making the log's signing key: %w", err)
	}
	crashAt("log key made")
	if made.verifier, err = logVerifier(names.Origin, sign); err != nil {
		return made, err
	}
	for label, kcv := range map[string]*key.KCV{names.Pseudonym: &made.pseudonym, names.State: &made.state} {
		root, err := t.Generate(ctx, label, key.AES256, derive.SessionMAC)
		if fault.CodeOf(err) == fault.Conflict {
			root, err = t.Identify(ctx, label, key.AES256, derive.SessionMAC)
		}
		if err != nil {
			return made, fmt.Errorf("making the key %s: %w", label, err)
		}
		*kcv = root.KCV
	}
	return made, nil
}

func text(k key.KCV) string { return string(k.Method) + ":" + k.Value }

func (s serviceKeys) facts() facts {
	return facts{"verifier": s.verifier, "kcv_pseudonym": text(s.pseudonym), "kcv_state": text(s.state)}
}

func (c *conductor) lines() string { return c.path + ".lines" }

// writeLines writes what the configuration has to say of the service's keys.
func (c *conductor) writeLines() error {
	k := c.f.ServiceKeys
	b := fmt.Sprintf("token:\n  label: %s\n  pseudonym: {label: %s, kcv: %q}\n  state: {label: %s, kcv: %q}\nlog:\n  label: %s\n  origin: %s\n  verifier: %q\n",
		c.f.Token.Label, k.Pseudonym, text(c.made.pseudonym), k.State, text(c.made.state), k.Log, k.Origin, c.made.verifier)
	return durable.Replace(c.lines(), []byte(b), 0o644)
}

// agree compares a configuration with the keys that were made.
func (s serviceKeys) agree(f *ceremony.File, cfg *config) error {
	for what, pair := range map[string][2]string{
		"token.label": {cfg.Token.Label, f.Token.Label}, "token.module": {cfg.Token.Module, f.Token.Module},
		"token.pseudonym.label": {cfg.Token.Pseudonym.Label, f.ServiceKeys.Pseudonym}, "token.pseudonym.kcv": {cfg.Token.Pseudonym.KCV, text(s.pseudonym)},
		"token.state.label": {cfg.Token.State.Label, f.ServiceKeys.State}, "token.state.kcv": {cfg.Token.State.KCV, text(s.state)},
		"log.label": {cfg.Log.Label, f.ServiceKeys.Log}, "log.origin": {cfg.Log.Origin, f.ServiceKeys.Origin}, "log.verifier": {cfg.Log.Verifier, s.verifier},
	} {
		if pair[0] != pair[1] {
			return fmt.Errorf("the configuration says %s: %s, and the ceremony made %s", what, cmp.Or(pair[0], "nothing"), pair[1])
		}
	}
	return nil
}

// tell has the log say what was done to the token: what the token shows now, and
// whether this ceremony made it, as its journal has it.
func (c *conductor) tell(ctx context.Context, begun kms.Ceremony) error {
	if c.f.Token == nil || begun.Told || begun.Ended {
		return nil
	}
	who := func(step string) string {
		if s := c.record.Find(step); s != nil && !s.Found {
			return "made"
		}
		return "found"
	}
	detail := facts{"token": plain(c.record.Token), "initialised": who(ceremony.TokenStep)}
	if k := c.f.ServiceKeys; k != nil {
		detail["keys"] = who(ceremony.ServiceKeysStep)
		detail["log"], detail["verifier"] = plain(k.Log), plain(c.made.verifier)
		detail["pseudonym"], detail["kcv_pseudonym"] = plain(k.Pseudonym), text(c.made.pseudonym)
		detail["state"], detail["kcv_state"] = plain(k.State), text(c.made.state)
	}
	return c.node.service.TellToken(ctx, c.by, c.f.Hex(), c.f.Token.Label, detail)
}

// plain makes text one that an audit entry can hold.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/:+", r) {
			return r
		}
		return '_'
	}, s)
	return s[:min(len(s), 200)]
}

// inLine returns facts as they are said after a step.
func inLine(f facts) string {
	var out strings.Builder
	for _, k := range slices.Sorted(maps.Keys(f)) {
		fmt.Fprintf(&out, "\n      %s %s", strings.ReplaceAll(k, "_", " "), f[k])
	}
	return out.String()
}
