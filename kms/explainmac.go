package kms

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"cardkms/derive"
	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

// Bounds of a transcript.
const (
	transcriptBytesMax    = 16 << 10
	transcriptCommandsMax = 16
)

// macQuestion is a session of SCP03 as it was on the wire, one of whose MACs failed.
type macQuestion struct {
	gpQuestion
	level     scp03.Level
	exchanges []exchange
}

// exchange is one secured command and the response to it, if that is known.
type exchange struct {
	command  apdu.Command
	response *apdu.Response
}

// macQuestionOf reads a question about a card's answer and the session that it opened: the
// document is a transcript from EXTERNAL AUTHENTICATE on, each line "> " and a command or
// "< " and a response in hexadecimal. It is no parameter, because those stand in the log
// for good, and at levels without encryption a transcript has the data of commands in clear.
func (s *Service) macQuestionOf(ctx context.Context, c Case, kdd []byte) (question, error) {
	g, err := s.gpQuestionOf(ctx, c.Proposal, kdd)
	if err != nil {
		return nil, err
	}
	if !c.Proposal.Signs([]byte(c.Document)) {
		return nil, fault.New(fault.InvalidInput, "sha256 is not the digest of the transcript")
	}
	exchanges, err := readTranscript(c.Document, kdd)
	if err != nil {
		return nil, err
	}
	if g.profile.Legacy() {
		return macQuestion02Of(g, exchanges)
	}
	return macQuestion03Of(g, exchanges)
}

// errFirst is said of a transcript of another command, and of a level that is none.
var errFirst = fault.New(fault.InvalidInput, "a transcript begins with EXTERNAL AUTHENTICATE at a level that the card has")

// macQuestion03Of looks that a transcript is one of SCP03.
func macQuestion03Of(g gpQuestion, exchanges []exchange) (q macQuestion, err error) {
	// [AmdD], Section 7.1.2: P1 is the security level, and the data are host cryptogram
	// and MAC.
	first := exchanges[0].command
	q = macQuestion{g, scp03.Level(first.P1), exchanges}
	if first.CLA&0xF0 != 0x80 || first.INS != 0x82 || len(first.Data) != 2*len(q.host) || !scp03.ValidLevel(q.level, q.answer.I) {
		return q, errFirst
	}
	for n, x := range q.exchanges {
		if _, _, err := q.messaging(n).Received(scp03.State{}, x.command); err != nil {
			return q, err
		}
	}
	return q, nil
}

// readTranscript parses a transcript, which names no card: it stays in the database.
func readTranscript(text string, kdd []byte) (all []exchange, err error) {
	bad := fault.New(fault.InvalidInput, fmt.Sprintf("a transcript has up to %d commands and %d bytes; its lines are > and a command, or < and the response to it, in hexadecimal", transcriptCommandsMax, transcriptBytesMax))
	if len(text) > transcriptBytesMax {
		return nil, bad
	}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) != 2 {
			return nil, bad
		}
		b, err := hex.DecodeString(words[1])
		if err != nil {
			return nil, bad
		}
		if bytes.Contains(b, kdd) {
			return nil, fault.New(fault.InvalidInput, "the transcript holds the card's key diversification data in clear")
		}
		switch {
		case words[0] == ">" && len(all) < transcriptCommandsMax:
			c, err := apdu.ParseCommand(b)
			if err != nil {
				return nil, err
			}
			all = append(all, exchange{command: c})
		case words[0] == "<" && len(all) > 0 && all[len(all)-1].response == nil:
			r, err := apdu.ParseResponse(b)
			if err != nil {
				return nil, err
			}
			all[len(all)-1].response = &r
		default:
			return nil, bad
		}
	}
	if len(all) == 0 {
		return nil, bad
	}
	return all, nil
}

// messaging returns what secures command n. [AmdD], Section 6.2.4: EXTERNAL AUTHENTICATE,
// which is command 0, is MACed and nothing else at every level.
func (q macQuestion) messaging(n int) scp03.Messaging {
	m := scp03.Messaging{Level: q.level, Mode: scp03.Mode(len(q.host)), Options: q.profile.Options}
	if n == 0 {
		m.Level = scp03.CMAC
	}
	return m
}

func (q macQuestion) search(ctx context.Context, s *Service) (explanation, error) {
	all, err := s.versions(ctx, q.issuer)
	if err != nil {
		return "", err
	}
	return explain(q.hypotheses(all), func(h hypothesis) (bool, []string, error) {
		return q.under(ctx, s, h, func(_ scp03.Static, k scp03.Session) ([]string, error) {
			words, err := q.firstWrong(ctx, s.cfg.Token, k)
			if fault.CodeOf(err) == fault.TokenUnable { // of a key that is the right one
				return []string{macNotChecked}, nil
			}
			return words, err
		})
	})
}

// firstWrong names the first MAC that is not as the document has it, and what explains
// it. Those after it chain from one that is not known.
func (q macQuestion) firstWrong(ctx context.Context, t derive.Token, k scp03.Session) ([]string, error) {
	at := replay{past: [][16]byte{{}}}
	for n, x := range q.exchanges {
		at.Messaging = q.messaging(n)
		at.Token, at.Keys = t, k
		found, err := at.command(ctx, x.command)
		if err != nil || found != foundRight {
			return []string{fmt.Sprintf("c-mac:%d", n), found.said()}, err
		}
		if n == 0 {
			at.state.Counter = 0 // as scp03.ExternalAuthenticate has it
		}
		if x.response == nil || at.Level&scp03.RMAC == 0 {
			continue
		}
		if found, err = at.response(ctx, *x.response); err != nil || found != foundRight {
			return []string{fmt.Sprintf("r-mac:%d", n), found.said()}, err
		}
	}
	return nil, nil
}
