package explain

import (
	"context"
	"fmt"
	"slices"

	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// deviation03 is one of a MAC of SCP03.
type deviation03 = deviation[scp03.MAC]

// replay03 is a session that goes through its transcript again.
type replay03 struct {
	scp03.Messaging
	state scp03.State
	past  [][16]byte // chaining values so far, the first one zero
}

// What is said of data whose MAC is right, of a response without one, and of an error with one.
const (
	notDecrypted Explanation = "decryption:fails"
	macMissing   Explanation = "mac:missing"
	macOnError               = "mac:on-error"
	// macNotChecked is said where the token cannot compute what the transcript asks for.
	macNotChecked = "mac:not-checked"
)

// command explains the MAC of a command. One that is as expected moves the session on.
func (r *replay03) command(ctx context.Context, c apdu.Command) (Explanation, error) {
	o, next, err := r.Received(r.state, c)
	if err != nil {
		return "", err
	}
	encrypted := r.Level&scp03.CDecryption != 0 && len(o.Data) > 0
	plain, err := r.plain(ctx, next, o, encrypted)
	if err != nil {
		return "", err
	}
	ways := deviating(o,
		[]deviation03{{"key:s-rmac", func(o *scp03.MAC) { o.Key = r.Keys.RMAC }}},
		r.chainings(),
		when(plain != nil, deviation03{"data:plain", func(o *scp03.MAC) { o.Data, o.Lc = plain, c.Lc(len(plain)+int(r.Mode)) }}),
		append(when(len(o.Data) == 0, deviation03{"lc:zero", func(o *scp03.MAC) { o.Lc = []byte{0} }}),
			deviation03{"lc:without-mac", func(o *scp03.MAC) { o.Lc = c.Lc(len(o.Data)) }}),
		append(when(c.CLA != o.Header[0], deviation03{"cla:with-channel", func(o *scp03.MAC) { o.Header = c.Header() }}),
			deviation03{"cla:unsecured", func(o *scp03.MAC) { o.Header = append([]byte{o.Header[0] &^ 0x04}, o.Header[1:]...) }}),
		when(c.Ne > 0, deviation03{"le:covered", func(o *scp03.MAC) { o.After = le(c) }}),
	)
	found, err := first(ways, func(w way[scp03.MAC]) (bool, []string, error) {
		var err error
		next.Chaining, err = w.mac.Verify(ctx, r.Token)
		ok, err := verified(err)
		return ok, w.words, err
	})
	switch {
	case err != nil || found != foundRight:
		return found, err
	case encrypted && plain == nil:
		return notDecrypted, nil
	}
	r.state, r.past = next, append(r.past, next.Chaining)
	return foundRight, nil
}

// le returns Le as a command transmits it.
func le(c apdu.Command) []byte {
	if c.Extended {
		return []byte{byte(c.Ne >> 8), byte(c.Ne)}
	}
	return []byte{byte(c.Ne)}
}

// response explains the MAC of the response to the last command. [AmdD], Section 6.2.5:
// success and warnings have one, errors have none and no data.
func (r *replay03) response(ctx context.Context, a apdu.Response) (Explanation, error) {
	failure := a.SW != apdu.Success && !a.SW.Warning()
	if failure && len(a.Data) == 0 {
		return foundRight, nil
	}
	var ways []way[scp03.MAC]
	undecrypted := false
	for _, mode := range []scp03.Mode{scp03.S8, scp03.S16} {
		some, encrypted, err := r.responded(ctx, a, mode)
		if err != nil {
			return "", err
		}
		for _, w := range some {
			if failure {
				w.words = append(w.words, macOnError)
			}
			if mode != r.Mode {
				w.words = append(w.words, fmt.Sprintf("mac-length:%d", mode))
			}
			ways = append(ways, w)
		}
		undecrypted = undecrypted || encrypted && mode == r.Mode
	}
	if len(ways) == 0 {
		return macMissing, nil
	}
	slices.SortStableFunc(ways, fewer[scp03.MAC])
	found, err := first(ways, func(w way[scp03.MAC]) (bool, []string, error) {
		_, err := w.mac.Verify(ctx, r.Token)
		ok, err := verified(err)
		return ok, w.words, err
	})
	if err == nil && found == foundRight && undecrypted {
		return notDecrypted, nil
	}
	return found, err
}

// responded returns the ways in which a card may have computed an R-MAC of this length,
// none if the response is too short, and whether its data should decrypt and do not.
func (r *replay03) responded(ctx context.Context, a apdu.Response, mode scp03.Mode) (ways []way[scp03.MAC], undecrypted bool, err error) {
	m := r.Messaging
	m.Mode = mode
	o, err := m.ResponseMAC(r.state, a)
	if err != nil {
		return nil, false, nil
	}
	encrypted := r.Level&scp03.REncryption != 0 && len(o.Data) > 0
	plain, err := r.plain(ctx, r.state, o, encrypted)
	return deviating(o,
		[]deviation03{{"key:s-mac", func(o *scp03.MAC) { o.Key = r.Keys.MAC }}},
		r.chainings(),
		when(plain != nil, deviation03{"data:plain", func(o *scp03.MAC) { o.Data = plain }}),
		append(when(a.SW != apdu.Success, deviation03{"status-word:9000", func(o *scp03.MAC) { o.After = []byte{0x90, 0x00} }}),
			deviation03{"status-word:missing", func(o *scp03.MAC) { o.After = nil }}),
	), encrypted && plain == nil, err
}

// plain returns the data under a MAC decrypted, nil if they are not encrypted. It leaves
// this package as the word that a MAC over it matches, or that data whose MAC is right are
// none, so that nobody learns about the padding of data of his own.
func (r *replay03) plain(ctx context.Context, s scp03.State, o scp03.MAC, encrypted bool) ([]byte, error) {
	if !encrypted {
		return nil, nil
	}
	plain, err := r.Plain(ctx, s, o)
	if fault.CodeOf(err) == fault.ProofFailed {
		return nil, nil
	}
	return plain, err
}

// chainings are the chaining values that may stand in the place of the last one.
func (r *replay03) chainings() []deviation03 {
	last := len(r.past) - 1
	return instead(r.past[last], func(o *scp03.MAC, value [16]byte) { o.Chaining = value },
		chained[[16]byte]{"chaining:zero", [16]byte{}},
		chained[[16]byte]{"chaining:external-authenticate", r.past[min(1, last)]},
		chained[[16]byte]{"chaining:previous", r.past[max(0, last-1)]},
		chained[[16]byte]{"chaining:truncated", truncated(r.past[last])})
}

// truncated is a chaining value of which the 8 bytes were kept that S8 mode sends.
func truncated(c [16]byte) [16]byte {
	clear(c[scp03.S8:])
	return c
}
