package scp80

import (
	"context"
	"encoding/binary"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/fault"
)

const (
	counterBytes = 5
	countedBytes = counterBytes + 1 // CNTR | PCNTR
	// headBytes is CPL | CHL | SPI | KIc | KID | TAR, which is never ciphered.
	headBytes = 10
)

// appendCounter appends CNTR.
func appendCounter(b []byte, n uint64) []byte {
	return append(b, binary.BigEndian.AppendUint64(nil, n)[8-counterBytes:]...)
}

// Command returns the command packet for data, 1 to DataMax bytes. The caller gives each
// counter once, and rising; 0 where the SPI says that there is none.
func Command(ctx context.Context, t derive.Token, k Keys, h Header, counter uint64, data []byte) ([]byte, error) {
	if len(data) == 0 || len(data) > DataMax {
		return nil, fault.New(fault.InvalidInput, fmt.Sprintf("a packet holds 1 to %d bytes", DataMax))
	}
	if counter > CounterMax || h.SPI.Counting() == NoCounter && counter != 0 {
		return nil, fault.New(fault.InvalidInput, "the counter has more than 5 bytes, or the SPI says that there is none")
	}
	if err := h.valid(k, h.SPI.Check(), h.SPI.Ciphered()); err != nil {
		return nil, err
	}
	return h.secure(ctx, t, k, counter, data)
}

// secure checks first and ciphers then.
func (h Header) secure(ctx context.Context, t derive.Token, k Keys, counter uint64, data []byte) ([]byte, error) {
	n := h.checkBytes(h.SPI.Check())
	pad := 0
	if h.SPI.Ciphered() {
		size := derive.BlockSize(k.KIc.Algorithm())
		pad = (size - (countedBytes+n+len(data))%size) % size
	}
	head := h.head(countedBytes+n+len(data)+pad, n)
	counted := append(appendCounter(nil, counter), byte(pad))
	text := append(append([]byte{}, data...), make([]byte, pad)...)
	check, err := h.check(ctx, t, k.KID, h.SPI.Check(), join(head, counted, text))
	if err != nil {
		return nil, fmt.Errorf("computing the check of a packet: %w", err)
	}
	body := join(counted, check, text)
	if h.SPI.Ciphered() {
		if body, err = encrypt(ctx, t, k.KIc, body); err != nil {
			return nil, fmt.Errorf("ciphering a packet: %w", err)
		}
	}
	return append(head, body...), nil
}

// head returns what stands before the body, with its lengths.
func (h Header) head(bodyBytes, checkBytes int) []byte {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, headBytes+bodyBytes), uint16(headBytes-2+bodyBytes))
	b = append(b, byte(headBytes-3+countedBytes+checkBytes)) // CHL
	b = append(b, h.SPI[0], h.SPI[1], h.KIc, h.KID)
	return append(b, h.TAR[:]...)
}

func join(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
