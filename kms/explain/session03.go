package explain

import (
	"context"
	"fmt"

	"cardkms/derive"
	"cardkms/derive/scp03"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// session03 is a session of SCP03 as it was on the wire, one of whose MACs failed.
type session03 struct {
	answer
	level     scp03.Level
	exchanges []exchange
}

// session03Of looks that a transcript is one of SCP03.
func session03Of(a answer, exchanges []exchange) (q session03, err error) {
	// [AmdD], Section 7.1.2: P1 is the security level, and the data are host cryptogram
	// and MAC.
	ext := exchanges[0].command
	q = session03{a, scp03.Level(ext.P1), exchanges}
	if ext.CLA&0xF0 != 0x80 || ext.INS != 0x82 || len(ext.Data) != 2*len(q.host) || !scp03.ValidLevel(q.level, q.said.I) {
		return q, errFirst
	}
	for n, x := range q.exchanges {
		if _, _, err := q.messaging(n).Received(scp03.State{}, x.command); err != nil {
			return q, err
		}
	}
	return q, nil
}

// messaging returns what secures command n. [AmdD], Section 6.2.4: EXTERNAL AUTHENTICATE,
// which is command 0, is MACed and nothing else at every level.
func (q session03) messaging(n int) scp03.Messaging {
	m := scp03.Messaging{Level: q.level, Mode: scp03.Mode(len(q.host)), Options: q.profile.Options}
	if n == 0 {
		m.Level = scp03.CMAC
	}
	return m
}

// Search implements Question.
func (q session03) Search(ctx context.Context, t derive.Token, versions []key.Version) (Explanation, error) {
	return first(q.hypotheses(versions), func(h hypothesis) (bool, []string, error) {
		return q.under03(ctx, t, h, func(_ scp03.Static, k scp03.Session) ([]string, error) {
			words, err := q.firstWrong(ctx, t, k)
			if fault.CodeOf(err) == fault.TokenUnable { // of a key that is the right one
				return []string{macNotChecked}, nil
			}
			return words, err
		})
	})
}

// firstWrong names the first MAC that is not as the document has it, and what explains
// it. Those after it chain from one that is not known.
func (q session03) firstWrong(ctx context.Context, t derive.Token, k scp03.Session) ([]string, error) {
	at := replay03{past: [][16]byte{{}}}
	for n, x := range q.exchanges {
		at.Messaging = q.messaging(n)
		at.Token, at.Keys = t, k
		found, err := at.command(ctx, x.command)
		if err != nil || found != foundRight {
			return []string{fmt.Sprintf("c-mac:%d", n), string(found)}, err
		}
		if n == 0 {
			at.state.Counter = 0 // as scp03.ExternalAuthenticate has it
		}
		if x.response == nil || at.Level&scp03.RMAC == 0 {
			continue
		}
		if found, err = at.response(ctx, *x.response); err != nil || found != foundRight {
			return []string{fmt.Sprintf("r-mac:%d", n), string(found)}, err
		}
	}
	return nil, nil
}
