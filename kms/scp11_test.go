package kms_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"cardkms/audit"
	"cardkms/derive/scp11"
	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store/sqlite"
	"cardkms/kms/store/storetest"
	"cardkms/softhsm/cardsim"
	"cardkms/softhsm/testtoken"
)

// agreed is a service on NSS softokn, which derives as SCP11 does, with what its cards need:
// an authority of theirs, and one that certifies hosts.
type agreed struct {
	*harness
	board            *board
	cardCA, hostCA   *ecdsa.PrivateKey
	cardRoot, hostBy *x509.Certificate
}

func onNSS(h *harness) { h.token = testtoken.NSS(h.t) }

func newAgreed(t *testing.T, adjust ...func(*harness)) *agreed {
	t.Helper()
	w := &agreed{harness: newHarness(t, append([]func(*harness){onNSS}, adjust...)...)}
	w.board = w.officers()
	w.cardCA, w.hostCA = w.ecKey(), w.ecKey()
	w.cardRoot = w.certify("CA-KLCC", w.cardCA.Public(), nil, w.cardCA, authority)
	w.hostBy = w.certify("CA-KLOC", w.hostCA.Public(), nil, w.hostCA, authority)
	return w
}

func (w *agreed) ecKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	return k
}

func authority(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }

func (w *agreed) certify(name string, public crypto.PublicKey, by *x509.Certificate, signer *ecdsa.PrivateKey, change func(*x509.Certificate)) *x509.Certificate {
	w.t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageKeyAgreement,
		NotBefore: w.clock().AddDate(-1, 0, 0), NotAfter: w.clock().AddDate(1, 0, 0),
	}
	if change != nil {
		change(c)
	}
	if by == nil {
		by = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, public, signer)
	w.must(err)
	out, err := x509.ParseCertificate(der)
	w.must(err)
	return out
}

// indented is PEM as it stands in a document.
func indented(all ...*x509.Certificate) (out string) {
	for _, c := range all {
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
		out += "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
	}
	return out
}

// document is a profile of a variant; host is the host's certificates.
func (w *agreed) document(v scp11.Variant, host ...*x509.Certificate) string {
	text := fmt.Sprintf("name: agreed-%c\nprotocol: scp11%c\nlevel: \"33\"\nkeys: {algorithm: ec-p256, kvn: {from: \"01\", to: \"03\"}}\ncertificates:\n  trusted: |\n%s",
		v, v, indented(w.cardRoot))
	if len(host) > 0 {
		text += "  host: |\n" + indented(host...) + "  authority: {kvn: \"04\", kid: \"10\"}\n"
	}
	return text
}

// prepare registers the profiles of all variants, and has officers make the host's pair,
// which the authority certifies by what the service says of it.
func (w *agreed) prepare() {
	w.t.Helper()
	w.register(w.document(scp11.B))
	w.pair(1)
	w.hosts(1)
}

var pairParams = map[string]string{"usage": "gp-scp11", "algorithm": "ec-p256", "cryptoperiod_days": "365"}

func (w *agreed) pairName(n int) string {
	return fmt.Sprintf("issuers/%s/keys/oce/versions/%d", w.issuer, n)
}

func (w *agreed) pair(n int) {
	w.t.Helper()
	w.must(w.board.decide(approval.KeyCreate, w.pairName(n), pairParams))
	w.must(w.board.decide(approval.KeyActivate, w.pairName(n), nil))
}

// hosts registers profiles with a certificate of a version of the pair.
func (w *agreed) hosts(n int) {
	w.t.Helper()
	own := w.certify("OCE", w.publicOf(n), w.hostBy, w.hostCA, nil)
	for _, v := range []scp11.Variant{scp11.A, scp11.C} {
		w.register(w.document(v, own))
	}
	w.advance(1100 * time.Millisecond)
}

// publicOf returns the public key of a version of the host's pair.
func (w *agreed) publicOf(n int) crypto.PublicKey {
	w.t.Helper()
	w.advance(1100 * time.Millisecond)
	all, err := w.service.Keys(w.ctx, w.as(kms.SecurityOfficer), w.issuer)
	w.must(err)
	i := slices.IndexFunc(all, func(v key.Version) bool { return v.ID.String() == w.pairName(n) })
	public, err := x509.ParsePKIXPublicKey(all[i].PublicKey)
	w.must(err)
	return public
}

// simulated is a card with a certificate.
type simulated struct {
	*cardsim.Card
	certificate *x509.Certificate
	kdd         []byte
}

func (w *agreed) agreedCard() *simulated {
	w.t.Helper()
	k := w.ecKey()
	private, err := k.ECDH()
	w.must(err)
	c := w.card(9, func(c *cardsim.Config) {
		c.Agreed = cardsim.AgreedKeys{KVN: 1, Private: private, HostCA: &w.hostCA.PublicKey, HostKVN: 4, HostKID: 0x10}
	})
	return &simulated{c, w.certify("card", k.Public(), w.cardRoot, w.cardCA, nil), scp11.KDD(private.PublicKey())}
}

func (w *agreed) opening(v scp11.Variant, c *simulated) kms.OpenChannelInput {
	in := kms.OpenChannelInput{Issuer: w.issuer, Profile: fmt.Sprintf("agreed-%c", v), Certificates: [][]byte{c.certificate.Raw}}
	if v.HostProven() {
		in.Key = "oce"
	}
	return in
}

// ask opens a channel and returns the card's answer to the last command.
func (w *agreed) askCard(v scp11.Variant, c *simulated) (id string, answer []byte) {
	w.t.Helper()
	o, err := w.service.OpenChannel(w.ctx, w.req(), w.opening(v, c))
	w.must(err)
	if !bytes.Equal(o.KDD, c.kdd) || o.InitializeUpdate != nil {
		w.t.Errorf("%+v", o)
	}
	answers, err := send(c.Card, o.Agreement)
	w.must(err)
	for _, a := range answers[:len(answers)-1] {
		if !bytes.Equal(a, []byte{0x90, 0}) {
			w.t.Fatalf("a certificate: %X", a)
		}
	}
	return o.ID, answers[len(answers)-1]
}

func (w *agreed) prove(id string, answer []byte) (kms.AuthenticatedChannel, error) {
	return w.service.Authenticate(w.ctx, w.req(), kms.AuthenticateInput{Issuer: w.issuer, Channel: id, Response: answer})
}

// TestAgreedEndToEnd: each variant, from the certificate to an answer that the card protected,
// and nothing stays in the token.
func TestAgreedEndToEnd(t *testing.T) {
	w := newAgreed(t)
	w.prepare()
	before := w.token.LiveObjects()
	for _, v := range []scp11.Variant{scp11.A, scp11.B, scp11.C} {
		card := w.agreedCard()
		id, answer := w.askCard(v, card)
		a, err := w.prove(id, answer)
		w.must(err)
		version := ""
		if v.HostProven() {
			version = w.pairName(1)
		}
		if a.ExternalAuthenticate != nil || !bytes.Equal(a.KDD, card.kdd) || a.KVN != 1 || a.Level != 0x33 || a.DataMax != 239 || a.KeyVersion != version || a.Counter != nil {
			t.Errorf("variant %c: %+v", v, a)
		}
		plain, err := w.talk(card.Card, id, selectFile, readFile)
		w.must(err)
		if !bytes.HasSuffix(plain[0], []byte{0x90, 0}) || len(plain[1]) != 66 {
			t.Errorf("variant %c: %X", v, plain)
		}
		known, err := w.service.Card(w.ctx, w.req(), w.issuer, fmt.Sprintf("%X", card.kdd))
		w.must(err)
		if known.KVN != 1 || known.Version != "" || known.Failures != 0 || known.Seen.IsZero() {
			t.Errorf("the registry has %+v", known)
		}
	}
	for range 200 { // Release does not wait
		if w.token.LiveObjects() == before {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := w.token.LiveObjects(); n > before {
		t.Errorf("%d objects more than before", n-before)
	}
	size := w.ledger.Size()
	entries, err := w.ledger.Entries(w.ctx, size-5, 5)
	w.must(err)
	for i, want := range []string{"channel.open", "channel.authenticate", "channel.wrap", "channel.unwrap", "channel.close"} {
		if e := entries[i]; e.Operation != want || e.Outcome != "ok" || e.Card == "" || e.Card != entries[0].Card || e.Key != w.pairName(1) || i > 0 && e.Algorithm != audit.Approved {
			t.Errorf("%+v", e)
		}
	}
}

// TestAgreedRefusedAtOpening: what is refused before the token makes a pair.
func TestAgreedRefusedAtOpening(t *testing.T) {
	w := newAgreed(t)
	w.prepare()
	card := w.agreedCard()
	other := w.ecKey()
	fake := w.certify("CA-KLCC", other.Public(), nil, other, authority)
	late := w.certify("card", card.certificate.PublicKey, w.cardRoot, w.cardCA, func(c *x509.Certificate) { c.NotAfter = w.clock().Add(-time.Second) })
	before := w.token.LiveObjects()
	for name, c := range map[string]struct {
		v      scp11.Variant
		change func(*kms.OpenChannelInput)
		want   fault.Code
	}{
		"no certificate": {scp11.B, func(in *kms.OpenChannelInput) { in.Certificates = nil }, fault.InvalidInput},
		"no DER":         {scp11.B, func(in *kms.OpenChannelInput) { in.Certificates[0] = in.Certificates[0][1:] }, fault.InvalidInput},
		"an untrusted one": {scp11.B, func(in *kms.OpenChannelInput) {
			in.Certificates[0] = w.certify("card", card.certificate.PublicKey, fake, other, nil).Raw
		}, fault.ProfileMismatch},
		"its anchor beside it": {scp11.B, func(in *kms.OpenChannelInput) {
			in.Certificates = [][]byte{w.certify("card", card.certificate.PublicKey, fake, other, nil).Raw, fake.Raw}
		}, fault.ProfileMismatch},
		"an expired one":           {scp11.B, func(in *kms.OpenChannelInput) { in.Certificates[0] = late.Raw }, fault.ProfileMismatch},
		"the authority's":          {scp11.B, func(in *kms.OpenChannelInput) { in.Certificates[0] = w.cardRoot.Raw }, fault.ProfileMismatch},
		"a KVN out of the profile": {scp11.B, func(in *kms.OpenChannelInput) { in.KVN = 4 }, fault.ProfileMismatch},
		"a key under b":            {scp11.B, func(in *kms.OpenChannelInput) { in.Key = "oce" }, fault.InvalidInput},
		"no key under a":           {scp11.A, func(in *kms.OpenChannelInput) { in.Key = "" }, fault.InvalidInput},
		"a key of another usage":   {scp11.A, func(in *kms.OpenChannelInput) { in.Key = "isd" }, fault.NotFound},
		"certificates under SCP03": {scp11.A, func(in *kms.OpenChannelInput) { in.Key, in.Profile = "isd", "" }, fault.InvalidInput},
	} {
		in := w.opening(c.v, card)
		c.change(&in)
		_, err := w.service.OpenChannel(w.ctx, w.req(), in)
		w.want(name, err, c.want)
	}
	r := w.req()
	r.Caller.Cards = kms.CardRange{From: [10]byte(card.kdd), To: [10]byte(card.kdd)}
	_, err := w.service.OpenChannel(w.ctx, r, w.opening(scp11.B, w.agreedCard()))
	w.want("a card out of the caller's range", err, fault.Forbidden)
	_, err = w.service.OpenChannel(w.ctx, r, w.opening(scp11.B, card))
	w.want("the card in it", err, fault.OK)
	if n := w.token.LiveObjects(); n != before+1 {
		t.Errorf("%d pairs for one channel", n-before)
	}
}

// TestAgreedReceipts: a receipt that is wrong counts against the card like a wrong cryptogram,
// and three in a row quarantine it; nothing but the answer to the channel's own pair opens it.
func TestAgreedReceipts(t *testing.T) {
	w := newAgreed(t)
	w.prepare()
	card := w.agreedCard()
	_, first := w.askCard(scp11.B, card)
	for i := range 3 {
		id, answer := w.askCard(scp11.B, card)
		switch i {
		case 0:
			answer[len(answer)-3] ^= 1
		case 1:
			answer = first // of another channel to the same card
		case 2:
			_, answer = w.askCard(scp11.B, w.agreedCard()) // of another card
		}
		_, err := w.prove(id, answer)
		w.want(fmt.Sprintf("wrong answer %d", i), err, fault.ProofFailed)
		_, err = w.prove(id, answer)
		w.want("the same channel again", err, fault.ChannelClosed)
	}
	id, answer := w.askCard(scp11.B, card)
	_, err := w.prove(id, answer)
	w.want("the right answer after three wrong ones", err, fault.CardQuarantined)
	w.must(w.board.decide(approval.CardRelease, fmt.Sprintf("issuers/%s/cards/%X", w.issuer, card.kdd), nil))
	id, answer = w.askCard(scp11.B, card)
	_, err = w.prove(id, answer)
	w.must(err)
	_, err = w.prove(id, answer)
	w.want("an answer twice", err, fault.ChannelState)
}

// TestAgreedAnswers: what is no answer ends the channel and is not held against the card.
func TestAgreedAnswers(t *testing.T) {
	w := newAgreed(t)
	w.prepare()
	card := w.agreedCard()
	_, good := w.askCard(scp11.B, card)
	off := bytes.Clone(good)
	off[67] ^= 1
	before := w.token.LiveObjects()
	for name, c := range map[string]struct {
		answer []byte
		want   fault.Code
	}{
		"a refusal":                {[]byte{0x6A, 0x88}, fault.CardRefused},
		"nothing but success":      {[]byte{0x90, 0x00}, fault.InvalidInput},
		"a byte too few":           {append(bytes.Clone(good[:len(good)-3]), 0x90, 0x00), fault.InvalidInput},
		"a byte too many":          {append(bytes.Clone(good[:len(good)-2]), 0x00, 0x90, 0x00), fault.InvalidInput},
		"a point not on the curve": {off, fault.InvalidInput},
		"an answer of SCP03":       {append(make([]byte, 29), 0x90, 0x00), fault.InvalidInput},
	} {
		id, _ := w.askCard(scp11.B, card)
		_, err := w.prove(id, c.answer)
		w.want(name, err, c.want)
		_, err = w.prove(id, good)
		w.want(name+", and then a good one", err, fault.ChannelClosed)
	}
	id, answer := w.askCard(scp11.B, card)
	w.advance(61 * time.Second)
	_, err := w.prove(id, answer)
	w.want("an answer that comes late", err, fault.ChannelClosed)
	id, _ = w.askCard(scp11.B, card)
	w.advance(61 * time.Second)
	w.service.Sweep()
	_, err = w.prove(id, answer)
	w.want("a channel that was swept", err, fault.ChannelClosed)
	if n := w.token.LiveObjects(); n > before {
		t.Errorf("%d pairs of dead channels", n-before)
	}
	id, answer = w.askCard(scp11.B, card)
	_, err = w.prove(id, answer)
	w.want("the card is not blamed", err, fault.OK)
}

// TestAgreedHost: the host's pair is a key version like any other: it serves while it is
// active, and the certificate in the profile says which version it is.
func TestAgreedHost(t *testing.T) {
	w := newAgreed(t)
	w.prepare()
	card := w.agreedCard()
	id, answer := w.askCard(scp11.A, card)
	_, err := w.service.SuspendKey(w.ctx, w.as(kms.SecurityOfficer), w.issuer, "oce", 1)
	w.must(err)
	_, err = w.prove(id, answer)
	w.want("a suspended version, after the channel opened", err, fault.KeyState)
	_, err = w.service.OpenChannel(w.ctx, w.req(), w.opening(scp11.A, card))
	w.want("a suspended version", err, fault.KeyState)
	_, err = w.service.OpenChannel(w.ctx, w.req(), w.opening(scp11.B, card))
	w.want("b needs none", err, fault.OK)

	w.pair(2)
	_, err = w.service.OpenChannel(w.ctx, w.req(), w.opening(scp11.A, card))
	w.want("the profile has the suspended one still", err, fault.KeyState)
	w.hosts(2)
	id, answer = w.askCard(scp11.A, card)
	a, err := w.prove(id, answer)
	w.must(err)
	if a.KeyVersion != w.pairName(2) {
		t.Error(a.KeyVersion)
	}
	stranger := w.ecKey()
	w.register(w.document(scp11.A, w.certify("OCE", stranger.Public(), w.hostBy, w.hostCA, nil)))
	w.advance(1100 * time.Millisecond)
	_, err = w.service.OpenChannel(w.ctx, w.req(), w.opening(scp11.A, card))
	w.want("a certificate of no version", err, fault.ProfileMismatch)
	w.register(w.document(scp11.A, w.certify("OCE", w.publicOf(2), w.hostBy, w.hostCA, func(c *x509.Certificate) { c.NotAfter = w.clock() })))
	w.advance(1100 * time.Millisecond)
	_, err = w.service.OpenChannel(w.ctx, w.req(), w.opening(scp11.A, card))
	w.want("a certificate that ran out", err, fault.ProfileMismatch)

	w.must(w.board.decide(approval.KeyDeactivate, w.pairName(1), nil))
	w.must(w.board.decide(approval.KeyDestroy, w.pairName(1), map[string]string{"days": "7"}))
	w.advance(8 * 24 * time.Hour)
	w.must(w.service.Tend(w.ctx))
	w.advance(1100 * time.Millisecond)
	if held, err := w.token.Taken(w.ctx, w.pairName(1)+"#master"); held || err != nil {
		t.Errorf("a destroyed pair is there: %v", err)
	}
	everybody := w.as(kms.Auditor)
	everybody.Caller.Issuer = ""
	report, err := w.service.Report(w.ctx, everybody, kms.ReportInput{Name: "inventory"})
	w.must(err)
	if bytes.Count(report, []byte("gp-scp11")) != 2 || bytes.Count(report, []byte("missing_or_changed")) != 1 { // the destroyed one
		t.Errorf("%s", report)
	}
}

// TestAgreedKeys: what is no pair of the host is refused, and so is a pair by ceremony.
func TestAgreedKeys(t *testing.T) {
	w := newAgreed(t)
	for name, change := range map[string]map[string]string{
		"an AES key":        {"algorithm": "aes-256"},
		"a signing key":     {"algorithm": "ecdsa-p256"},
		"card keys":         {"card_algorithm": "aes-128"},
		"a diversification": {"diversification": "kdf3"},
		"a KVN":             {"kvn": "30"},
	} {
		params := map[string]string{}
		for _, from := range []map[string]string{pairParams, change} {
			for k, v := range from {
				params[k] = v
			}
		}
		w.want(name, w.board.decide(approval.KeyCreate, w.pairName(1), params), fault.InvalidInput)
	}
	_, err := w.service.LoadKey(w.ctx, "test", kms.NewKey{Issuer: w.issuer, Name: "oce", Usage: key.GPSCP11, Algorithm: key.ECP256}, known{w.token, nil})
	w.want("a pair by ceremony", err, fault.InvalidInput)
	other := map[string]string{"usage": "gp-scp03", "algorithm": "ec-p256", "card_algorithm": "aes-128", "diversification": "kdf3", "kvn": "31", "cryptoperiod_days": "365"}
	w.want("masters that are pairs", w.board.decide(approval.KeyCreate, w.versionName(2), other), fault.InvalidInput)
}

// TestAgreedCarriesNothingElse: neither packages nor keys go over such a channel, and nothing
// is prepared or explained for its cards.
func TestAgreedCarriesNothingElse(t *testing.T) {
	w := newAgreed(t)
	w.prepare()
	w.image("one", 1, random(100))
	card := w.agreedCard()
	for _, v := range []scp11.Variant{scp11.A, scp11.B} {
		id, answer := w.askCard(v, card)
		_, err := w.prove(id, answer)
		w.must(err)
		_, err = w.service.CreatePackage(w.ctx, w.req(), kms.CreatePackageInput{Issuer: w.issuer, Channel: id, Image: "one", UpdateKey: "upd", KVN: updKVN, Status: []byte{0x90, 0}})
		w.want("a package", err, fault.Conflict)
		_, err = w.service.ChangeKeys(w.ctx, w.req(), w.issuer, id)
		w.want("PUT KEY", err, fault.Conflict)
		_, err = w.service.ConfirmKeys(w.ctx, w.req(), w.issuer, id, []byte{0x90, 0})
		w.want("its answer", err, fault.Conflict)
		level := w.profile.Level &^ 0x20
		id, answer = w.askCard(v, card)
		_, err = w.service.Authenticate(w.ctx, w.req(), kms.AuthenticateInput{Issuer: w.issuer, Channel: id, Response: answer, Level: &level})
		w.want("another level", err, fault.InvalidInput)
	}
	_, err := w.service.PrepareScripts(w.ctx, w.req(), kms.PrepareInput{Issuer: w.issuer, Key: "oce", Profile: "agreed-c", KVN: 1, Level: 3, Commands: [][]byte{readFile}})
	w.want("a prepared script", err, fault.InvalidInput)
	err = w.board.decide(approval.CardExplain, fmt.Sprintf("issuers/%s/cards/%X", w.issuer, card.kdd),
		map[string]string{"key": "oce", "profile": "agreed-a", "host": "0011223344556677", "answer": strings.Repeat("00", 19)})
	w.want("an explanation", err, fault.InvalidInput)
}

// TestAgreedEntries: the log says of which card and which host's pair an opening is, and so of
// one that the card refuses.
func TestAgreedEntries(t *testing.T) {
	w := newAgreed(t)
	w.prepare()
	id, _ := w.askCard(scp11.A, w.agreedCard())
	opened := w.lastEntry()
	if opened.Operation != "channel.open" || opened.Card == "" || opened.Key != w.pairName(1) || opened.Detail["kvn"] != "01" {
		t.Errorf("%+v", opened)
	}
	_, err := w.prove(id, unhex("6A80"))
	w.want("a card that refuses", err, fault.CardRefused)
	if e := w.lastEntry(); e.Operation != "channel.authenticate" || e.Card != opened.Card || e.Key != opened.Key {
		t.Errorf("%+v", e)
	}
}

// TestAgreedUnable: with SoftHSM2 no pair is proposed and no channel opened.
func TestAgreedUnable(t *testing.T) {
	w := newAgreed(t, func(h *harness) { h.token = testtoken.SoftHSM(t) })
	w.register(w.document(scp11.B))
	_, err := w.service.OpenChannel(w.ctx, w.req(), w.opening(scp11.B, w.agreedCard()))
	w.want("a channel", err, fault.TokenUnable)
	if err == nil || !strings.Contains(err.Error(), "CKM_CONCATENATE_BASE_AND_KEY") {
		t.Errorf("it does not say why: %v", err)
	}
	w.want("a pair", w.board.decide(approval.KeyCreate, w.pairName(1), pairParams), fault.TokenUnable)
	if got := w.outcomes(2); !slices.Contains(got, "approval.propose="+string(fault.TokenUnable)) {
		t.Errorf("the log says %v", got)
	}
}

// TestAgreedTwoWayFailures fails every write of an opening, an authentication and a wrap once
// before and once after its effect: nothing usable leaves without its entry, and no pair and
// no secret stays for a channel that nobody has.
func TestAgreedTwoWayFailures(t *testing.T) {
	for _, mode := range []storetest.Failure{storetest.NotApplied, storetest.AnswerLost} {
		for at := 1; at <= 3; at++ {
			var faulty *storetest.Faulty
			w := newAgreed(t, func(h *harness) {
				db, err := sqlite.Open(h.ctx, h.path)
				h.must(err)
				faulty = storetest.NewFaulty(db)
				h.db = faulty
			})
			w.register(w.document(scp11.B))
			card := w.agreedCard()
			before, objects := w.ledger.Size(), w.token.LiveObjects()
			faulty.Fail(at, mode)
			got := w.openAndWrap(card)
			entries := w.ledger.Size() - before
			if fault.CodeOf(got) == fault.OK && entries != 3 {
				t.Errorf("%v at write %d: a success with %d entries", mode, at, entries)
			}
			if mode == storetest.NotApplied && fault.CodeOf(got) != fault.AuditUnavailable {
				t.Errorf("write %d not applied: %v", at, got)
			}
			if n := w.token.LiveObjects(); got != nil && n != objects {
				t.Errorf("%v at write %d: %d objects stay", mode, at, n-objects)
			}
			w.must(w.openAndWrap(card)) // and the next one works, without a restart
		}
	}
}

func (w *agreed) openAndWrap(c *simulated) error {
	o, err := w.service.OpenChannel(w.ctx, w.req(), w.opening(scp11.B, c))
	if err != nil {
		return err
	}
	answer, err := c.Transmit(o.Agreement[0])
	w.must(err)
	if _, err := w.prove(o.ID, answer); err != nil {
		return err
	}
	_, err = w.wrapOn(o.ID, selectFile)
	return err
}

// TestAgreedLost: what the token forgot ends the channel and nothing else.
func TestAgreedLost(t *testing.T) {
	w := newAgreed(t)
	w.prepare()
	card := w.agreedCard()
	id, answer := w.askCard(scp11.A, card)
	_, err := w.prove(id, answer)
	w.must(err)
	w.must(w.token.Absent(w.ctx)) // initialises the library again
	_, err = w.wrapOn(id, selectFile)
	w.want("a session whose keys the token lost", err, fault.ChannelClosed)
	_, err = w.wrapOn(id, selectFile)
	w.want("again", err, fault.ChannelClosed)
	id, answer = w.askCard(scp11.A, card)
	_, err = w.prove(id, answer)
	w.want("a new one", err, fault.OK)
}
