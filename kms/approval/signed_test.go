package approval_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"cardkms/kms/approval"
	"cardkms/kms/fault"
)

func signatures(statement []byte, names ...string) approval.Signatures {
	out := approval.Signatures{}
	for _, n := range names {
		out[n] = ed25519.Sign(keyOf(n), statement)
	}
	return out
}

// restoration is the one of the package comment.
func restoration() approval.Restoration {
	r := approval.Restoration{
		Log: "example.org/audit", From: approval.Mark{Size: 1204}, To: approval.Mark{Size: 1198},
		Created: time.Date(2026, 11, 12, 9, 30, 0, 0, time.UTC), Reason: "the disk died; backup of 9:00",
	}
	r.From.Root[0], r.To.Root[31] = 1, 1
	return r
}

func ExampleRestoration_Encode() {
	encoding, err := restoration().Encode()
	fmt.Printf("%s%v\n", encoding, err)
	statement, err := restoration().Statement()
	fmt.Printf("%s%v\n", statement, err)
	// Output:
	// cardkms-restoration/1
	// log example.org/audit
	// from 1204 AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
	// to 1198 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=
	// created 2026-11-12T09:30:00Z
	// reason the disk died; backup of 9:00
	// <nil>
	// cardkms-restore/1
	// 4294ab0713fdbab891b4ed43c6dcdcbabd54f71c6ec87ee8965f719aaecbbde0
	// <nil>
}

func TestParseRestoration(t *testing.T) {
	encoding, err := restoration().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if r, err := approval.ParseRestoration(encoding); err != nil || r != restoration() || !approval.IsRestoration(encoding) {
		t.Errorf("%+v, %v", r, err)
	}
	for i := range encoding {
		bad := bytes.Clone(encoding)
		bad[i] ^= 0x80
		if _, err := approval.ParseRestoration(bad); err == nil {
			t.Errorf("byte %d changed was taken", i)
		}
	}
	for _, bad := range []string{"", string(encoding) + "\n", strings.Replace(string(encoding), "from 1204", "from 01204", 1), strings.Replace(string(encoding), "to 1198", "to -1", 1)} {
		if _, err := approval.ParseRestoration([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	same := restoration()
	same.To = same.From
	if same.Validate() == nil {
		t.Error("a restoration that goes nowhere")
	}
}

func FuzzParseRestoration(f *testing.F) {
	encoding, _ := restoration().Encode()
	f.Add(encoding)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := approval.ParseRestoration(b)
		if err != nil {
			return
		}
		if again, err := r.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q became %q, %v", b, again, err)
		}
	})
}

func TestSignaturesFile(t *testing.T) {
	s := signatures([]byte("x"), "bob", "ada")
	again, err := approval.ParseSignatures(s.Encode())
	if err != nil || len(again) != 2 || !bytes.Equal(again["ada"], s["ada"]) || !bytes.HasPrefix(s.Encode(), []byte("ada ")) {
		t.Errorf("%v, %v", again, err)
	}
	line := string(signatures(nil, "ada").Encode())
	for name, bad := range map[string]string{
		"one officer twice": line + line, "no signature": "ada\n", "a short one": "ada AAAA\n",
		"no name": strings.TrimPrefix(line, "ada"), "no officer's name": "A" + line,
	} {
		if _, err := approval.ParseSignatures([]byte(bad)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestQuorum(t *testing.T) {
	statement := []byte("statement")
	all := officers("ada", "bob", "cyd", "dan")
	dan := all["dan"]
	dan.Issuer = "acme"
	all["dan"] = dan
	if names, err := all.Quorum(statement, signatures(statement, "cyd", "ada"), 2); err != nil || fmt.Sprint(names) != "[ada cyd]" {
		t.Errorf("%v, %v", names, err)
	}
	many := approval.Signatures{}
	for i := range approval.SignaturesMax + 1 {
		many[fmt.Sprintf("o%d", i)] = make([]byte, 64)
	}
	for name, c := range map[string]struct {
		s    approval.Signatures
		k    int
		want fault.Code
	}{
		"none":                 {nil, 2, fault.ApprovalRequired},
		"one":                  {signatures(statement, "ada"), 2, fault.ApprovalRequired},
		"one for k of zero":    {signatures(statement, "ada"), 0, fault.ApprovalRequired},
		"two of three":         {signatures(statement, "ada", "bob"), 3, fault.ApprovalRequired},
		"a stranger":           {signatures(statement, "ada", "bob", "eve"), 2, fault.ProofFailed},
		"of one issuer":        {signatures(statement, "ada", "dan"), 2, fault.ProofFailed},
		"of something else":    {signatures([]byte("other"), "ada", "bob"), 2, fault.ProofFailed},
		"another's":            {approval.Signatures{"ada": signatures(statement, "bob")["bob"], "bob": signatures(statement, "bob")["bob"]}, 2, fault.ProofFailed},
		"more than are logged": {many, 2, fault.TooLarge},
	} {
		if _, err := all.Quorum(statement, c.s, c.k); fault.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// TestRestoreDetailFits: the longest restoration with the most signatures of the longest
// names stands in one entry of at most 16 details of 256 characters.
func TestRestoreDetailFits(t *testing.T) {
	r := restoration()
	r.Log, r.Reason = strings.Repeat("l", 128), strings.Repeat("r", 128)
	r.From.Size, r.To.Size = 1<<62, 1<<61
	s := approval.Signatures{}
	for i := range approval.SignaturesMax {
		s[strings.Repeat("n", 61)+fmt.Sprintf("%02d", i)] = make([]byte, 64)
	}
	detail, err := approval.RestoreDetail(r, s)
	if err != nil || len(detail) > 16 {
		t.Fatalf("%d details, %v", len(detail), err)
	}
	for k, v := range detail {
		if len(v) == 0 || len(v) > 256 {
			t.Errorf("%s has %d characters", k, len(v))
		}
	}
}

func ceremonyID(file string) string {
	d := sha256.Sum256([]byte(file))
	return hex.EncodeToString(d[:])
}

func (h *history) ceremony(file string, names ...string) *approval.Record {
	detail := map[string]string{}
	signatures(approval.CeremonyStatement(sha256.Sum256([]byte(file))), names...).AddTo(detail)
	return h.add("service", "", "ceremony.begin", "ceremonies/"+ceremonyID(file), detail)
}

func (h *history) step(operation, file string) *approval.Record {
	return h.add("service", "acme", operation, "issuers/acme/keys/isd/versions/1", map[string]string{"ceremony": ceremonyID(file)})
}

// strict has three officers approve an operation.
func (h *history) strict(operation string) {
	h.whole(enrol("dan"), "bob", "cyd")
	h.whole(setK(operation, "3"), "bob", "cyd", "dan")
}

// TestReplayCeremonies: who signs a ceremony, and what may happen in it.
func TestReplayCeremonies(t *testing.T) {
	h := begun(t)
	h.ceremony("one", "ada", "bob")
	h.step("key.load", "one")
	h.step("ceremony.kek", "one")
	h.ceremony("one") // goes on
	h.whole(approval.Proposal{Operation: approval.OfficerEnrol, Object: "officers/dan", Params: approval.EnrolParams(officer("dan"))}, "bob", "cyd")
	h.whole(approval.Proposal{Operation: approval.OfficerRemove, Object: "officers/ada"}, "bob", "cyd")
	h.ceremony("one") // also after an officer left
	h.step("ceremony.token", "one")
	h.replay(2, 0)
	for name, f := range map[string]func(*history){
		"nobody signed":            func(h *history) { h.ceremony("f") },
		"one signed":               func(h *history) { h.ceremony("f", "ada") },
		"a stranger":               func(h *history) { h.ceremony("f", "ada", "eve") },
		"of another file":          func(h *history) { h.ceremony("f", "ada", "bob").Object = "ceremonies/" + ceremonyID("g") },
		"no ceremony":              func(h *history) { h.add("service", "", "ceremony.begin", "ceremonies/x", nil) },
		"fewer than for a key":     func(h *history) { h.strict("key.activate"); h.ceremony("f", "ada", "bob") },
		"fewer than for a profile": func(h *history) { h.strict("profile.register"); h.ceremony("f", "ada", "bob") },
		"a key of none":            func(h *history) { h.add("service", "acme", "key.load", "x", nil) },
		"a key of another":         func(h *history) { h.ceremony("f", "ada", "bob"); h.step("key.load", "g") },
		"a key after the end": func(h *history) {
			h.ceremony("f", "ada", "bob")
			h.step("ceremony.end", "f").Object = "ceremonies/" + ceremonyID("f")
			h.step("key.load", "f")
		},
		"a KEK when given up": func(h *history) {
			h.ceremony("f", "ada", "bob")
			h.step("ceremony.abandon", "f").Object = "ceremonies/" + ceremonyID("f")
			h.step("ceremony.kek", "f")
		},
		"a KEK destroyed":   func(h *history) { h.step("ceremony.destroy-kek", "f") },
		"a token":           func(h *history) { h.step("ceremony.token", "f") },
		"broken signatures": func(h *history) { h.ceremony("f", "ada", "bob").Detail["s0"] = "A" },
		"cut signatures":    func(h *history) { h.ceremony("f", "ada", "bob").Detail["s0"] = "AAAA" },
		"signed by the removed": func(h *history) {
			h.whole(enrol("dan"), "bob", "cyd")
			h.whole(approval.Proposal{Operation: approval.OfficerRemove, Object: "officers/ada"}, "bob", "cyd")
			h.ceremony("f", "ada", "bob")
		},
	} {
		h := begun(t)
		f(h)
		var r approval.Replay
		for _, e := range h.records {
			r.Add(e)
		}
		if len(r.Unproven) != 1 {
			t.Errorf("%s: %v", name, r.Unproven)
		}
	}
}

// TestReplayFirstCeremony: the one that makes the officers is signed by them.
func TestReplayFirstCeremony(t *testing.T) {
	first := func(signed ...string) *history {
		h := &history{t: t, at: start}
		h.ceremony("first", signed...)
		h.step("key.load", "first")
		detail := approval.FirstDetail([]approval.Officer{officer("ada"), officer("bob"), officer("cyd")}, 2)
		detail["ceremony"] = ceremonyID("first")
		h.add("service", "", "officer.init", "officers", detail)
		return h
	}
	h := first("ada", "cyd")
	h.step("key.load", "first")
	h.replay(0, 0)
	first("ada").replay(0, 1)
	first().replay(0, 1)
	first("ada", "eve").replay(0, 1)
	h = first("ada", "cyd")
	h.ceremony("kept for later")
	h.replay(0, 1)
	h = first("ada", "cyd")
	h.records[0].Object = "ceremonies/" + ceremonyID("other")
	h.replay(0, 1)
}

// TestReplayDestroyed: objects leave the token after an approved proposal and its days.
func TestReplayDestroyed(t *testing.T) {
	const object = "issuers/acme/keys/isd/versions/1"
	proposal := func(operation string, params map[string]string) approval.Proposal {
		return approval.Proposal{Operation: operation, Object: object, Issuer: "acme", Params: params}
	}
	destroy := proposal(approval.KeyDestroy, map[string]string{"days": "7"})
	gone := func(h *history, after time.Duration) {
		h.at = h.at.Add(after)
		h.add("service", "acme", "key.destroyed", object, nil)
	}
	const week = 7 * 24 * time.Hour
	h := begun(t)
	h.whole(destroy, "bob", "cyd")
	gone(h, week)
	h.replay(1, 0)
	gone(h, 0)
	h.replay(1, 1) // once
	for name, f := range map[string]func(*history){
		"no proposal":    func(h *history) { gone(h, 0) },
		"too early":      func(h *history) { h.whole(destroy, "bob", "cyd"); gone(h, week-time.Hour) },
		"before 30 days": func(h *history) { h.whole(proposal(approval.KeyDestroy, nil), "bob", "cyd"); gone(h, week) },
		"taken back": func(h *history) {
			h.whole(destroy, "bob", "cyd")
			h.whole(proposal(approval.KeyUndestroy, nil), "bob", "cyd")
			gone(h, week)
		},
		"another key": func(h *history) {
			h.whole(destroy, "bob", "cyd")
			gone(h, week)
			h.records[len(h.records)-1].Object = "issuers/acme/keys/isd/versions/2"
		},
	} {
		h := begun(t)
		f(h)
		var r approval.Replay
		for _, e := range h.records {
			r.Add(e)
		}
		if len(r.Unproven) != 1 {
			t.Errorf("%s: %v", name, r.Unproven)
		}
	}
}

// TestReplayRestoration: officers of the log so far sign the step back to exactly it.
func TestReplayRestoration(t *testing.T) {
	step := func(h *history) approval.Restoration {
		r := restoration()
		r.Created, r.To.Size = h.at, int64(len(h.records))
		return r
	}
	add := func(h *history, r approval.Restoration, names ...string) *approval.Record {
		statement, err := r.Statement()
		if err != nil {
			t.Fatal(err)
		}
		detail, err := approval.RestoreDetail(r, signatures(statement, names...))
		if err != nil {
			t.Fatal(err)
		}
		return h.add("service", "", "log.restore", "audit", detail)
	}
	h := begun(t)
	add(h, step(h), "ada", "bob")
	h.replay(0, 0)
	for name, f := range map[string]func(*history){
		"names and no signatures": func(h *history) { add(h, step(h)).Detail = map[string]string{"officers": "ada+bob"} },
		"one":                     func(h *history) { add(h, step(h), "ada") },
		"a stranger":              func(h *history) { add(h, step(h), "ada", "eve") },
		"another size":            func(h *history) { r := step(h); r.To.Size++; add(h, r, "ada", "bob") },
		"too old":                 func(h *history) { r := step(h); h.at = h.at.Add(8 * 24 * time.Hour); add(h, r, "ada", "bob") },
		"of the future":           func(h *history) { r := step(h); r.Created = h.at.Add(time.Hour); add(h, r, "ada", "bob") },
		"fewer than the strictest policy": func(h *history) {
			h.strict("card.release")
			add(h, step(h), "ada", "bob")
		},
		"before there are officers": func(h *history) { h.records = nil; add(h, step(h), "ada", "bob") },
	} {
		h := begun(t)
		f(h)
		var r approval.Replay
		for _, e := range h.records {
			r.Add(e)
		}
		if len(r.Unproven) != 1 {
			t.Errorf("%s: %v", name, r.Unproven)
		}
	}
}
