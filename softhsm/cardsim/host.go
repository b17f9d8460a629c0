package cardsim

import (
	"bytes"
	"errors"
)

// host is the smallest counterpart of the card: it authenticates and sends commands, for the golden transcript and for the
// tests of this package. The host that counts is written elsewhere and shares nothing with it.
type host struct {
	card    *Card
	set     KeySet
	quirks  Quirks
	session *session
	counter []byte // sequence counter of the card, if it has one
}

var errHost = errors.New("cardsim: host half: the card's answer is wrong")

// authenticate opens a Secure Channel Session at this level.
func (h *host) authenticate(challenge []byte, level byte) (word, error) {
	h.session = nil
	cmd := command{cla: 0x80, ins: insInitializeUpdate, p1: h.set.KVN, data: challenge, le: 256}
	data, sw, err := h.plain(cmd)
	if err != nil || sw != swOK {
		return sw, err
	}
	n := len(challenge)
	if len(data) != 13+2*n && len(data) != 13+2*n+3 {
		return sw, errHost
	}
	s := newSession(h.set, append(bytes.Clone(challenge), data[13:13+n]...), n)
	h.counter = data[13+2*n:]
	if !equal(s.cryptogram(constCardCryptogram), data[13+n:13+2*n]) {
		return sw, errHost
	}
	ext := command{cla: 0x84, ins: insExternalAuthenticate, p1: level, data: s.cryptogram(constHostCryptogram)}
	if _, sw, err = h.plain(s.sign(ext)); err == nil && sw == swOK {
		s.level = level
		h.session = s
	}
	return sw, err
}

// plain sends a command as it is.
func (h *host) plain(cmd command) ([]byte, word, error) {
	r, err := h.card.Transmit(cmd.encode())
	if err != nil {
		return nil, 0, err
	}
	if len(r) < 2 {
		return nil, 0, errHost
	}
	return r[:len(r)-2], word(r[len(r)-2])<<8 | word(r[len(r)-1]), nil
}

// send protects a command as the session's level demands, and checks and opens the answer.
func (h *host) send(cmd command) ([]byte, word, error) {
	s := h.session
	if s == nil || s.level == 0 {
		return h.plain(cmd)
	}
	cmd.data = s.encryptCommand(cmd.data, h.quirks)
	cmd.cla |= claSecured
	data, sw, err := h.plain(s.sign(cmd))
	if err != nil || s.level&levelRMAC == 0 || sw != swOK && sw>>8 != 0x62 && sw>>8 != 0x63 {
		return data, sw, err
	}
	n := len(data) - s.macLen
	if n < 0 {
		return nil, sw, errHost
	}
	mac := cmac(s.sRMAC, s.mcv[:], data[:n], []byte{byte(sw >> 8), byte(sw)})
	if !equal(mac[:s.macLen], data[n:]) {
		return nil, sw, errHost
	}
	if data = data[:n]; s.level&levelRENC == 0 || n == 0 {
		return data, sw, nil
	}
	padded, ok := cbcDecrypt(s.sENC, responseCounter(s.counter), data)
	if ok {
		data, ok = unpad(padded)
	}
	if !ok {
		return nil, sw, errHost
	}
	return data, sw, nil
}

// sign appends the C-MAC ([AmdD], Section 6.2.4).
func (s *session) sign(cmd command) command {
	size := cmd.lengthField(len(cmd.data) + s.macLen)
	mac := cmac(s.sMAC, s.mcv[:], []byte{cmd.cla, cmd.ins, cmd.p1, cmd.p2}, size, cmd.data)
	s.mcv = [16]byte(mac)
	cmd.data = append(bytes.Clone(cmd.data), mac[:s.macLen]...)
	return cmd
}

// encryptCommand is C-DECRYPTION seen from the host ([AmdD], Section 6.2.6).
func (s *session) encryptCommand(data []byte, q Quirks) []byte {
	if s.level&levelCDEC == 0 {
		return data
	}
	if len(data) > 0 || !q.CounterSkipsEmpty {
		s.counter++
	}
	if len(data) == 0 && !q.EmptyCommandPadded {
		return data
	}
	return cbcEncrypt(s.sENC, counterBlock(s.counter), pad(data))
}
