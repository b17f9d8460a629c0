package probe

import (
	"bytes"
	"fmt"

	"cardkms/derive/scp03"
	"cardkms/kms/apdu"
)

// stated is what a case says about its session beside the commands, all of it
// optional. Each value that is there is compared, so that no case passes whose
// parts contradict each other.
type stated struct {
	KDD            octets `json:"key_diversification_data"`
	CardChallenge  octets `json:"card_challenge"`
	CardCryptogram octets `json:"card_cryptogram"`
	HostCryptogram octets `json:"host_cryptogram"`
	Counter        octets `json:"sequence_counter"` // null when the card has none
}

// sessionKeys are the session keys of a case, as far as it gives them.
type sessionKeys struct {
	ENC  octets `json:"s_enc"`
	MAC  octets `json:"s_mac"`
	RMAC octets `json:"s_rmac"`
	DEK  octets `json:"dek"` // of SCP02; SCP03 has none
}

// check compares with the card's answer and with EXTERNAL AUTHENTICATE, whose
// data begin with the host cryptogram.
func (c stated) check(s *session, ext apdu.Command) error {
	n := s.answer.Counter
	counter := []byte{byte(n >> 16), byte(n >> 8), byte(n)}
	if !s.answer.CounterIncluded {
		counter = nil
	}
	return allStated([]statedValue{
		{"the key diversification data", s.answer.KDD, c.KDD},
		{"the card challenge", s.answer.CardChallenge, c.CardChallenge},
		{"the card cryptogram", s.answer.CardCryptogram, c.CardCryptogram},
		{"the sequence counter", counter, c.Counter},
		{"the host cryptogram", ext.Data[:int(s.messaging.Mode)], c.HostCryptogram},
	})
}

// statedValue is a value that a case may state.
type statedValue struct {
	what      string
	got, want []byte
}

func allStated(values []statedValue) error {
	for _, v := range values {
		if err := equalStated(v.what, v.got, v.want); err != nil {
			return err
		}
	}
	return nil
}

func equalStated(what string, got, want []byte) error {
	if len(want) > 0 && !bytes.Equal(got, want) {
		return mismatch(what, got, want)
	}
	return nil
}

// equalInitializeUpdate compares the command with the one of a case, which some
// programs send without Le.
func equalInitializeUpdate(want, hostChallenge []byte) error {
	if len(want) < 3 {
		return nil
	}
	if n := len(hostChallenge); n != int(scp03.S8) && n != int(scp03.S16) {
		return fmt.Errorf("a host challenge has 8 or 16 bytes, not %d", n)
	}
	got := scp03.InitializeUpdate(want[2], hostChallenge).Bytes()
	if !bytes.Equal(got, want) && !bytes.Equal(got[:len(got)-1], want) {
		return mismatch("INITIALIZE UPDATE", got, want)
	}
	return nil
}
