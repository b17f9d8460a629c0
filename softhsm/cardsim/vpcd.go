package cardsim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The wire protocol of vpcd, the virtual reader of vsmartcard: frames of a two-byte length, big endian, and that many bytes.
// The reader speaks first. A frame of one byte is control; a longer one is a C-APDU, and its answer the R-APDU.
const (
	controlOff   = 0x00
	controlOn    = 0x01
	controlReset = 0x02 // has no answer, as the other two
	controlATR   = 0x04 // is answered by the ATR
)

// readFrame reads one frame.
func readFrame(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, fmt.Errorf("reading frame: %w", err)
	}
	return frame, nil
}

// writeFrame writes one frame in one write, so that it is one TCP segment.
func writeFrame(w io.Writer, frame []byte) error {
	if len(frame) > 0xFFFF {
		return errors.New("cardsim: frame too long")
	}
	b := binary.BigEndian.AppendUint16(nil, uint16(len(frame)))
	_, err := w.Write(append(b, frame...))
	return err
}

// Server is a Card in a socket.
type Server struct {
	Card *Card

	// ImagePath, when set, is the file to which the memory is saved before an answer leaves the card: what the reader knows
	// survives the process.
	ImagePath string

	// Before, when set, sees each frame before the card does, in the goroutine that
	// serves the reader: there a test or a demonstration may set faults.
	Before func(frame []byte)

	saved int // NVM.Writes at the last save
}

// Serve lets readers connect to the card, one at a time; the next one waits. A connection powers the card on and its end
// powers it off. A power cut in a command closes the connection without an answer. Serve returns when ctx ends (with nil) or
// the listener fails, and closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for a reader: %w", err)
		}
		// A reader that went away, or a power cut, concerns that reader only; a full disk concerns everybody.
		if err := s.serve(ctx, conn); errors.Is(err, errSave) {
			return err
		}
	}
}

// Dial connects the card to a reader that listens, which is how vpcd works (127.0.0.1:35963; it speaks IPv4 only), and serves
// it until ctx ends (nil), the reader hangs up, or the power is cut (ErrTorn).
func (s *Server) Dial(ctx context.Context, addr string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", addr)
	if err != nil {
		return fmt.Errorf("connecting to the reader: %w", err)
	}
	err = s.serve(ctx, conn)
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

var errSave = errors.New("cardsim: memory not saved")

// serve answers one reader until one side hangs up.
func (s *Server) serve(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	defer s.Card.PowerOff()
	s.Card.PowerOn()
	if err := s.save(); err != nil { // the boot code may have used a trial boot
		return err
	}
	for {
		quickACK(conn)
		frame, err := readFrame(conn)
		if err != nil {
			return err
		}
		if s.Before != nil {
			s.Before(frame)
		}
		answer, reply, err := s.handle(frame)
		if saveErr := s.save(); saveErr != nil {
			return saveErr
		}
		if err != nil {
			return err
		}
		if !reply {
			continue
		}
		conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if err := writeFrame(conn, answer); err != nil {
			return err
		}
	}
}

// handle acts on one frame.
func (s *Server) handle(frame []byte) (answer []byte, reply bool, err error) {
	if len(frame) != 1 {
		answer, err = s.Card.Transmit(frame)
		return answer, true, err
	}
	switch frame[0] {
	case controlOff:
		s.Card.PowerOff()
	case controlOn:
		s.Card.PowerOn()
	case controlReset:
		s.Card.PowerOff()
		s.Card.PowerOn()
	case controlATR: // a reader asks for it also to see whether a card is there, so a card without power tells it too
		return atr, true, nil
	}
	return nil, false, nil
}

// save writes the memory to its file if it changed.
func (s *Server) save() error {
	n := s.Card.NVM()
	if s.ImagePath == "" || n.Writes() == s.saved {
		return nil
	}
	if err := n.Save(s.ImagePath); err != nil {
		return fmt.Errorf("%w: %w", errSave, err)
	}
	s.saved = n.Writes()
	return nil
}
