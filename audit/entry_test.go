package audit_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"cardkms/audit"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func mustEncode(t testing.TB, e audit.Entry) []byte {
	t.Helper()
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseReturnsWhatWasEncoded(t *testing.T) {
	intent := int64(3)
	minimal := audit.Entry{
		Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Actor: audit.ActorService,
		Operation: "system.start", Decision: audit.Allowed, Outcome: audit.OutcomeOK,
	}
	full := worked()
	full.Intent, full.Origin = &intent, audit.OriginConsole
	full.Previous[0], full.State[31] = 1, 2
	for _, e := range []audit.Entry{minimal, worked(), full} {
		got, err := audit.ParseEntry(mustEncode(t, e))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestEncodeConvertsTimeToUTC(t *testing.T) {
	e := worked()
	e.Time = e.Time.In(time.FixedZone("", 3600))
	if got, want := mustEncode(t, e), mustEncode(t, worked()); !bytes.Equal(got, want) {
		t.Errorf("got %s", got)
	}
}

func TestEncodeRefuses(t *testing.T) {
	self := int64(41)
	long := strings.Repeat("a", 2100)
	tests := []struct {
		name, field string
		change      func(*audit.Entry)
	}{
		{"negative sequence", "sequence", func(e *audit.Entry) { e.Sequence = -1 }},
		{"zero time", "time", func(e *audit.Entry) { e.Time = time.Time{} }},
		{"year 10000", "time", func(e *audit.Entry) { e.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }},
		{"no actor", "actor", func(e *audit.Entry) { e.Actor = "" }},
		{"line break in actor", "actor", func(e *audit.Entry) { e.Actor = "spiffe://a/b\nrole x" }},
		{"actor is no URI", "actor", func(e *audit.Entry) { e.Actor = "alice" }},
		{"actor without domain", "actor", func(e *audit.Entry) { e.Actor = "spiffe:///x" }},
		{"actor ends in slash", "actor", func(e *audit.Entry) { e.Actor = "spiffe://a/" }},
		{"actor with dots", "actor", func(e *audit.Entry) { e.Actor = "spiffe://a/../b" }},
		{"long actor", "actor", func(e *audit.Entry) { e.Actor = "spiffe://a/" + long }},
		{"origin is a name", "origin", func(e *audit.Entry) { e.Origin = "gateway.example.com" }},
		{"origin with zone", "origin", func(e *audit.Entry) { e.Origin = "fe80::1%eth0" }},
		{"upper-case origin", "origin", func(e *audit.Entry) { e.Origin = "FE80::1" }},
		{"origin is a dash", "origin", func(e *audit.Entry) { e.Origin = "-" }},
		{"long origin", "origin", func(e *audit.Entry) { e.Origin = strings.Repeat("1", 46) }},
		{"upper-case role", "role", func(e *audit.Entry) { e.Role = "Admin" }},
		{"issuer is a dash", "issuer", func(e *audit.Entry) { e.Issuer = "-" }},
		{"no operation", "operation", func(e *audit.Entry) { e.Operation = "" }},
		{"operation ends in dot", "operation", func(e *audit.Entry) { e.Operation = "key." }},
		{"long operation", "operation", func(e *audit.Entry) { e.Operation = long[:65] }},
		{"object is a dash", "object", func(e *audit.Entry) { e.Object = "-" }},
		{"object with space", "object", func(e *audit.Entry) { e.Object = "a b" }},
		{"object starts with slash", "object", func(e *audit.Entry) { e.Object = "/a" }},
		{"key is not ASCII", "key", func(e *audit.Entry) { e.Key = "kéy" }},
		{"request with return", "request", func(e *audit.Entry) { e.Request = "a\rb" }},
		{"no decision", "decision", func(e *audit.Entry) { e.Decision = "" }},
		{"no outcome", "outcome", func(e *audit.Entry) { e.Outcome = "" }},
		{"outcome starts with digit", "outcome", func(e *audit.Entry) { e.Outcome = "1x" }},
		{"intent is itself", "intent", func(e *audit.Entry) { e.Intent = &self }},
		{"unknown algorithm", "algorithm", func(e *audit.Entry) { e.Algorithm = "weak" }},
		{"odd card", "card", func(e *audit.Entry) { e.Card = "abc" }},
		{"upper-case card", "card", func(e *audit.Entry) { e.Card = "AB" }},
		{"detail key", "detail", func(e *audit.Entry) { e.Detail = map[string]string{"A": "x"} }},
		{"detail value with space", "detail", func(e *audit.Entry) { e.Detail = map[string]string{"a": "x y=z"} }},
		{"empty detail value", "detail", func(e *audit.Entry) { e.Detail = map[string]string{"a": ""} }},
		{"17 details", "detail", func(e *audit.Entry) {
			e.Detail = map[string]string{}
			for _, c := range "abcdefghijklmnopq" {
				e.Detail[string(c)] = "x"
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := worked()
			tt.change(&e)
			_, err := e.Encode()
			var field *audit.FieldError
			if !errors.As(err, &field) || field.Field != tt.field {
				t.Errorf("got %v, want a refusal of %s", err, tt.field)
			}
		})
	}
}

// TestEntryIsBounded shows that every field at its greatest length still fits,
// so that EntryBytesMax refuses nothing that the alphabets allow, but details.
func TestEntryIsBounded(t *testing.T) {
	e := worked()
	e.Actor = "spiffe://a/" + strings.Repeat("a", 2037)
	e.Origin = strings.Repeat("f", 45)
	e.Object, e.Key = strings.Repeat("o", 512), strings.Repeat("k", 512)
	e.Request, e.Card = strings.Repeat("r", 128), strings.Repeat("c", 128)
	e.Detail = nil
	if n := len(mustEncode(t, e)); n > audit.EntryBytesMax-256 {
		t.Errorf("%d bytes", n)
	}
	e.Detail = map[string]string{}
	for _, c := range "abcdefghijklmnop" {
		e.Detail[strings.Repeat(string(c), 64)] = strings.Repeat("v", 256)
	}
	if _, err := e.Encode(); err == nil {
		t.Error("an entry longer than EntryBytesMax was encoded")
	}
}

func TestParseRefuses(t *testing.T) {
	good := string(mustEncode(t, worked()))
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the entry does not contain %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	tests := map[string]string{
		"empty":                "",
		"other version":        replace("entry/1", "entry/2"),
		"leading zero":         replace("sequence 41", "sequence 041"),
		"plus sign":            replace("sequence 41", "sequence +41"),
		"overflow":             replace("sequence 41", "sequence 9223372036854775808"),
		"short time":           replace(".000123000Z", ".000123Z"),
		"time zone":            replace("000Z", "000+00:00"),
		"comma in time":        replace(":00.000", ":00,000"),
		"no origin":            replace("origin 192.0.2.17\n", ""),
		"missing line":         replace("role update-server\n", ""),
		"swapped lines":        replace("role update-server\nissuer acme\n", "issuer acme\nrole update-server\n"),
		"repeated line":        replace("issuer acme\n", "issuer acme\nissuer acme\n"),
		"two spaces":           replace("role update", "role  update"),
		"carriage return":      replace("issuer acme\n", "issuer acme\r\n"),
		"empty value":          replace("issuer acme", "issuer "),
		"upper-case digest":    replace("ba7816bf", "BA7816BF"),
		"short digest":         replace("ba7816bf", "ba7816"),
		"zero digest":          replace("previous -", "previous "+strings.Repeat("0", 64)),
		"none where required":  replace("outcome ok", "outcome -"),
		"details out of order": replace("apdus=1 level=33", "level=33 apdus=1"),
		"repeated detail":      replace("apdus=1 level=33", "apdus=1 apdus=1"),
		"detail without value": replace("level=33", "level"),
		"no last line feed":    good[:len(good)-1],
		"one more line feed":   good + "\n",
		"one more line":        good + "extra x\n",
		"truncated":            good[:100],
		"too long":             good + strings.Repeat("x", audit.EntryBytesMax),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := audit.ParseEntry([]byte(text)); !errors.Is(err, audit.ErrEntry) {
				t.Errorf("got %v, want ErrEntry", err)
			}
		})
	}
}

// TestParseInvertsEncode draws entries from their alphabets.
func TestParseInvertsEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := drawEntry(t)
		encoding, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := audit.ParseEntry(encoding)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func drawEntry(t *rapid.T) audit.Entry {
	or := func(label, re string) string { return rapid.StringMatching("("+re+")?").Draw(t, label) }
	e := audit.Entry{
		Sequence:  rapid.Int64Range(1, 1<<62).Draw(t, "sequence"),
		Time:      time.Unix(rapid.Int64Range(0, 1<<37).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC(),
		Actor:     rapid.StringMatching(`service|anonymous|spiffe://[a-z0-9_-]{1,9}(/[a-zA-Z_-]{1,9}){0,3}`).Draw(t, "actor"),
		Origin:    or("origin", `console|[0-9a-f.:]{1,45}`),
		Role:      or("role", `[a-z][a-z0-9-]{0,62}`),
		Issuer:    or("issuer", `[a-z][a-z0-9-]{0,62}`),
		Operation: rapid.StringMatching(`[a-z]{1,9}(\.[a-z][a-z-]{0,9}){0,2}`).Draw(t, "operation"),
		Object:    or("object", `[a-z0-9_]{1,9}(/[A-Za-z0-9_-]{1,9}){0,5}`),
		Key:       or("key", `[a-z0-9_]{1,9}(/[A-Za-z0-9_-]{1,9}){0,5}`),
		Request:   or("request", `[A-Za-z0-9_.]{1,128}`),
		Decision:  rapid.SampledFrom([]audit.Decision{audit.Allowed, audit.Refused}).Draw(t, "decision"),
		Outcome:   rapid.StringMatching(`[a-z][a-z0-9_]{0,63}`).Draw(t, "outcome"),
		Algorithm: rapid.SampledFrom([]audit.Algorithm{"", audit.Approved, audit.Legacy}).Draw(t, "algorithm"),
		Card:      or("card", `([0-9a-f]{2}){1,64}`),
		Detail:    rapid.MapOfN(rapid.StringMatching(`[a-z][a-z0-9_]{0,20}`), rapid.StringMatching(`[A-Za-z0-9._:/+-]{1,40}`), 0, 16).Draw(t, "detail"),
	}
	copy(e.Digest[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"))
	copy(e.State[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "state"))
	if rapid.Bool().Draw(t, "closes an intent") {
		n := rapid.Int64Range(0, e.Sequence-1).Draw(t, "intent")
		e.Intent = &n
	}
	if len(e.Detail) == 0 {
		e.Detail = nil
	}
	return e
}
