package cardsim

// verifyMAC checks the C-MAC at the end of the data field and moves the MAC chaining value on ([AmdD], Section 6.2.4). Le is
// not covered. The length field counts the MAC and has the form in which it was sent.
func (s *session) verifyMAC(cmd command) bool {
	if s.legacy != nil {
		return s.legacy.authenticates(cmd)
	}
	n := len(cmd.data) - s.macLen
	if n < 0 {
		return false
	}
	header := []byte{cmd.cla, cmd.ins, cmd.p1, cmd.p2}
	mac := cmac(s.sMAC, s.mcv[:], header, cmd.lengthField(len(cmd.data)), cmd.data[:n])
	if !equal(mac[:s.macLen], cmd.data[n:]) {
		return false
	}
	s.mcv = [16]byte(mac)
	return true
}

// unwrap checks and removes the secure messaging of a command. After false the session must end: its counters are not
// what the host has.
func (s *session) unwrap(cmd command, q Quirks) (command, bool) {
	if s.legacy != nil {
		return s.legacy.unwrap(cmd, s.level, q)
	}
	if s.level&levelCMAC == 0 || !s.verifyMAC(cmd) {
		return command{}, false
	}
	cmd.cla &^= claSecured
	cmd.data = cmd.data[:len(cmd.data)-s.macLen]
	if s.level&levelCDEC == 0 {
		return cmd, true
	}
	// [AmdD], Section 6.2.6: the counter goes up for every command, also one without data.
	if len(cmd.data) > 0 || !q.CounterSkipsEmpty {
		s.counter++
	}
	if len(cmd.data) == 0 {
		return cmd, !q.EmptyCommandPadded
	}
	padded, ok := cbcDecrypt(s.sENC, counterBlock(s.counter), cmd.data)
	if !ok {
		return command{}, false
	}
	cmd.data, ok = unpad(padded)
	return cmd, ok
}

// wrap protects a response. Only 9000 and the warnings 62xx and 63xx are protected ([AmdD], Section 6.2.5).
func (s *session) wrap(data []byte, sw word, q Quirks) []byte {
	if s.legacy != nil {
		return s.legacy.wrap(data, sw, s.level)
	}
	protected := sw == swOK || sw>>8 == 0x62 || sw>>8 == 0x63
	if s.level&levelRMAC == 0 || !protected {
		return response(data, sw)
	}
	if s.level&levelRENC != 0 && len(data) > 0 {
		data = s.encryptResponse(data, q)
	}
	status := []byte{byte(sw >> 8), byte(sw)}
	mac := cmac(s.sRMAC, s.mcv[:], data, status)
	return response(append(data[:len(data):len(data)], mac[:s.macLen]...), sw)
}

// encryptResponse is R-ENCRYPTION: the counter of the command with the highest bit set ([AmdD], Section 6.2.7).
func (s *session) encryptResponse(data []byte, q Quirks) []byte {
	data = pad(data)
	if q.OverPadRENC {
		data = append(data, make([]byte, 16)...)
	}
	return cbcEncrypt(s.sENC, responseCounter(s.counter), data)
}

// responseCounter is the counter block of a response.
func responseCounter(n uint64) [16]byte {
	b := counterBlock(n)
	b[0] = 0x80
	return b
}
