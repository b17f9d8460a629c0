package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"cardkms/api/client"
)

// card is a card on TCP, spoken to as the virtual reader vpcd does: frames of a
// two-byte length and that many bytes; one byte is control, more is an APDU.
type card struct{ conn net.Conn }

// Control bytes of vpcd.
const (
	cardOff = 0x00
	cardOn  = 0x01
	cardATR = 0x04
)

// cardLost is a card that went away: its power failed, or the connection did.
type cardLost struct{ err error }

func (e *cardLost) Error() string { return "the card is gone: " + e.err.Error() }
func (e *cardLost) Unwrap() error { return e.err }

// interrupted reports whether the same may succeed when the card is there again, or with
// another node of the service.
func interrupted(err error) bool {
	var lost *cardLost
	return errors.As(err, &lost) || client.Interrupted(err)
}

// cardTimeout bounds one command; erasing flash takes a while.
const cardTimeout = 30 * time.Second

// dialCard connects to tcp:HOST:PORT and powers the card on.
func dialCard(ctx context.Context, where string) (*card, error) {
	addr, ok := strings.CutPrefix(where, "tcp:")
	if !ok {
		return nil, errUsage{errors.New("--card is tcp:HOST:PORT")}
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp4", addr)
	if err != nil {
		return nil, &cardLost{err}
	}
	c := &card{conn: conn}
	if err := c.powerOn(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *card) close() { _ = c.conn.Close() }

func (c *card) powerOn() error {
	if err := c.write([]byte{cardOn}); err != nil {
		return err
	}
	if err := c.write([]byte{cardATR}); err != nil {
		return err
	}
	_, err := c.read()
	return err
}

// reset switches the card's power off and on.
func (c *card) reset() error {
	if err := c.write([]byte{cardOff}); err != nil {
		return err
	}
	return c.powerOn()
}

// transmit sends a C-APDU and returns the R-APDU.
func (c *card) transmit(command []byte) ([]byte, error) {
	if err := c.write(command); err != nil {
		return nil, err
	}
	r, err := c.read()
	if err == nil && len(r) < 2 {
		return nil, fmt.Errorf("the card answered with %d bytes, which is no status word", len(r))
	}
	return r, err
}

func (c *card) write(frame []byte) error {
	_ = c.conn.SetDeadline(time.Now().Add(cardTimeout))
	b := binary.BigEndian.AppendUint16(nil, uint16(len(frame)))
	if _, err := c.conn.Write(append(b, frame...)); err != nil {
		return &cardLost{err}
	}
	return nil
}

func (c *card) read() ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(c.conn, n[:]); err != nil {
		return nil, &cardLost{err}
	}
	frame := make([]byte, binary.BigEndian.Uint16(n[:]))
	if _, err := io.ReadFull(c.conn, frame); err != nil {
		return nil, &cardLost{err}
	}
	return frame, nil
}
