package cardsim

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzParseCommand: no panic, and what is accepted is encoded to the same bytes.
func FuzzParseCommand(f *testing.F) {
	for _, s := range []string{"00A40400", "80CA00E500", "80E2910001AA", "80E2910001AA00", "80CA0066000000", "80E291000000020102", "80E2910000000201020000"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseCommand(b)
		if err == nil && !bytes.Equal(c.encode(), b) {
			t.Errorf("%X encoded as %X", b, c.encode())
		}
	})
}

// FuzzParseManifest: no panic, and an accepted manifest has exactly one encoding.
func FuzzParseManifest(f *testing.F) {
	for _, v := range cup1Vectors(f) {
		f.Add([]byte(v.Out.Manifest))
		m, _ := parseManifest(v.Out.Manifest)
		m.suite = suiteChannel
		f.Add(m.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b)
		if err == nil && !bytes.Equal(m.encode(), b) {
			t.Errorf("%X encoded as %X", b, m.encode())
		}
	})
}

// FuzzParseChunk: no panic, and every byte of an accepted chunk is accounted for.
func FuzzParseChunk(f *testing.F) {
	f.Add([]byte(cup1Vectors(f)[0].Out.Chunks[2]), byte(suiteAES))
	f.Add(unhex(f, "E30D 8003000001 8106 AABB 00000000"), byte(suiteChannel))
	f.Fuzz(func(t *testing.T, b []byte, suite byte) {
		suite &= suiteAES
		ch, err := parseChunk(b, suite)
		if err != nil {
			return
		}
		index := []byte{byte(ch.index >> 16), byte(ch.index >> 8), byte(ch.index)}
		body := appendTLV(nil, 0x80, index)
		if suite == suiteAES {
			body = appendTLV(body, 0x87, append([]byte{1}, ch.content...))
			body = appendTLV(body, tagMAC, ch.mac)
		} else {
			body = appendTLV(body, 0x81, ch.content)
		}
		if again := appendTLV(nil, tagChunk, body); !bytes.Equal(again, b) {
			t.Errorf("%X encoded as %X", b, again)
		}
	})
}

// FuzzReadFrame: no panic, and a frame that was read is written as the same bytes.
func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 1, controlATR})
	f.Add([]byte{0, 0})
	f.Add([]byte{0xFF, 0xFF, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := readFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		var w bytes.Buffer
		if err := writeFrame(&w, frame); err != nil || !bytes.HasPrefix(b, w.Bytes()) {
			t.Errorf("%X written as %X", b, w.Bytes())
		}
	})
}

// FuzzTransmit sends commands, each with a length of two bytes before it, to a card with an open session and a staged
// package: no panic, always a status word, and the card still boots its old image.
func FuzzTransmit(f *testing.F) {
	frames := func(commands ...string) (b []byte) {
		for _, c := range commands {
			raw := unhex(f, c)
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(raw))), raw...)
		}
		return b
	}
	f.Add(frames("80CA00E500", "80E2910002E400", "80E2110001E3", "80E2910101FF"), true)
	f.Add(frames("8050300008000000000000000000", "848233001000000000000000000000000000000000", "84CA00660800000000000000000"+"0"), false)
	f.Add(frames("00A40000020101", "0020008003313233", "00D6000002ABCD", "00B0000000"), true)
	f.Fuzz(func(t *testing.T, b []byte, wrapped bool) {
		c := newTestCard(t, testConfig(), 0)
		c.PowerOn()
		u := newUpdater(c)
		u.start(t, testImage(1, 300), 1, 4, versionA, versionB)
		for range 8 {
			frame, err := readFrame(bytes.NewReader(b))
			if err != nil {
				break
			}
			b = b[2+len(frame):]
			if cmd, err := parseCommand(frame); wrapped && err == nil && len(cmd.data) <= 223 && u.session != nil {
				if _, _, err := u.send(cmd); err != nil {
					return // the fuzzer ended the session
				}
				continue
			}
			if r, err := c.Transmit(frame); err != nil || len(r) < 2 {
				t.Fatalf("%X: %X %v", frame, r, err)
			}
		}
		reset(t, c)
		if st := c.Status(); st.Version != versionA || st.SecurityCounter != 3 {
			t.Errorf("%+v", st)
		}
	})
}
