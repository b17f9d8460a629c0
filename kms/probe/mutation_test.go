package probe_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/kms/key"
	"cardkms/kms/probe"
)

// plainToken is a derive.VectorToken over plain keys: thousands of altered vectors run
// in the time that a real token needs for a few.
type plainToken struct{ derivetest.Token }

func (p *plainToken) ImportVolatile(_ context.Context, label string, a key.Algorithm, c derive.Class, value []byte) (*derive.Key, func(), error) {
	if len(value) != a.Size() {
		return nil, nil, fmt.Errorf("a key of type %s has %d bytes", a, a.Size())
	}
	return p.Add(label, a, c, value), func() {}, nil
}

// leaf is one value inside a case: its path, and how to change it.
type leaf struct {
	path string
	get  func() any
	set  func(any)
	drop func()
}

// leaves walks a decoded case.
func leaves(path string, v any, set func(any), drop func(), visit func(leaf)) {
	visit(leaf{path, func() any { return v }, set, drop})
	switch x := v.(type) {
	case map[string]any:
		for k, inner := range x {
			leaves(path+"."+k, inner, func(n any) { x[k] = n }, func() { delete(x, k) }, visit)
		}
	case []any:
		for i, inner := range x {
			leaves(path+"[]", inner, func(n any) { x[i] = n }, nil, visit)
		}
	}
}

// forEachCase gives every case of a file that passes, decoded, with a function
// that runs it as it is now.
func forEachCase(t *testing.T, file string, f func(id string, c map[string]any, run func() []probe.Result)) {
	t.Helper()
	var whole map[string]any
	if err := json.Unmarshal(read(t, file), &whole); err != nil {
		t.Fatal(err)
	}
	list := "cases"
	if whole["vectors"] != nil {
		list = "vectors"
	}
	for _, c := range whole[list].([]any) {
		run := func() []probe.Result {
			one := map[string]any{"meta": whole["meta"], list: []any{c}}
			b, err := json.Marshal(one)
			if err != nil {
				t.Fatal(err)
			}
			r, err := probe.Run(context.Background(), new(plainToken), b)
			if err != nil { // the alteration made the file unreadable
				return []probe.Result{{Verdict: probe.Fail, Reason: err.Error()}}
			}
			return r
		}
		if r := run(); len(r) > 0 && r[0].Verdict == probe.Pass {
			f(r[0].ID, c.(map[string]any), run)
		}
	}
}

var vectorFiles = []string{"scp03.json", "scp02.json", "recorded_scp03_openscp.json", "diversification.json", "emv.json", "scp80.json", "standards.json"}

// TestNoPanic drops, empties, shortens and retypes every value of every case that
// runs. Files from outside will be probed: a bad one gives verdicts, not a crash.
func TestNoPanic(t *testing.T) {
	changed := 0
	for _, file := range vectorFiles {
		seen := map[string]bool{} // one shape of change per place is enough
		forEachCase(t, file, func(id string, c map[string]any, run func() []probe.Result) {
			kind := id
			if alg, ok := c["alg"].(string); ok {
				kind = alg
			} else if file != "diversification.json" {
				kind = file
			}
			leaves("", c, nil, nil, func(l leaf) {
				if l.set == nil || seen[kind+l.path] {
					return
				}
				seen[kind+l.path] = true
				try := func(what string, apply func()) {
					defer func() {
						if p := recover(); p != nil {
							t.Errorf("%s %s: %s: panic: %v", id, l.path, what, p)
						}
						l.set(l.get())
					}()
					apply()
					changed++
					run()
				}
				if l.drop != nil {
					try("dropped", l.drop)
				}
				for _, v := range []any{nil, "", "00", "0", 7, -1, 1e9, []any{}, []any{nil}, []any{""}, map[string]any{}, true, strings.Repeat("AB", 70000)} {
					if _, huge := v.(float64); !huge || strings.HasSuffix(l.path, "len") {
						try(fmt.Sprintf("%.10v", v), func() { l.set(v) })
					}
				}
				switch x := l.get().(type) {
				case string:
					if len(x) > 2 {
						try("cut", func() { l.set(x[2:]) })
						try("cut at its end", func() { l.set(x[:len(x)-2]) })
					}
				case []any:
					if len(x) > 0 {
						try("one less", func() { l.set(x[1:]) })
						try("one more", func() { l.set(append(append([]any{}, x...), x[0])) })
					}
				}
			})
		})
	}
	t.Logf("%d changed cases", changed)
}

// uncompared are the values that a verdict does not depend on, and why; the name
// of a known answer's kind stands in front of its path.
var uncompared = map[string]string{
	".key_version":                          "says again what the command and the answer hold",
	".i":                                    "says again what the answer holds",
	".aid":                                  "matters only where the card challenge is pseudo-random",
	".session_keys.dek":                     "is the static K-DEK, which put_key uses",
	".static_keys.dek":                      "is used only where the case has put_key",
	".session_keys.s_dek":                   "is no session key of SCP03",
	".session_keys.host_challenge":          "says again what the case holds",
	".commands[].wrapped_le":                "is under no MAC, and the programs disagree about it",
	".commands[].r_mac_full":                "is more of the R-MAC than a card sends",
	".put_key.by_peer.pysim.plain":          "one of the programs must agree, not each",
	".put_key.by_peer.kaoh.plain":           "one of the programs must agree, not each",
	".put_key.by_peer.gppro.plain":          "one of the programs must agree, not each",
	".put_key.by_peer.pysim.wrapped":        "is in the state that the program left its session",
	".put_key.by_peer.kaoh.wrapped":         "is in the state that the program left its session",
	".put_key.by_peer.gppro.wrapped":        "is in the state that the program left its session",
	".put_key.by_peer.pysim.response_plain": "is the card's own check of the keys",
	".put_key.by_peer.kaoh.response_plain":  "is the card's own check of the keys",
	".put_key.by_peer.gppro.response_plain": "is the card's own check of the keys",
	".peers.kaoh[]":                         "is a remark",
	".published.value":                      "is a remark",
	".output_with_version_restored":         "differs from the output in parity bits, which no check value shows",
	"visa-1.kdd":                            "VISA uses six of its ten bytes",
	".commands[].mac_icv":                   "is single DES of the C-MAC before it, which no token gives out",
	"scp02-k3des-i55-l03.commands[].accepted_alternatives.gppro":   "is the other form of an empty command; one must agree, not each",
	"scp02-k3des-i55-l03.commands[].accepted_alternatives.skythen": "is the other form of an empty command; one must agree, not each",
	"scp02-k3des-i35-l13.commands[].accepted_alternatives.gppro":   "is the other form of an empty command; one must agree, not each",
	"scp02-k3des-i35-l13.commands[].accepted_alternatives.skythen": "is the other form of an empty command; one must agree, not each",
	"scp02_session.in.dek":             "no PUT KEY in these sessions",
	"scp02_cardside.in.dek":            "no PUT KEY in these sessions",
	"scp02_cardside.in.wrapped[]":      "is compared where the case gives the plain command",
	"scp02_wrap_rawkeys.in.senc":       "is used only at levels with encryption",
	"scp02_cardcrypt.in.mac":           "makes no cryptogram",
	"scp02_cardcrypt.in.dek":           "makes no cryptogram",
	"scp02-keycard-enckey.in.mac":      "the case states S-ENC alone",
	"scp02-keycard-enckey.in.dek":      "the case states S-ENC alone",
	"scp03_session.in.dek":             "no PUT KEY in these sessions",
	"scp03_session.in.aid":             "matters only where the card challenge is pseudo-random",
	"scp03_wrap_rawkeys.in.senc":       "is used only at levels with encryption",
	"scp03_wrap_rawkeys.in.srmac":      "is used only at levels with R-MAC",
	"emv_cvn.out.pin_cmd_cur":          "is Visa's PIN block with bytes of the ICC master key, which no token gives out",
	"emv_cvn.in.cur":                   "is part of that block only",
	"emv-visa-cvn10.in.pin":            "is of a script that the token cannot secure",
	"emv-visa-cvn18.in.pin":            "is of a script that the token cannot secure",
	"emv-visa-cvn10.in.hdr":            "is of a script that the token cannot secure",
	"emv-visa-cvn18.in.hdr":            "is of a script that the token cannot secure",
	"emv-mc-cvn20.in.un":               "is in the data of the cryptogram; the session keys of this profile do without",
	"emv-jpos-arpc-mchip.in.atc":       "counts only where the session key follows from it",
	"emv-jpos-arpc-vsdc.in.atc":        "counts only where the session key follows from it",
	"emv-jpos-arqc-cskd-p00.in.un":     "counts only where the session key follows from it",
	"emv-jpos-arqc-cskd-p80.in.un":     "counts only where the session key follows from it",
	"emv-jpos-arqc-vsdc-p00.in.atc":    "counts only where the session key follows from it",
	"emv-jpos-arqc-vsdc-p00.in.un":     "counts only where the session key follows from it",
	"emv-jpos-arqc-vsdc-p80.in.atc":    "counts only where the session key follows from it",
	"emv-jpos-arqc-vsdc-p80.in.un":     "counts only where the session key follows from it",
	"emv-mc-cvn21.in.un":               "is in the data of the cryptogram; the session keys of this profile do without",
	"scp80-pysim-cipheronly.in.kid":    "the packet has no check",
	"scp80-asterix-1201.in.kic":        "the packet is not ciphered",
	"scp80-pysim-por-3des-cc.in.kic":   "the response is not ciphered",
	"scp80-pysim-por-3des-cc-2.in.kic": "the response is not ciphered",
}

// TestEveryBitCounts flips one bit of every hexadecimal value of every case that
// passes: the case must fail.
func TestEveryBitCounts(t *testing.T) {
	missed := map[string]int{}
	flipped := 0
	for _, file := range vectorFiles {
		forEachCase(t, file, func(id string, c map[string]any, run func() []probe.Result) {
			leaves("", c, nil, nil, func(l leaf) {
				x, ok := l.get().(string)
				b, err := hex.DecodeString(x)
				if kind, isKnown := c["alg"].(string); isKnown && uncompared[kind+l.path] != "" || strings.HasPrefix(l.path, ".source.") {
					return
				}
				if !ok || err != nil || len(b) == 0 || uncompared[l.path] != "" || uncompared[id+l.path] != "" {
					return
				}
				flipped++
				b[len(b)/2] ^= 0x02 // neither Le nor a parity bit
				l.set(hex.EncodeToString(b))
				pass := true
				for _, r := range run() {
					pass = pass && r.Verdict == probe.Pass
				}
				l.set(x)
				if pass {
					missed[l.path]++
					if missed[l.path] <= 2 {
						t.Errorf("%s: %s %s: a flipped bit passes", file, id, l.path)
					}
				}
			})
		})
	}
	t.Logf("%d bits flipped", flipped)
}

// TestNoAnswerNoPass: a case that states no answer compares nothing, and nothing
// compared is not a pass.
func TestNoAnswerNoPass(t *testing.T) {
	for file, answers := range map[string][]string{
		"standards.json":       {"out"},
		"scp80.json":           {"out"},
		"diversification.json": {"enc", "mac", "dek", "kcv_3des", "kcv_aes", "output"},
	} {
		forEachCase(t, file, func(id string, c map[string]any, run func() []probe.Result) {
			for _, a := range answers {
				if a == "out" {
					c[a] = map[string]any{}
				} else {
					delete(c, a)
				}
			}
			passed, failed, _ := probe.Count(run())
			if passed > 0 || failed == 0 {
				t.Errorf("%s without an answer: %d pass, %d fail", id, passed, failed)
			}
		})
	}
}
