package cardsim

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Exchange is one entry of a golden transcript. What differs from one run to the next is taken out of the response.
type Exchange struct {
	Name     string
	Response []byte // data and status word, volatile bytes removed; "no answer" has none

	Fresh   []byte // a challenge of the card: never seen before
	Counter uint32 // a counter of the card: greater than before; 0 when the exchange has none
}

// GoldenTranscript uses the ordinary functions of a card that is on: reset, SELECT, GET DATA, mutual authentication with each
// key set at each level that the "i" parameter offers, the file, the PIN with one wrong try, the transaction counter. It
// leaves the card reset. Two transcripts of an undisturbed card satisfy SameTranscript; so must two between which an update
// was made, cut, refused or reverted (PROTOCOLS.md 1.3).
func GoldenTranscript(card *Card) []Exchange {
	g := &golden{card: card}
	g.reset("reset")
	g.plain("SELECT ISD", command{ins: insSelect, p1: 0x04, data: card.cfg.ISD, le: 256})
	g.plain("SELECT absent", command{ins: insSelect, p1: 0x04, data: []byte{0xF0, 0, 0, 0, 0}, le: 256})
	for _, tag := range []uint16{tagCPLC, tagCardData, tagKeyInformation} {
		g.plain(fmt.Sprintf("GET DATA %04X", tag), command{cla: 0x80, ins: insGetData, p1: byte(tag >> 8), p2: byte(tag), le: 256})
	}
	for _, set := range card.keySets() {
		g.authentications(set)
	}
	g.file()
	g.applet()
	g.reset("last reset")
	return g.list
}

type golden struct {
	card *Card
	list []Exchange
}

// add notes an answer that has nothing volatile.
func (g *golden) add(name string, data []byte, sw word, err error) {
	e := Exchange{Name: name, Response: response(data, sw)}
	if err != nil {
		e.Response = nil
	}
	g.list = append(g.list, e)
}

func (g *golden) reset(name string) {
	g.card.PowerOff()
	g.list = append(g.list, Exchange{Name: name, Response: g.card.PowerOn()})
}

func (g *golden) plain(name string, cmd command) {
	data, sw, err := (&host{card: g.card}).plain(cmd)
	g.add(name, data, sw, err)
}

// authentications opens a session at each level and reads something through it. The host challenge is constant: freshness
// must come from the card.
func (g *golden) authentications(set KeySet) {
	for _, level := range []byte{0x00, 0x01, 0x03, 0x11, 0x13, 0x33} {
		if !g.card.cfg.levelAllowed(level) {
			continue
		}
		name := fmt.Sprintf("authentication %02X level %02X", set.KVN, level)
		h := &host{card: g.card, set: set, quirks: g.card.cfg.Quirks}
		sw, err := h.authenticate(bytes.Repeat([]byte{0xA5}, g.card.cfg.macLen()), level)
		g.add(name, nil, sw, err)
		if h.session == nil {
			continue
		}
		e := &g.list[len(g.list)-1]
		e.Fresh = h.session.context[g.card.cfg.macLen():]
		if len(h.counter) == 3 {
			e.Counter = binary.BigEndian.Uint32(append([]byte{0}, h.counter...))
		}
		data, sw, err := h.send(command{cla: 0x80, ins: insGetData, p2: tagCardData, le: 256})
		g.add(name+", GET DATA", data, sw, err)
	}
}

// file reads the transparent file, changes it after the PIN, and puts it back.
func (g *golden) file() {
	open := command{ins: insSelect, data: []byte{fileID >> 8, fileID & 0xFF}, le: 256}
	read := command{ins: insReadBinary, le: 256}
	g.plain("SELECT file", open)
	g.plain("READ BINARY", read)
	before := g.list[len(g.list)-1].Response
	g.plain("UPDATE BINARY without PIN", command{ins: insUpdateBinary, data: []byte{1}})
	g.plain("VERIFY wrong", command{ins: insVerify, p2: 0x80, data: append([]byte("x"), g.card.cfg.PIN...)})
	g.plain("VERIFY", command{ins: insVerify, p2: 0x80, data: g.card.cfg.PIN})
	g.plain("VERIFY tries", command{ins: insVerify, p2: 0x80})
	g.plain("UPDATE BINARY", command{ins: insUpdateBinary, data: []byte("golden")})
	g.plain("READ BINARY changed", read)
	if len(before) > 8 {
		g.plain("UPDATE BINARY back", command{ins: insUpdateBinary, data: before[:6]})
	}
}

// applet raises the transaction counter twice; its two values differ by exactly one.
func (g *golden) applet() {
	g.plain("SELECT applet", command{ins: insSelect, p1: 0x04, data: counterAID, le: 256})
	var first uint32
	for i, name := range []string{"GENERATE", "GENERATE again"} {
		g.plain(name, command{cla: 0x80, ins: insGenerate, le: 256})
		e := &g.list[len(g.list)-1]
		if len(e.Response) != 4 {
			continue
		}
		e.Counter = uint32(binary.BigEndian.Uint16(e.Response))
		e.Response = e.Response[2:]
		if i == 0 {
			first = e.Counter
		} else if e.Counter != first+1 {
			e.Name += ": counter did not go up by one"
		}
	}
}

// SameTranscript reports the first exchange in which the later transcript is not what the earlier one demands: equal
// responses, challenges that are new, counters that went up.
func SameTranscript(before, after []Exchange) error {
	if len(before) != len(after) {
		return fmt.Errorf("cardsim: %d exchanges became %d", len(before), len(after))
	}
	for i, b := range before {
		a := after[i]
		switch {
		case a.Name != b.Name, !bytes.Equal(a.Response, b.Response):
			return fmt.Errorf("cardsim: %s: %X became %s: %X", b.Name, b.Response, a.Name, a.Response)
		case b.Fresh != nil && bytes.Equal(a.Fresh, b.Fresh):
			return fmt.Errorf("cardsim: %s: challenge repeated", b.Name)
		case b.Counter != 0 && a.Counter <= b.Counter:
			return fmt.Errorf("cardsim: %s: counter %d became %d", b.Name, b.Counter, a.Counter)
		}
	}
	return nil
}
