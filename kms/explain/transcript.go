package explain

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/profile"
)

// Bounds of a transcript.
const (
	transcriptBytesMax    = 16 << 10
	transcriptCommandsMax = 16
)

// exchange is one secured command and the response to it, if that is known.
type exchange struct {
	command  apdu.Command
	response *apdu.Response
}

// Session reads a question about a card's answer, as Answer does, and the session that it
// opened. The transcript is no parameter, because those stand in a log for good, and at
// levels without encryption it has the data of commands in clear; that the parameter
// sha256 is its digest, the caller has looked.
func Session(params map[string]string, transcript string, kdd []byte, of profile.Profile) (Question, error) {
	a, err := answerOf(params, kdd, of)
	if err != nil {
		return nil, err
	}
	exchanges, err := readTranscript(transcript, kdd)
	if err != nil {
		return nil, err
	}
	if of.Legacy() {
		return session02Of(a, exchanges)
	}
	return session03Of(a, exchanges)
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

// errFirst is said of a transcript of another command, and of a level that is none.
var errFirst = fault.New(fault.InvalidInput, "a transcript begins with EXTERNAL AUTHENTICATE at a level that the card has")
