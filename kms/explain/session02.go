package explain

import (
	"context"
	"fmt"

	"cardkms/derive"
	"cardkms/derive/scp02"
	"cardkms/kms/key"
)

// session02 is a session of SCP02 as it was on the wire, one of whose MACs failed.
type session02 struct {
	answer
	level     scp02.Level
	exchanges []exchange
}

// session02Of looks that a transcript is one of SCP02.
func session02Of(a answer, exchanges []exchange) (q session02, err error) {
	// [GPCS], Section E.5.2: P1 is the security level, and the data are host cryptogram
	// and MAC.
	ext := exchanges[0].command
	q = session02{a, scp02.Level(ext.P1), exchanges}
	if ext.CLA&0xF0 != 0x80 || ext.INS != 0x82 || len(ext.Data) != 16 || !scp02.ValidLevel(q.level, a.profile.I) {
		return q, errFirst
	}
	for n, x := range exchanges {
		if _, err := q.messaging(n).Received(scp02.State{}, x.command); err != nil {
			return q, err
		}
	}
	return q, nil
}

// messaging returns what secures command n. [GPCS], Section E.4.4: EXTERNAL AUTHENTICATE,
// which is command 0, is MACed and nothing else at every level.
func (q session02) messaging(n int) scp02.Messaging {
	m := scp02.Messaging{Level: q.level, I: q.profile.I}
	if n == 0 {
		m.Level = scp02.CMAC
	}
	return m
}

// Search implements Question.
func (q session02) Search(ctx context.Context, t derive.Token, versions []key.Version) (Explanation, error) {
	return first(q.hypotheses(versions), func(h hypothesis) (bool, []string, error) {
		return q.under02(ctx, t, h, func(t derive.TDEAToken, k scp02.Session) (bool, []string, error) {
			return q.try(ctx, t, k, h)
		})
	})
}

// try says what is the first wrong MAC under the keys of a hypothesis. The card
// cryptogram is of K-ENC alone, so that EXTERNAL AUTHENTICATE shows K-MAC: another one
// may explain a first MAC that this one does not, and where none does, nothing is known
// of it.
func (q session02) try(ctx context.Context, t derive.TDEAToken, k scp02.Session, h hypothesis) (bool, []string, error) {
	n, words, err := q.firstWrong(ctx, t, k)
	switch unknown := n == 0 && len(words) > 0 && (words[1] == string(foundNothing) || words[1] == macNotChecked); {
	case err != nil:
		return false, nil, err
	case !unknown:
		return true, append(q.differences(h), words...), nil
	case words[1] == macNotChecked, h.mac == lastMAC(h.enc):
		return true, append(q.encOnly(h), words...), nil
	}
	return false, nil, nil
}

// firstWrong names the first MAC that is not as expected, and what explains it. Those
// after it chain from one that is not known.
func (q session02) firstWrong(ctx context.Context, t derive.TDEAToken, k scp02.Session) (n int, words []string, err error) {
	at := replay02{commanded: [][8]byte{{}}}
	for n, x := range q.exchanges {
		at.Messaging = q.messaging(n)
		at.Token, at.Keys = t, k
		found, err := at.command(ctx, x.command)
		if err != nil || found != foundRight {
			return n, []string{fmt.Sprintf("c-mac:%d", n), string(found)}, err
		}
		switch {
		case n == 0:
			at.responses = at.state.Responses()
			at.replied = [][8]byte{{}, at.responses.MAC}
			continue
		case at.Level&scp02.RMAC == 0:
			continue
		case x.response == nil:
			at.lost = true
			continue
		}
		if found, err = at.response(ctx, *x.response); err != nil || found != foundRight {
			return n, []string{fmt.Sprintf("r-mac:%d", n), string(found)}, err
		}
	}
	return 0, nil, nil
}
