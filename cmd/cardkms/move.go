package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
)

// mover brings one card to the newest version of its keys, from wherever an
// earlier try left it.
type mover struct {
	api    *client.Client
	issuer string
	flags  moveFlags
	say    func(format string, args ...any)
	old    []api.HexByte // Key Version Numbers of the former keys
	moved  moved
}

type moveFlags struct {
	card, key, profile string
	tries              int
	wait               time.Duration
	keep               bool
}

// moved is the result, as scripts read it.
type moved struct {
	Card          api.Hex     `json:"card"`
	From          string      `json:"from"`
	To            string      `json:"to"`
	KVN           api.HexByte `json:"kvn"`
	Retired       bool        `json:"retired"` // the former keys are gone from the card
	Interruptions int         `json:"interruptions"`
}

func (a *app) moveCommand() *cobra.Command {
	var f moveFlags
	c := &cobra.Command{
		Use: "move --card tcp:HOST:PORT", Short: "Give a card the newest version of its keys, and go on after a power cut",
		Long: `Give a card the newest active version of its keys: add them beside the old ones
by PUT KEY, have the service compare the card's check values, prove the new keys,
and take the old ones away by DELETE.

A cut of power at any point leaves a card that the service reaches: the command
asks for the new keys first, and for the old ones if the card does not know
those. Started again, it goes on where the card stands.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				m := &mover{api: c, issuer: a.issuer, flags: f}
				m.say = func(format string, args ...any) { fmt.Fprint(a.err, screen(fmt.Sprintf(format+"\n", args...))) }
				if err := m.run(cmd.Context()); err != nil {
					return err
				}
				r := m.moved
				return a.show(r, "card %s has the keys of %s, KVN %s, and proved them; former keys taken away: %v (%d interruptions)", r.Card, r.To, r.KVN, r.Retired, r.Interruptions)
			})
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.card, "card", "", "where the card is: `tcp:HOST:PORT`")
	fl.StringVar(&f.key, "key", "isd", "name of the gp-scp03 key")
	fl.StringVar(&f.profile, "card-profile", "", "card profile of the server")
	fl.IntVar(&f.tries, "tries", 10, "how often the card may go away")
	fl.DurationVar(&f.wait, "wait", time.Second, "how long to wait for a card that went away")
	fl.BoolVar(&f.keep, "keep-old-keys", false, "leave the former keys on the card")
	_ = c.MarkFlagRequired("card")
	return c
}

func (m *mover) run(ctx context.Context) error {
	for try := 1; ; try++ {
		err := m.attempt(ctx)
		if err == nil || !interrupted(err) || try >= m.flags.tries {
			return err
		}
		m.say("%v; trying again", err)
		m.moved.Interruptions++
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(m.flags.wait):
		}
	}
}

// attempt goes as far as the card's power lasts. After the first half the card
// has the new keys, which the second half proves.
func (m *mover) attempt(ctx context.Context) error {
	cd, err := dialCard(ctx, m.flags.card)
	if err != nil {
		return err
	}
	defer cd.close()
	l, err := m.connect(ctx, cd, 0)
	if err != nil {
		return err
	}
	target, err := m.give(ctx, l)
	l.close(ctx)
	if err == nil && !m.flags.keep && slices.Equal(m.old, []api.HexByte{target}) {
		m.old, err = m.former(ctx, cd, target)
	}
	if err != nil {
		return err
	}
	if l, err = m.connect(ctx, cd, target); err != nil {
		return err
	}
	defer l.close(ctx)
	return m.retire(ctx, l)
}

func (m *mover) connect(ctx context.Context, cd *card, kvn api.HexByte) (*line, error) {
	if err := cd.reset(); err != nil {
		return nil, err
	}
	return connect(ctx, m.api, m.issuer, cd, api.OpenChannel{Key: m.flags.key, Profile: m.flags.profile, KVN: kvn})
}

// give adds the new keys to a card on a channel that the card's default keys
// opened, and returns their KVN. A card that has them is told apart by the
// service's answer, or by a move whose end nobody saw.
func (m *mover) give(ctx context.Context, l *line) (api.HexByte, error) {
	row, err := m.api.Card(ctx, m.issuer, l.kdd.String())
	if err != nil {
		return 0, err
	}
	if m.old == nil {
		m.moved.Card, m.moved.From, m.old = l.kdd, row.KeyVersion, []api.HexByte{row.KVN}
	}
	if row.Move != nil {
		known, err := m.has(ctx, l, row.Move.KVN)
		if err != nil {
			return 0, err
		}
		if known {
			m.moved.To, m.moved.KVN = row.Move.To, row.Move.KVN
			return row.Move.KVN, nil
		}
	}
	out, err := m.api.ChangeKeys(ctx, m.issuer, l.id)
	var p *api.Problem
	if errors.As(err, &p) && p.Code == api.Conflict { // the card has the newest version
		m.moved.To, m.moved.KVN = row.KeyVersion, row.KeyVersionKVN
		return row.KeyVersionKVN, nil
	}
	if err != nil {
		return 0, err
	}
	m.moved.To, m.moved.KVN = out.To, out.KVN
	answer, err := l.card.transmit(out.Command)
	if err != nil {
		return 0, err
	}
	_, err = m.api.ConfirmKeys(ctx, m.issuer, l.id, answer)
	return out.KVN, err
}

// has asks the card for keys of a KVN: INITIALIZE UPDATE is answered 6A88 by a
// card that has none. The channel that this ends is opened again.
func (m *mover) has(ctx context.Context, l *line, kvn api.HexByte) (bool, error) {
	if err := l.card.reset(); err != nil {
		return false, err
	}
	r, err := l.card.transmit([]byte{0x80, 0x50, byte(kvn), 0x00, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0x00})
	if err != nil || len(r) > 2 {
		return err == nil, err
	}
	l.close(ctx)
	again, err := m.connect(ctx, l.card, 0)
	if err == nil {
		*l = *again
	}
	return false, err
}

// former returns the former keys of a card whose default keys are the new ones
// already: sets of three keys that its key information template (GET DATA 00E0,
// [GPCS], Section 11.3.3) lists, with the number of a version of the key. A
// channel tells that, which ends at once; of keys of anybody else it is refused.
func (m *mover) former(ctx context.Context, cd *card, target api.HexByte) (out []api.HexByte, err error) {
	if err := cd.reset(); err != nil {
		return nil, err
	}
	r, err := cd.transmit([]byte{0x80, 0xCA, 0x00, 0xE0, 0x00})
	if err != nil {
		return nil, err
	}
	for _, kvn := range keySets(r) {
		if kvn == target {
			continue
		}
		o, err := m.api.OpenChannel(ctx, m.issuer, api.OpenChannel{Key: m.flags.key, Profile: m.flags.profile, KVN: kvn})
		var p *api.Problem
		if errors.As(err, &p) && (p.Code == api.NotFound || p.Code == api.KeyState) {
			m.say("the card's keys of KVN %s stay: %v", kvn, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		_ = m.api.CloseChannel(ctx, m.issuer, o.ID)
		out = append(out, kvn)
	}
	return out, nil
}

// keySets returns the Key Version Numbers of the sets of keys 01 to 03 in an answer
// with a key information template: E0 L {C0 L id KVN type length ...}. Of a card
// that tells none there is none.
func keySets(r []byte) (out []api.HexByte) {
	if len(r) < 4 || !bytes.HasSuffix(r, success) || r[0] != 0xE0 {
		return nil
	}
	body := r[2 : len(r)-2]
	if r[1] == 0x81 && len(body) > 0 {
		body = body[1:]
	}
	ids := map[byte]byte{} // a bit for each identifier, by KVN
	for len(body) >= 4 && body[0] == 0xC0 && len(body) >= 2+int(body[1]) {
		if id, kvn := body[2], body[3]; id >= 1 && id <= 3 {
			if ids[kvn] |= 1 << id; ids[kvn] == 0b1110 {
				out = append(out, api.HexByte(kvn))
			}
		}
		body = body[2+int(body[1]):]
	}
	return out
}

// absent is the answer of a card to DELETE of keys that it does not have: they went
// with an answer that was lost ([GPCS], Section 11.2.3.2).
var absent = []byte{0x6A, 0x88}

// retire takes the former keys away. A card that keeps them is only less tidy.
func (m *mover) retire(ctx context.Context, l *line) error {
	if m.flags.keep {
		return nil
	}
	for i, kvn := range m.old {
		del, err := m.api.RetireKeys(ctx, m.issuer, l.id, byte(kvn))
		if err != nil {
			return err
		}
		answers, err := l.send(ctx, [][]byte{del}, func() {})
		if err != nil {
			return err
		}
		gone := bytes.HasSuffix(answers[0], success) || bytes.Equal(answers[0], absent)
		m.moved.Retired = gone && (i == 0 || m.moved.Retired)
	}
	return nil
}

func (a *app) rotationCommand() *cobra.Command {
	c := &cobra.Command{Use: "rotation", Short: "How far a key's cards have come to its newest version"}
	c.AddCommand(&cobra.Command{
		Use: "status KEY", Short: "Show who still needs which version", Args: arguments(keyArg),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				r, err := c.Rotation(cmd.Context(), a.issuer, args[0])
				if err != nil {
					return err
				}
				return a.show(r, "%s", rotationText(r))
			})
		},
	})
	return c
}

func rotationText(r api.Rotation) string {
	var lines []string
	for _, v := range r.Versions {
		lines = append(lines, fmt.Sprintf("version %d  KVN %s  %-14s  %s", v.Version, v.KVN, plain(v.State), count(v.Cards, "card")))
	}
	switch {
	case r.Target == 0:
		lines = append(lines, "no version protects")
	case r.Remaining == 0:
		lines = append(lines, fmt.Sprintf("every card that was seen has version %d", r.Target))
	default:
		lines = append(lines, fmt.Sprintf("%s still without version %d; %d moved in this clock hour, %d in it and the 23 before", count(r.Remaining, "card"), r.Target, r.MovedLastHour, r.MovedLastDay))
		if !r.Forecast.IsZero() {
			lines = append(lines, "at this pace the last one moves about "+stamp(r.Forecast))
		}
	}
	return strings.Join(lines, "\n")
}
