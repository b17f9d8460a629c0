package cardsim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// reader is the other end of the wire.
type reader struct {
	t    *testing.T
	conn net.Conn
}

func (r reader) send(frame ...byte) {
	r.t.Helper()
	if err := writeFrame(r.conn, frame); err != nil {
		r.t.Fatal(err)
	}
}

func (r reader) ask(frame ...byte) []byte {
	r.t.Helper()
	r.send(frame...)
	answer, err := readFrame(r.conn)
	if err != nil {
		r.t.Fatalf("%X: %v", frame, err)
	}
	return answer
}

// serve starts a server and returns its address.
func serve(t *testing.T, s *Server) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func dialReader(t *testing.T, addr string) reader {
	t.Helper()
	conn, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	t.Cleanup(func() { conn.Close() })
	return reader{t, conn}
}

var (
	selectApplet = append([]byte{0x00, 0xA4, 0x04, 0x00, byte(len(counterAID))}, counterAID...)
	generate     = []byte{0x80, 0xAE, 0x00, 0x00, 0x00}
)

// TestServer: control bytes, commands, power cut, next reader.
func TestServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "card.nvm")
	card := newTestCard(t, testConfig(), 0)
	addr := serve(t, &Server{Card: card, ImagePath: path})
	r := dialReader(t, addr)
	if got := r.ask(controlATR); !bytes.Equal(got, atr) {
		t.Errorf("ATR %X", got)
	}
	r.send(controlOn)
	if got := r.ask(generate...); !bytes.Equal(got, []byte{0x69, 0x85}) {
		t.Errorf("GENERATE in ISD: %X", got)
	}
	r.ask(selectApplet...)
	if got := r.ask(generate...); !bytes.Equal(got, []byte{0, 1, 0x90, 0}) {
		t.Errorf("GENERATE %X", got)
	}
	r.send(controlReset)
	if got := r.ask(generate...); !bytes.Equal(got, []byte{0x69, 0x85}) {
		t.Errorf("GENERATE after reset: %X", got)
	}
	if got := r.ask(controlATR); !bytes.Equal(got, atr) {
		t.Errorf("ATR %X", got)
	}
	r.ask(selectApplet...)
	card.NVM().CutAt(3, TearHalf)
	r.send(generate...)
	if _, err := readFrame(r.conn); !errors.Is(err, io.EOF) {
		t.Errorf("answer to a torn command: %v", err)
	}

	r = dialReader(t, addr)
	r.ask(selectApplet...)
	if got := r.ask(generate...); !bytes.Equal(got, []byte{0, 2, 0x90, 0}) {
		t.Errorf("GENERATE after the power cut: %X", got)
	}
	r.send(controlOff)
	if got := r.ask(controlATR); !bytes.Equal(got, atr) {
		t.Errorf("ATR %X", got)
	}
	r.send(generate...)
	if _, err := readFrame(r.conn); !errors.Is(err, io.EOF) {
		t.Errorf("answer without power: %v", err)
	}
	saved, err := LoadNVM(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := New(testConfig(), saved)
	if err != nil {
		t.Fatal(err)
	}
	again.PowerOn()
	again.Transmit(selectApplet)
	if got, err := again.Transmit(generate); err != nil || !bytes.Equal(got, []byte{0, 3, 0x90, 0}) {
		t.Errorf("GENERATE from the saved memory: %X %v", got, err)
	}
}

// TestServerTrial: connecting to a card with a pending package is one trial boot, not two.
func TestServerTrial(t *testing.T) {
	card := newTestCard(t, testConfig(), 0)
	card.PowerOn()
	u := newUpdater(card)
	image := testImage(1, 300)
	copy(image, "HANG")
	u.deliver(t, u.start(t, image, 1, 4, versionA, versionB), image)
	card.PowerOff()
	r := dialReader(t, serve(t, &Server{Card: card}))
	r.send(controlOn)
	r.ask(selectApplet...)
	if st := card.Status(); st.TrialBoots != 1 {
		t.Errorf("%d trial boots", st.TrialBoots)
	}
}

// TestServerOneReader: the second reader waits until the first hangs up.
func TestServerOneReader(t *testing.T) {
	addr := serve(t, &Server{Card: newTestCard(t, testConfig(), 0)})
	first, second := dialReader(t, addr), dialReader(t, addr)
	first.ask(controlATR)
	second.send(controlATR)
	second.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := readFrame(second.conn); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("second reader: %v", err)
	}
	first.conn.Close()
	second.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := readFrame(second.conn); err != nil || !bytes.Equal(got, atr) {
		t.Errorf("second reader: %X %v", got, err)
	}
}

// TestServerSaveFails: a card that cannot keep what it told stops.
func TestServerSaveFails(t *testing.T) {
	s := &Server{Card: newTestCard(t, testConfig(), 0), ImagePath: filepath.Join(t.TempDir(), "absent", "card.nvm")}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background(), l) }()
	r := dialReader(t, l.Addr().String())
	r.ask(selectApplet...)
	r.send(generate...)
	if err := <-done; !errors.Is(err, errSave) || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := s.Serve(context.Background(), l); err == nil {
		t.Error("served a closed listener")
	}
}

// TestDial: the card connects to a reader that listens, as vpcd does, with length and payload in separate segments.
func TestDial(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &Server{Card: newTestCard(t, testConfig(), 0)}
	for _, tornDuring := range []bool{false, true} {
		done := make(chan error, 1)
		go func() { done <- s.Dial(t.Context(), l.Addr().String()) }()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r := reader{t, conn}
		start := time.Now()
		for range 20 {
			r.conn.Write([]byte{0x00, byte(len(selectApplet))})
			r.conn.Write(selectApplet)
			if got, err := readFrame(conn); err != nil || !bytes.HasSuffix(got, []byte{0x90, 0x00}) {
				t.Fatalf("%X %v", got, err)
			}
		}
		if d := time.Since(start); d > 600*time.Millisecond {
			t.Errorf("20 commands took %v: delayed acknowledgements", d)
		}
		if tornDuring {
			s.Card.NVM().CutAt(1, TearLost)
			r.send(generate...)
			if err := <-done; !errors.Is(err, ErrTorn) {
				t.Error(err)
			}
		} else if conn.Close(); <-done != nil {
			t.Error("reader hung up: not nil")
		}
		conn.Close()
	}
	l.Close()
	if err := s.Dial(t.Context(), l.Addr().String()); err == nil {
		t.Error("no reader: no error")
	}
}
