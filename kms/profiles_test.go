package kms_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/derive/diversify"
	"cardkms/kms"
	"cardkms/kms/apdu"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/profile"
	"cardkms/kms/store"
	"cardkms/softhsm/cardsim"
)

// example is a document of deploy/profiles under the name that its proposal has.
func (h *harness) example(file, name string) string {
	h.t.Helper()
	b, err := os.ReadFile("../deploy/profiles/" + file + ".yaml")
	h.must(err)
	return strings.Replace(string(b), "name: "+file, "name: "+name, 1)
}

// registering is a proposal to register a document.
func (h *harness) registering(name, document string) kms.ProposeInput {
	digest := sha256.Sum256([]byte(document))
	return kms.ProposeInput{
		Issuer: h.issuer, Operation: approval.ProfileRegister, Object: h.profileNamed(name), Document: document,
		Params: map[string]string{"sha256": hex.EncodeToString(digest[:])},
	}
}

func (h *harness) profileNamed(name string) string {
	return "issuers/" + h.issuer + "/profiles/" + name
}

func (h *harness) withdrawing(name string) kms.ProposeInput {
	return kms.ProposeInput{
		Issuer: h.issuer, Operation: approval.ProfileWithdraw, Object: h.profileNamed(name), Params: map[string]string{"reason": "recalled"},
	}
}

// openAs opens a channel for the cards of a profile.
func (h *harness) openAs(name string) (kms.OpenedChannel, error) {
	return h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd", Profile: name})
}

// TestProfileLife goes through the life of a profile: it opens nothing before officers
// registered it, each registration is a version, the newest serves at once, and what was
// signed stays readable.
func TestProfileLife(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	_, err := h.openAs("product")
	h.want("before it is registered", err, fault.NotFound)

	first := h.example("scp03-s8", "product")
	c := h.approved(h.registering("product", first))
	_, err = h.openAs("product")
	h.want("before it is executed", err, fault.NotFound)
	_, err = h.execute(c)
	h.must(err)
	opened, err := h.openAs("product")
	h.must(err)
	if e, want := h.lastEntry(), audit.Digest(sha256.Sum256([]byte(first))); e.Detail["profile"] != "product" || e.Detail["profile_version"] != "1" || e.Digest != want {
		t.Errorf("the entry of a channel names no profile: %+v", e)
	}

	second := strings.Replace(first, "level: \"33\"", "level: \"13\"", 1)
	second = second[:strings.Index(second, "knownAnswers")] // they are of level 33
	h.whole(h.registering("product", second))
	card := h.card(1)
	answer, err := card.Transmit(opened.InitializeUpdate)
	h.must(err)
	a, err := h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: opened.ID, Response: answer})
	if err != nil || a.Level != 0x33 {
		t.Errorf("a channel that was open has level %02X, %v", byte(a.Level), err)
	}
	h.restart()
	opened, err = h.openAs("product")
	h.must(err)
	answer, err = card.Transmit(opened.InitializeUpdate)
	h.must(err)
	if a, err = h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: opened.ID, Response: answer}); err != nil || a.Level != 0x13 {
		t.Errorf("a new channel has level %02X, %v", byte(a.Level), err)
	}
	for version, want := range map[int]string{0: second, 1: first, 2: second} {
		p, err := h.service.Profile(h.ctx, h.as(kms.Auditor), h.issuer, "product", version)
		if err != nil || p.Document != want || version > 0 && p.Version != version {
			t.Errorf("version %d: %+v, %v", version, p, err)
		}
	}
	_, err = h.service.Profile(h.ctx, h.req(), h.issuer, "product", 3)
	h.want("a version that is not there", err, fault.NotFound)

	h.whole(h.withdrawing("product"))
	_, err = h.openAs("product")
	h.want("a withdrawn profile", err, fault.ProfileMismatch)
	_, err = h.propose("ada", h.withdrawing("product"))
	h.want("withdrawn twice", err, fault.Conflict)
	h.whole(h.registering("product", first))
	_, err = h.openAs("product")
	h.must(err)
	all, err := h.service.Profiles(h.ctx, h.req(), h.issuer)
	if err != nil || len(all) != 2 || all[1].Version != 3 || all[1].Withdrawn {
		t.Errorf("%+v, %v", all, err)
	}
	h.proven(4)
}

// TestProfileOfAnother: a profile of another issuer is one that is not there.
func TestProfileOfAnother(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	_, err := h.service.LoadProfile(h.ctx, "test", kms.NewProfile{Issuer: "other", Document: h.example("scp03-s8", "theirs")})
	h.must(err)
	_, unknown := h.openAs("nobodys")
	_, theirs := h.openAs("theirs")
	h.want("to open with it", theirs, fault.NotFound)
	if unknown.Error() != theirs.Error() {
		t.Errorf("%v tells theirs from one that is not there: %v", theirs, unknown)
	}
	_, err = h.service.Profile(h.ctx, h.req(), h.issuer, "theirs", 0)
	h.want("to read it under one's own issuer", err, fault.NotFound)
	_, err = h.service.Profile(h.ctx, h.req(), "other", "theirs", 0)
	h.want("to read it", err, fault.NotFound)
	_, err = h.service.Profiles(h.ctx, h.req(), "other")
	h.want("to list it", err, fault.NotFound)
	in := h.registering("theirs", h.example("scp03-s8", "theirs"))
	in.Object = "issuers/other/profiles/theirs"
	_, err = h.propose("ada", in)
	h.want("to register under another issuer's name", err, fault.InvalidInput)
	in.Issuer = "other"
	_, err = h.propose("ada", in)
	h.want("to register for an issuer that nobody configured", err, fault.NotFound)
}

// TestProfileRefused: a proposal that would not make a good profile is none, and no row
// changes.
func TestProfileRefused(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	good := h.example("scp03-s8", "product")
	changed := func(from, to string) kms.ProposeInput {
		text := strings.Replace(good, from, to, 1)
		if text == good {
			t.Fatalf("the example does not hold %q", from)
		}
		return h.registering("product", text)
	}
	in := func(change func(*kms.ProposeInput)) kms.ProposeInput {
		p := h.registering("product", good)
		change(&p)
		return p
	}
	for name, c := range map[string]struct {
		in   kms.ProposeInput
		code fault.Code
		says string
	}{
		"a contradiction":           {changed(`level: "33"`, `level: "02"`), fault.InvalidInput, "level is"},
		"a wrong check value":       {changed("3AD99E", "3AD99F"), fault.InvalidInput, "known answer card-keys"},
		"a wrong command":           {changed("8104618EB2520D75", "8104618EB2520D76"), fault.InvalidInput, "known answer session"},
		"another name":              {in(func(p *kms.ProposeInput) { p.Object = h.profileNamed("other") }), fault.InvalidInput, "another name"},
		"another document":          {in(func(p *kms.ProposeInput) { p.Document += "\n" }), fault.InvalidInput, "not the digest"},
		"no document":               {in(func(p *kms.ProposeInput) { p.Document = "" }), fault.InvalidInput, "not the digest"},
		"no digest":                 {in(func(p *kms.ProposeInput) { p.Params = nil }), fault.InvalidInput, "sha256"},
		"a digest in upper case":    {in(func(p *kms.ProposeInput) { p.Params["sha256"] = strings.ToUpper(p.Params["sha256"]) }), fault.InvalidInput, "sha256"},
		"a parameter too many":      {in(func(p *kms.ProposeInput) { p.Params["version"] = "7" }), fault.InvalidInput, "sha256"},
		"for every issuer":          {in(func(p *kms.ProposeInput) { p.Issuer = "" }), fault.InvalidInput, "in its issuer"},
		"a name that is none":       {in(func(p *kms.ProposeInput) { p.Object = h.profileNamed("a/b") }), fault.InvalidInput, "named"},
		"too large":                 {h.registering("product", good+strings.Repeat("#", profile.DocumentBytesMax)), fault.TooLarge, "at most"},
		"a document of another":     {in(func(p *kms.ProposeInput) { p.Operation = approval.SystemResume }), fault.InvalidInput, "no document"},
		"withdrawn without reason":  {in(func(p *kms.ProposeInput) { *p = h.withdrawing("default"); p.Params = nil }), fault.InvalidInput, "reason"},
		"withdrawn and never there": {h.withdrawing("product"), fault.NotFound, ""},
	} {
		_, err := h.propose("ada", c.in)
		h.want(name, err, c.code)
		if err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	all, err := h.service.Profiles(h.ctx, h.req(), h.issuer)
	cases, _, err2 := h.service.Proposals(h.ctx, h.officer("ada"), "", 10)
	if err != nil || err2 != nil || len(all) != 1 || len(cases) != 0 {
		t.Errorf("%+v, %d proposals, %v, %v", all, len(cases), err, err2)
	}
	p := h.registering("product", good)
	p.Preview = true
	if c, err := h.propose("ada", p); err != nil || c.Document != good {
		t.Errorf("a preview: %v", err)
	}
}

// TestProfileProvenAgain: the known answers run again at the execution. A test key that
// became a key of the service meanwhile is refused then, and nothing changed.
func TestProfileProvenAgain(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	c := h.approved(h.registering("product", h.example("scp03-s8", "product")))
	h.load("leaked", key.GPSCP03, key.AES128, 0x31, unhex("580F19A450D59C2A8F2A55A1A05AFBC6")) // its testMaster
	_, err := h.execute(c)
	h.want("a test key that serves", err, fault.InvalidInput)
	if _, err = h.service.Profile(h.ctx, h.req(), h.issuer, "product", 0); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("it was registered: %v", err)
	}
	if got := strings.Join(h.outcomes(2), " "); got != "profile.register=pending profile.register=invalid_input" {
		t.Error(got)
	}
	_, err = h.propose("ada", h.registering("product", h.example("scp03-s8", "product")))
	h.want("proposed now", err, fault.InvalidInput)
}

// TestProfileVoid: of two proposals for one profile that meant the same version, one is
// executed.
func TestProfileVoid(t *testing.T) {
	h := newHarness(t)
	h.enrol("ada", "bob", "cyd")
	text := h.example("template", "product")
	one, two := h.approved(h.registering("product", text)), h.approved(h.registering("product", text+"# second\n"))
	_, err := h.execute(two)
	h.must(err)
	_, err = h.execute(one)
	h.want("the other", err, fault.ApprovalVoid)
}

// TestProfileDisagrees: a key version or a card that is not what the profile says is told
// so, and the card is not to blame.
func TestProfileDisagrees(t *testing.T) {
	for name, change := range map[string]func(*profile.Profile){
		"card keys":       func(p *profile.Profile) { p.Keys.Algorithm = key.AES192 },
		"diversification": func(p *profile.Profile) { p.Keys.Diversification = diversify.AN10922 },
		"KVN":             func(p *profile.Profile) { p.Keys.From = kvn + 1 },
	} {
		h := newHarness(t, func(h *harness) { change(&h.profile) })
		_, err := h.openAs("")
		h.want(name, err, fault.ProfileMismatch)
		_, err = h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd", KVN: kvn})
		h.want(name+", with a KVN", err, fault.ProfileMismatch)
		out, err := h.service.PrepareScripts(h.ctx, h.req(), kms.PrepareInput{
			Issuer: h.issuer, Key: "isd", KVN: kvn, Level: 1, Commands: [][]byte{{0x80, 0xE4, 0, 0}}, Cards: []kms.CardAt{{Counter: 9}},
		})
		h.want(fmt.Sprintf("%s, a script: %v", name, out), err, fault.ProfileMismatch)
	}
	h := newHarness(t)
	card := h.card(1, func(c *cardsim.Config) { c.I = 0x60 })
	for range h.profile.Attempts + 1 {
		_, err := h.authenticate(card)
		h.want("another i parameter", err, fault.ProfileMismatch)
	}
	_, err := h.authenticate(h.card(1))
	h.must(err)
}

// TestProfileOfTheKeyThatAnswers: a channel is open for the key versions that the profile
// fits; a card that answers with another one is refused.
func TestProfileOfTheKeyThatAnswers(t *testing.T) {
	h := newHarness(t, func(h *harness) { h.profile.Keys.To = kvn })
	newer := random(32)
	h.load("isd", key.GPSCP03, key.AES256, newKVN, newer)
	h.advance(2 * time.Second)
	card := h.card(1, func(c *cardsim.Config) {
		set, err := cardsim.Personalise(newer, c.KDD, newKVN, 16)
		h.must(err)
		c.KeySets = []cardsim.KeySet{set}
	})
	_, err := h.authenticate(card)
	h.want("keys beyond the profile", err, fault.ProfileMismatch)
	id, err := h.authenticate(h.card(2))
	h.must(err)
	_, err = h.service.ChangeKeys(h.ctx, h.req(), h.issuer, id)
	h.want("to move a card to them", err, fault.ProfileMismatch)
}

// TestProfileOfAnotherProgram: what another process wrote is noticed within a second, and
// a document that this program does not take opens nothing.
func TestProfileOfAnotherProgram(t *testing.T) {
	h := newHarness(t)
	_, err := h.openAs("")
	h.must(err)
	ref := store.Ref{Kind: "profile", Issuer: h.issuer, ID: "default"}
	_, err = h.ledger.Do(h.ctx, func(rows store.Rows) (audit.Entry, error) {
		row, err := rows.Get(ref)
		if err != nil {
			return audit.Entry{}, err
		}
		row.Version++
		row.Body = bytes.Replace(row.Body, []byte("protocol: scp03"), []byte("protocol: scp04"), 1)
		return audit.Entry{Actor: audit.ActorService, Operation: "test.change", Decision: audit.Allowed, Outcome: audit.OutcomeOK}, rows.Put(row)
	})
	h.must(err)
	h.advance(time.Second)
	for range 2 { // what was read before, too
		_, err = h.openAs("")
		h.want("a document of another program", err, fault.InvalidInput)
		h.advance(2 * time.Second)
	}
	h.register(written(h.profile))
	_, err = h.openAs("")
	h.must(err)
}

// TestProfileAttempts: as many wrong cryptograms as the profile says quarantine a card.
func TestProfileAttempts(t *testing.T) {
	for _, attempts := range []int{1, 5} {
		h := newHarness(t, func(h *harness) { h.profile.Attempts = attempts })
		card := h.card(1)
		for range attempts {
			id, a := h.answer(card)
			a[25] ^= 1
			h.want("a wrong cryptogram", h.prove(id, a), fault.ProofFailed)
		}
		_, err := h.authenticate(card)
		h.want(fmt.Sprintf("after %d of them", attempts), err, fault.CardQuarantined)
	}
	h := newHarness(t, func(h *harness) { h.profile.Attempts = 1 })
	card := h.card(1)
	o, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd", KVN: kvn})
	h.must(err)
	a, err := card.Transmit(o.InitializeUpdate)
	h.must(err)
	a[10]++
	h.want("another KVN than asked for", h.prove(o.ID, a), fault.ProofFailed)
	_, err = h.authenticate(card)
	h.want("after it", err, fault.CardQuarantined)
}

// TestProfileScript: the entry of a prepared script names the profile, too.
func TestProfileScript(t *testing.T) {
	h := newHarness(t)
	card := h.card(1)
	_, err := h.authenticate(card)
	h.must(err)
	_, err = h.service.PrepareScripts(h.ctx, h.req(), kms.PrepareInput{
		Issuer: h.issuer, Key: "isd", KVN: kvn, Level: 1, Commands: [][]byte{(apdu.Command{CLA: 0x80, INS: 0xE4}).Bytes()},
		Cards: []kms.CardAt{{KDD: [10]byte{9: 1}, Counter: 0x1000}},
	})
	h.must(err)
	if e := h.lastEntry(); e.Operation != string(kms.ScriptPrepare) || e.Outcome != audit.OutcomeOK || e.Detail["profile"] != "default" || e.Detail["profile_version"] != "1" {
		t.Errorf("%+v", e)
	}
}

// TestProfileCeremony: outside a ceremony that began, no profile is loaded for one.
func TestProfileCeremony(t *testing.T) {
	h := newHarness(t)
	_, err := h.service.LoadProfile(h.ctx, "test", kms.NewProfile{Issuer: h.issuer, Document: h.example("template", "x"), Ceremony: strings.Repeat("0", 64)})
	h.want("a ceremony that did not begin", err, fault.NotFound)
	_, err = h.service.LoadProfile(h.ctx, "test", kms.NewProfile{Issuer: "No", Document: h.example("template", "x")})
	h.want("an issuer that is none", err, fault.InvalidInput)
	_, err = h.service.LoadProfile(h.ctx, "test", kms.NewProfile{Issuer: h.issuer, Document: strings.Replace(h.example("template", "x"), "0C790A", "0C790B", 1)})
	h.want("a wrong known answer", err, fault.InvalidInput)
}
