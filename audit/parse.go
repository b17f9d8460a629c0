package audit

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

// ErrEntry: the bytes are not the encoding of an entry.
var ErrEntry = errors.New("audit: not the encoding of an entry")

// ParseEntry returns the entry with this encoding. It accepts exactly what
// Encode produces: the result is encoded again and compared, so that two
// different texts never mean the same entry.
func ParseEntry(encoding []byte) (Entry, error) {
	if len(encoding) > EntryBytesMax {
		return Entry{}, ErrEntry
	}
	p := parser{rest: string(encoding)}
	p.literal(header + "\n")
	var e Entry
	e.Sequence = p.number("sequence")
	e.Time = p.time("time")
	e.Actor = p.value("actor")
	e.Origin = p.optional("origin")
	e.Role = p.optional("role")
	e.Issuer = p.optional("issuer")
	e.Operation = p.value("operation")
	e.Object = p.optional("object")
	e.Key = p.optional("key")
	e.Request = p.optional("request")
	e.Digest = p.digest("digest")
	e.Decision = Decision(p.value("decision"))
	e.Outcome = p.value("outcome")
	e.Intent = p.intent("intent")
	e.Algorithm = Algorithm(p.optional("algorithm"))
	e.Card = p.optional("card")
	e.Previous = p.digest("previous")
	e.State = p.digest("state")
	e.Detail = p.detail("detail")
	if p.failed || p.rest != "" {
		return Entry{}, ErrEntry
	}
	again, err := e.Encode()
	if err != nil || !bytes.Equal(again, encoding) {
		return Entry{}, ErrEntry
	}
	return e, nil
}

// parser takes lines from the front of a text. The first failure sticks, and
// every later call returns a zero value.
type parser struct {
	rest   string
	failed bool
}

func (p *parser) literal(s string) {
	rest, ok := strings.CutPrefix(p.rest, s)
	if !ok {
		p.failed = true
	}
	p.rest = rest
}

func (p *parser) value(name string) string {
	p.literal(name + " ")
	if p.failed {
		return ""
	}
	v, rest, ok := strings.Cut(p.rest, "\n")
	p.rest = rest
	p.failed = !ok
	return v
}

func (p *parser) optional(name string) string {
	v := p.value(name)
	if v == none {
		return ""
	}
	return v
}

func (p *parser) number(name string) int64 { return p.decimal(p.value(name)) }

func (p *parser) decimal(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		p.failed = true
	}
	return n
}

func (p *parser) intent(name string) *int64 {
	v := p.optional(name)
	if v == "" {
		return nil
	}
	n := p.decimal(v)
	return &n
}

func (p *parser) time(name string) time.Time {
	v := p.value(name)
	t, err := time.Parse(timeLayout, v)
	if err != nil || formatTime(t) != v {
		p.failed = true
	}
	return t
}

func (p *parser) digest(name string) (d Digest) {
	v := p.optional(name)
	if v == "" {
		return d
	}
	if len(v) != hex.EncodedLen(len(d)) {
		p.failed = true
		return d
	}
	if _, err := hex.Decode(d[:], []byte(v)); err != nil {
		p.failed = true
	}
	return d
}

// detail leaves order, uniqueness and alphabets to the comparison with the
// encoding of the result.
func (p *parser) detail(name string) map[string]string {
	v := p.optional(name)
	if v == "" {
		return nil
	}
	detail := make(map[string]string)
	for pair := range strings.SplitSeq(v, " ") {
		k, value, ok := strings.Cut(pair, "=")
		if !ok || len(detail) == DetailPairsMax {
			p.failed = true
			return nil
		}
		detail[k] = value
	}
	return detail
}
