package explain

import (
	"context"

	"cardkms/derive"
	"cardkms/derive/scp02"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

type (
	// deviation02 is one of a MAC of SCP02.
	deviation02 = deviation[scp02.MAC]
	// icv is what a MAC of SCP02 may chain from.
	icv = chained[[8]byte]
)

// replay02 is a session of SCP02 that goes through its transcript again. Its C-MACs chain
// from C-MACs, and its R-MACs from R-MACs.
type replay02 struct {
	scp02.Messaging
	state              scp02.State
	responses          scp02.Responses
	commanded, replied [][8]byte    // ICVs so far; the first one of commanded is zero
	plain              apdu.Command // the last one but for its secure messaging
	lost               bool         // a response is not in the transcript, so nobody knows the ICV of the next
}

// command explains the MAC of a command. One that is as expected moves the session on.
func (r *replay02) command(ctx context.Context, c apdu.Command) (Explanation, error) {
	o, err := r.Received(r.state, c)
	if err != nil {
		return "", err
	}
	n := len(o.Data)
	found, mac, err := explain02(ctx, r.Token, deviating(o,
		[]deviation02{{"key:s-rmac", func(o *scp02.MAC) { o.Key = r.Keys.RMAC }}},
		icvs(r.commanded),
		[]deviation02{encryption(!o.EncryptICV)},
		// Cards with bit 02 of "i" get no channel, so that no MAC here is to be over the
		// unmodified command: [GPCS], Section E.4.4.
		append(when(n == 0, deviation02{"lc:zero", func(o *scp02.MAC) { o.Lc = []byte{0} }}),
			deviation02{"lc:without-mac", func(o *scp02.MAC) { o.Lc = c.Lc(n) }},
			deviation02{"apdu:unmodified", func(o *scp02.MAC) { o.Lc, o.Header = c.Lc(n), withCLA(o, o.Header[0]&^0x04) }}),
		append(when(c.CLA != o.Header[0], deviation02{"cla:with-channel", func(o *scp02.MAC) { o.Header = withCLA(o, o.Header[0]|c.CLA&0x03) }}),
			deviation02{"cla:unsecured", func(o *scp02.MAC) { o.Header = withCLA(o, o.Header[0]&^0x04) }}),
		when(c.Ne > 0, deviation02{"le:covered", func(o *scp02.MAC) { o.After = le(c) }}),
	))
	if err != nil || found != foundRight {
		return found, err
	}
	r.state = scp02.State{MAC: mac, Chained: true}
	r.commanded = append(r.commanded, mac)
	r.plain, r.plain.Data = c, o.Data
	return foundRight, nil
}

// response explains the MAC of the response to the last command. [GPCS], Section E.4.5:
// errors have one too, but for those with which a card ends the session.
func (r *replay02) response(ctx context.Context, a apdu.Response) (Explanation, error) {
	if len(a.Data) == 0 && a.SW != apdu.Success && !a.SW.Warning() {
		return foundRight, nil
	}
	o, err := r.ResponseMAC(r.responses, r.plain, a)
	switch {
	case err != nil:
		return macMissing, nil
	case r.lost:
		return macNotChecked, nil
	}
	n, channel := len(o.Data), r.plain.CLA&0x03
	found, mac, err := explain02(ctx, r.Token, deviating(o,
		[]deviation02{{"key:s-mac", func(o *scp02.MAC) { o.Key = r.Keys.MAC }}},
		icvs(r.replied, icv{"icv:c-mac", r.state.MAC}),
		append(when(n == 0, deviation02{"lc:missing", func(o *scp02.MAC) { o.Lc = nil }}),
			deviation02{"lc:with-mac", func(o *scp02.MAC) { o.Lc = r.plain.Lc(n + len(o.Sent)) }}),
		append(when(channel != 0, deviation02{"cla:with-channel", func(o *scp02.MAC) { o.Header = withCLA(o, o.Header[0]|channel) }}),
			deviation02{"cla:secured", func(o *scp02.MAC) { o.Header = withCLA(o, o.Header[0]|0x04) }}),
		append(when(a.SW != apdu.Success, deviation02{"status-word:9000", func(o *scp02.MAC) { o.After = []byte{0x90, 0x00} }}),
			deviation02{"status-word:missing", func(o *scp02.MAC) { o.After = nil }},
			deviation02{"padding:twice", func(o *scp02.MAC) { o.PaddedTwice = true }}),
	))
	if err != nil || found != foundRight {
		return found, err
	}
	r.responses = scp02.Responses{MAC: mac}
	r.replied = append(r.replied, mac)
	return foundRight, nil
}

// explain02 returns the words of the first of some MACs that verifies, and the MAC. One
// that the token cannot compute, for data that are encrypted among other reasons, is not
// one that differs.
func explain02(ctx context.Context, t derive.TDEAToken, ways []way[scp02.MAC]) (found Explanation, mac [8]byte, err error) {
	found, err = first(ways, func(w way[scp02.MAC]) (bool, []string, error) {
		var err error
		mac, err = w.mac.Verify(ctx, t)
		if fault.CodeOf(err) == fault.TokenUnable {
			return true, []string{macNotChecked}, nil
		}
		ok, err := verified(err)
		return ok, w.words, err
	})
	return found, mac, err
}

// icvs are the ICVs that may stand in the place of the last one.
func icvs(past [][8]byte, more ...icv) []deviation02 {
	last := len(past) - 1
	return instead(past[last], func(o *scp02.MAC, value [8]byte) { o.ICV = value }, append([]icv{
		{"icv:zero", [8]byte{}}, {"icv:external-authenticate", past[min(1, last)]}, {"icv:previous", past[max(0, last-1)]},
	}, more...)...)
}

// encryption is the deviation of an ICV that is encrypted and should not be, or the
// other way about.
func encryption(wrong bool) deviation02 {
	word := "icv:not-encrypted"
	if wrong {
		word = "icv:encrypted"
	}
	return deviation02{word, func(o *scp02.MAC) { o.EncryptICV = wrong }}
}

// withCLA returns the header of a command with another CLA.
func withCLA(o *scp02.MAC, cla byte) []byte { return append([]byte{cla}, o.Header[1:]...) }
