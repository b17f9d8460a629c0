package main

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"cardkms/api"
	"cardkms/api/client"
)

// moving is a card and the service's half of its move, without cryptography: the
// key of the service has the versions 1 and 2 with KVN 30 and 31.
type moving struct {
	mu      sync.Mutex
	sets    []byte // KVN of the key sets on the card; the first is the default
	lose    []byte // begin of a command at which the card's power fails, once
	done    []byte // begin of a command that the card carries out without an answer, once
	row     api.Card
	open    map[string]bool
	next    int
	changes int // PUT KEYs that the service made
}

const kvnOld, kvnNew, kvnOther = 0x30, 0x31, 0x3F

// proved has the card's row say that a version proved it.
func (m *moving) proved(kvn byte) {
	m.row.KVN = api.HexByte(kvn)
	if kvn >= byte(m.row.KeyVersionKVN) {
		m.row.KeyVersionKVN, m.row.KeyVersion = api.HexByte(kvn), fmt.Sprintf("issuers/demo/keys/isd/versions/%d", kvn-kvnOld+1)
	}
	if kvn == kvnNew {
		m.row.Move = nil
	}
}

// answer is the card's.
func (m *moving) answer(c []byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.does(c)
	if len(m.done) > 0 && bytes.HasPrefix(c, m.done) {
		m.done = nil
		return nil
	}
	return r
}

func (m *moving) does(c []byte) []byte {
	if len(m.lose) > 0 && bytes.HasPrefix(c, m.lose) {
		m.lose = nil
		return nil
	}
	absent := []byte{0x6A, 0x88}
	switch c[1] {
	case 0x50:
		kvn := c[2]
		if kvn == 0 {
			kvn = m.sets[0]
		}
		if !slices.Contains(m.sets, kvn) {
			return absent
		}
		return append(append(make([]byte, 10), kvn), success...)
	case 0xCA:
		body := []byte{0xC0, 4, 1, 0x5A, 0x88, 16} // one key is no set
		for _, kvn := range m.sets {
			for id := byte(1); id <= 3; id++ {
				body = append(body, 0xC0, 4, id, kvn, 0x88, 16)
			}
		}
		return append(append([]byte{0xE0, byte(len(body))}, body...), success...)
	case 0xD8:
		if slices.Contains(m.sets, c[5]) {
			return []byte{0x6A, 0x80}
		}
		m.sets = append(m.sets, c[5])
	case 0xE4:
		i := slices.Index(m.sets, c[7])
		if i < 0 {
			return absent
		}
		m.sets = slices.Delete(m.sets, i, i+1)
	}
	return success
}

// reader serves the card to one reader after the other.
func (m *moving) reader(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		for {
			var n [2]byte
			if _, err := io.ReadFull(conn, n[:]); err != nil {
				break
			}
			frame := make([]byte, binary.BigEndian.Uint16(n[:]))
			_, _ = io.ReadFull(conn, frame)
			r := []byte{0x3B, 0x00}
			if len(frame) > 1 {
				r = m.answer(frame)
			} else if frame[0] != cardATR {
				continue
			}
			if r == nil {
				break
			}
			_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(r))), r...))
		}
		_ = conn.Close()
	}
}

// ServeHTTP is the service.
func (m *moving) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var in struct {
		KVN       api.HexByte `json:"kvn"`
		Response  api.Hex     `json:"response"`
		Responses []api.Hex   `json:"responses"`
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	_, rest, _ := strings.Cut(r.URL.Path, "/channels")
	id, verb, _ := strings.Cut(strings.TrimPrefix(rest, "/"), ":")
	var out any
	switch {
	case strings.Contains(r.URL.Path, "/cards/"):
		out = m.row
	case r.Method == http.MethodDelete:
		delete(m.open, id)
	case id == "":
		if in.KVN != 0 && in.KVN != kvnOld && in.KVN != kvnNew {
			refuse(w, api.NotFound)
			return
		}
		m.next++
		o := api.OpenedChannel{ID: fmt.Sprint(m.next), InitializeUpdate: []byte{0x80, 0x50, byte(in.KVN), 0, 0}}
		m.open[o.ID] = true
		out = o
	case !m.open[id]:
		refuse(w, api.ChannelClosed)
		return
	case verb == "authenticate":
		if len(in.Response) < 12 {
			delete(m.open, id)
			refuse(w, api.CardRefused)
			return
		}
		m.proved(in.Response[10])
		out = api.AuthenticatedChannel{ExternalAuthenticate: []byte{0x84, 0x82}, KDD: make([]byte, 10), KVN: m.row.KVN}
	case verb == "changeKeys":
		m.changes++
		if m.row.KeyVersionKVN == kvnNew {
			refuse(w, api.Conflict)
			return
		}
		m.row.Move = &api.Move{To: "issuers/demo/keys/isd/versions/2", KVN: kvnNew, State: "sent"}
		out = api.ChangedKeys{Command: []byte{0x84, 0xD8, 0x00, 0x81, 0x01, kvnNew}, To: m.row.Move.To, KVN: kvnNew}
	case verb == "confirmKeys":
		out = m.row
	case verb == "retireKeys":
		out = api.Command{Command: []byte{0x84, 0xE4, 0, 0, 3, 0xD2, 1, byte(in.KVN)}}
	case verb == "unwrap":
		out = api.Responses{Responses: in.Responses}
	}
	_ = json.NewEncoder(w).Encode(out)
}

// TestMove: wherever an earlier try left a card, a move ends with the new keys
// alone, takes nobody else's away, and leaves no channel open.
func TestMove(t *testing.T) {
	on := &api.Move{To: "issuers/demo/keys/isd/versions/2", KVN: kvnNew, State: "sent"}
	for name, tt := range map[string]struct {
		sets    []byte
		proved  byte
		move    *api.Move
		lose    []byte
		keep    bool
		want    []byte
		changes int
	}{
		"from the start":                          {[]byte{kvnOld}, kvnOld, nil, nil, false, []byte{kvnNew}, 1},
		"power fails at DELETE":                   {[]byte{kvnOld}, kvnOld, nil, []byte{0x84, 0xE4}, false, []byte{kvnNew}, 2},
		"PUT KEY was lost":                        {[]byte{kvnOld}, kvnOld, on, nil, false, []byte{kvnNew}, 1},
		"its answer was lost":                     {[]byte{kvnOld, kvnNew}, kvnOld, on, nil, false, []byte{kvnNew}, 0},
		"power fails when it is asked":            {[]byte{kvnOld, kvnNew}, kvnOld, on, []byte{0x80, 0x50, kvnNew}, false, []byte{kvnNew}, 0},
		"proved, old keys are the default":        {[]byte{kvnOld, kvnNew}, kvnNew, nil, nil, false, []byte{kvnNew}, 1},
		"proved, new keys are the default":        {[]byte{kvnNew, kvnOther, kvnOld}, kvnNew, nil, nil, false, []byte{kvnNew, kvnOther}, 1},
		"power fails when it lists its keys":      {[]byte{kvnNew, kvnOld}, kvnNew, nil, []byte{0x80, 0xCA}, false, []byte{kvnNew}, 2},
		"proved, and the old keys are to be kept": {[]byte{kvnNew, kvnOld}, kvnNew, nil, nil, true, []byte{kvnNew, kvnOld}, 1},
		"done": {[]byte{kvnNew}, kvnNew, nil, nil, false, []byte{kvnNew}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := &moving{sets: tt.sets, lose: tt.lose, open: map[string]bool{}}
			m.proved(tt.proved)
			m.row.Move = tt.move
			got := m.run(t, tt.keep)
			if !bytes.Equal(m.sets, tt.want) || m.changes != tt.changes || got.KVN != kvnNew {
				t.Errorf("the card has %X, want %X; %d PUT KEYs were made, want %d; %+v", m.sets, tt.want, m.changes, tt.changes, got)
			}
			if got.Retired == (tt.keep || name == "done") {
				t.Errorf("retired: %v", got.Retired)
			}
			if tt.lose == nil && len(m.open) > 0 {
				t.Errorf("channels are left open: %v", m.open)
			}
		})
	}
}

// run moves the card.
func (m *moving) run(t *testing.T, keep bool) moved {
	t.Helper()
	web := httptest.NewTLSServer(m)
	defer web.Close()
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	c, err := client.New(client.Config{BaseURL: web.URL, Cert: web.TLS.Certificates[0], RootCAs: pool, ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { m.reader(l); close(served) }()
	defer func() { err = errors.Join(err, l.Close()); <-served }()
	mv := &mover{api: c, issuer: "demo", say: t.Logf, flags: moveFlags{card: "tcp:" + l.Addr().String(), key: "isd", tries: 3, keep: keep}}
	if err := mv.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return mv.moved
}

// TestMoveWhoseLastAnswerIsLost: keys that went with an answer that nobody saw are
// gone, and the move says so.
func TestMoveWhoseLastAnswerIsLost(t *testing.T) {
	m := &moving{sets: []byte{kvnOld}, done: []byte{0x84, 0xE4}, open: map[string]bool{}}
	m.proved(kvnOld)
	got := m.run(t, false)
	if !bytes.Equal(m.sets, []byte{kvnNew}) || !got.Retired || got.Interruptions != 1 {
		t.Errorf("the card has %X; %+v", m.sets, got)
	}
}

// TestKeySets: what is no key information template lists no set.
func TestKeySets(t *testing.T) {
	whole := []byte{0xE0, 18, 0xC0, 4, 1, 0x30, 0x88, 16, 0xC0, 4, 2, 0x30, 0x88, 16, 0xC0, 4, 3, 0x30, 0x88, 16, 0x90, 0x00}
	if got := keySets(whole); !slices.Equal(got, []api.HexByte{0x30}) {
		t.Errorf("%v", got)
	}
	for n := range whole {
		for _, r := range [][]byte{whole[:n], append(bytes.Clone(whole[:n]), success...)} {
			if got := keySets(r); len(got) > 0 && n < 20 {
				t.Errorf("%X: %v", r, got)
			}
		}
	}
	if got := keySets([]byte{0xE0, 0x81, 0x90, 0x00}); got != nil {
		t.Errorf("%v", got)
	}
}

// TestRotationText counts cards in words.
func TestRotationText(t *testing.T) {
	for n, want := range map[int64]string{0: "every card that was seen has version 2", 1: "1 card still without version 2; ", 2: "2 cards still without version 2; "} {
		if got := rotationText(api.Rotation{Target: 2, Remaining: n}); !strings.HasPrefix(got, want) {
			t.Errorf("%d: %q", n, got)
		}
	}
}
