package kms_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/kms"
	"cardkms/kms/apdu"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/ledger"
	"cardkms/kms/profile"
	"cardkms/kms/secret"
	"cardkms/kms/store"
	"cardkms/kms/store/sqlite"
	"cardkms/kms/update"
	"cardkms/softhsm/cardsim"
	"cardkms/softhsm/testtoken"
)

func TestMain(m *testing.M) { testtoken.Main(m) }

// harness is a service on a real token and a real database, one issuer of its
// own, and a clock that the test moves.
type harness struct {
	experimental bool                  // of the configuration
	further      map[string]kms.Holder // tokens beside the main one; nil for one that is away

	t        *testing.T
	ctx      context.Context
	token    *hsm.Token
	db       store.Store // what the service sees; may inject faults
	path     string
	ledger   *ledger.Ledger
	service  *kms.Service
	issuer   string
	release  ed25519.PrivateKey
	signer   note.Signer
	vkey     string
	pseudo   derive.Root
	state    derive.Root
	anchors  []ledger.Anchor
	now      atomic.Int64 // Unix nanoseconds
	request  atomic.Int64
	observer func(kms.Observed)
	profile  profile.Profile
	// profiles are those beside "default".
	profiles []profile.Profile

	master, updateMaster []byte // a factory knows them; the service does not
}

var issuers atomic.Int64

const (
	kvn    = 0x30
	updKVN = 0x5A
)

var isdAID = unhex("A000000151000000")

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// newHarness makes a service. adjust may change the profile or wrap the store.
func newHarness(t *testing.T, adjust ...func(*harness)) *harness {
	t.Helper()
	h := &harness{
		t: t, ctx: context.Background(), token: testtoken.SoftHSM(t), path: filepath.Join(t.TempDir(), "kms.db"),
		issuer: fmt.Sprintf("issuer-%d", issuers.Add(1)), master: random(32), updateMaster: random(16),
		profile: profile.Profile{
			Name: "default", Profile: channel.Profile{AID: isdAID}, I: 0x70, Level: 0x33, Suite: update.AESCMAC, ChunkSize: 512, Attempts: 3,
			Keys: profile.Keys{Algorithm: key.AES128, Diversification: diversify.KDF3, From: 0x01, To: 0x7F},
		},
	}
	h.now.Store(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).UnixNano())
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	h.must(err)
	h.release = priv
	h.signer, err = audit.NewSigner("test/audit", pub, func(m []byte) ([]byte, error) { return ed25519.Sign(priv, m), nil })
	h.must(err)
	h.vkey, err = audit.VerifierKey("test/audit", pub)
	h.must(err)
	for _, f := range adjust {
		f(h)
	}
	h.pseudo, err = h.token.Generate(h.ctx, h.issuer+"-pseudonym", key.AES256, derive.SessionMAC)
	h.must(err)
	h.state, err = h.token.Generate(h.ctx, h.issuer+"-state", key.AES256, derive.SessionMAC)
	h.must(err)
	h.start()
	t.Cleanup(h.stop)
	h.load("isd", key.GPSCP03, key.AES256, kvn, h.master)
	h.load("upd", key.CardUpdate, key.AES128, updKVN, h.updateMaster)
	return h
}

func (h *harness) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) clock() time.Time        { return time.Unix(0, h.now.Load()).UTC() }
func (h *harness) advance(d time.Duration) { h.now.Add(int64(d)) }

func (h *harness) start() {
	h.t.Helper()
	if h.db == nil {
		h.openStore(func(s store.Store) store.Store { return s })
	}
	v, err := audit.NewVerifier(h.vkey)
	h.must(err)
	h.ledger, err = ledger.Open(h.ctx, ledger.Config{
		Store: h.db, MAC: func(ctx context.Context, m []byte) ([]byte, error) {
			return h.token.MAC(ctx, derive.FromRoot(h.state), m)
		}, Signer: h.signer, Verifier: v, Origin: "test/audit", Now: h.clock, CheckpointEvery: -1, GuardEvery: -1, Anchors: h.anchors,
	})
	h.must(err)
	h.service, err = kms.New(h.config())
	h.must(err)
	for _, p := range append([]profile.Profile{h.profile}, h.profiles...) {
		h.register(written(p))
	}
}

// config is that of a process on the open log.
func (h *harness) config() kms.Config {
	return kms.Config{
		Token: h.token, Store: h.db, Log: h.ledger, Pseudonym: derive.FromRoot(h.pseudo), Registry: derive.FromRoot(h.state),
		ReleaseKeys: map[string]map[string]crypto.PublicKey{h.issuer: {"release": h.release.Public()}},
		Issuers:     []string{h.issuer}, Experimental: h.experimental,
		Tokens: slices.Sorted(maps.Keys(h.further)),
		Holder: h.holder,
		Limits: channel.DefaultLimits(), ChannelsMax: 1000, Now: h.clock, Observer: h.observer,
	}
}

// openStore opens the database, inside what a test wraps it in.
func (h *harness) openStore(wrap func(store.Store) store.Store) {
	h.t.Helper()
	db, err := sqlite.Open(h.ctx, h.path)
	h.must(err)
	h.db = wrap(db)
}

// register has the newest version of a profile say what a document says.
func (h *harness) register(document string) {
	h.t.Helper()
	p, err := profile.Parse([]byte(document))
	h.must(err)
	had, err := h.service.Profile(h.ctx, h.as(kms.Auditor), h.issuer, p.Name, 0)
	if fault.CodeOf(err) == fault.NotFound || err == nil && had.Document != document {
		_, err = h.service.LoadProfile(h.ctx, "test", kms.NewProfile{Issuer: h.issuer, Document: document})
	}
	h.must(err)
}

// written is the document of a profile.
func written(p profile.Profile) string {
	k := p.Keys
	text := fmt.Sprintf("name: %s\ni: \"%02X\"\naid: \"%X\"\nlevel: \"%02X\"\nattempts: %d\n"+
		"keys: {algorithm: %s, diversification: \"%s\", kvn: {from: \"%02X\", to: \"%02X\"}}\n"+
		"quirks: {padEmptyCommands: %t, skipEmptyCommands: %t}\n",
		p.Name, p.I, p.AID, byte(p.Level), p.Attempts, k.Algorithm, k.Diversification, k.From, k.To, p.PadEmpty, p.SkipEmpty)
	if k.Algorithm.TDEA() {
		return text + "protocol: scp02\n"
	}
	return text + fmt.Sprintf("protocol: scp03\nsuite: \"%02X\"\nchunkSize: %d\nextendedLength: %t\nputKey: %s\n",
		byte(p.Suite), p.ChunkSize, p.Extended, []string{"with-length", "without-length"}[p.PutKey])
}

func (h *harness) holder(name string) (kms.Holder, error) {
	if name == "" {
		return h.token, nil
	}
	if t := h.further[name]; t != nil {
		return t, nil
	}
	return nil, fault.New(fault.TokenUnavailable, "away")
}

func (h *harness) stop() {
	h.service.Close()
	_ = h.ledger.Close(h.ctx)
	_ = h.db.Close()
	h.db = nil
}

// restart is what a new process finds.
func (h *harness) restart() { h.t.Helper(); h.stop(); h.start() }

func (h *harness) load(name string, u key.Usage, a key.Algorithm, n byte, value []byte) {
	h.t.Helper()
	h.loadCards(name, u, a, key.AES128, n, value)
}

// loadCards is load with another algorithm of the card keys.
func (h *harness) loadCards(name string, u key.Usage, a, card key.Algorithm, n byte, value []byte) {
	h.t.Helper()
	_, err := h.service.LoadKey(h.ctx, "test", kms.NewKey{
		Issuer: h.issuer, Name: name, Usage: u, Algorithm: a, CardAlgorithm: card, Diversification: "kdf3", KVN: n,
	}, known{h.token, value})
	h.must(err)
}

// changeVersion writes a key version as an approved change would.
func (h *harness) changeVersion(name string, version int, change func(*key.Version)) error {
	ref := store.Ref{Kind: "key-version", Issuer: h.issuer, ID: fmt.Sprintf("%s/%09d", name, version)}
	_, err := h.ledger.Do(h.ctx, func(rows store.Rows) (audit.Entry, error) {
		row, err := rows.Get(ref)
		if err != nil {
			return audit.Entry{}, err
		}
		var v key.Version
		if err := json.Unmarshal(row.Body, &v); err != nil {
			return audit.Entry{}, err
		}
		change(&v)
		row.Version++
		if row.Body, err = json.Marshal(v); err != nil {
			return audit.Entry{}, err
		}
		return audit.Entry{Actor: audit.ActorService, Operation: "test.change", Decision: audit.Allowed, Outcome: audit.OutcomeOK}, rows.Put(row)
	})
	return err
}

// known is a kms.Maker that imports one value, as a ceremony would.
type known struct {
	*hsm.Token
	value []byte
}

func (k known) Make(ctx context.Context, label string, a key.Algorithm, c derive.Class, _ key.Part) (derive.Root, error) {
	return k.Import(ctx, label, a, c, secret.New(bytes.Clone(k.value)))
}

func (h *harness) req() kms.Request {
	return kms.Request{
		Caller: kms.Caller{ID: "spiffe://test/role/update-server/one", Role: kms.UpdateServer, Issuer: h.issuer, Cards: kms.AllCards()},
		ID:     fmt.Sprintf("r%d", h.request.Add(1)),
	}
}

func (h *harness) as(r kms.Role) kms.Request {
	q := h.req()
	q.Caller = kms.Caller{ID: "spiffe://test/role/" + string(r) + "/one", Role: r, Issuer: h.issuer}
	return q
}

// card makes a personalised card; kdd is its last byte.
func (h *harness) card(kdd byte, adjust ...func(*cardsim.Config)) *cardsim.Card {
	h.t.Helper()
	return h.cardOf([10]byte{9: kdd}, adjust...)
}

func (h *harness) cardOf(kdd [10]byte, adjust ...func(*cardsim.Config)) *cardsim.Card {
	h.t.Helper()
	cfg := cardsim.Config{
		KDD: kdd, ISD: isdAID, I: 0x70, ClassID: [16]byte{1, 2, 3}, Component: isdAID,
		Version: [8]byte{1, 0}, SecurityCounter: 1, Image: []byte("factory image"),
	}
	set, err := cardsim.Personalise(h.master, cfg.KDD, kvn, 16)
	h.must(err)
	cfg.KeySets = []cardsim.KeySet{set}
	cfg.UpdateKey, err = cardsim.PersonaliseUpdate(h.updateMaster, cfg.KDD, updKVN, 16)
	h.must(err)
	for _, f := range adjust {
		f(&cfg)
	}
	c, err := cardsim.New(cfg, nil)
	h.must(err)
	c.PowerOn()
	return c
}

// meta describes an image from version n to n+1.
func meta(n byte, content []byte) update.Image {
	im := update.Image{
		Class: [16]byte{1, 2, 3}, Component: isdAID, From: update.Version{n, 0}, To: update.Version{n + 1, 0}, Counter: uint32(n) + 1,
	}
	c := update.NewContent()
	_, _ = c.Write(content)
	c.Fill(&im)
	return im
}

func (h *harness) sign(m update.Image) []byte { return ed25519.Sign(h.release, m.Statement()) }

// image registers and uploads an image.
func (h *harness) image(name string, n byte, content []byte) {
	h.t.Helper()
	m := meta(n, content)
	_, err := h.service.RegisterImage(h.ctx, h.req(), kms.RegisterImageInput{
		Issuer: h.issuer, Name: name, Meta: m, ReleaseKey: "release", Signature: h.sign(m),
	})
	h.must(err)
	_, err = h.service.UploadImage(h.ctx, h.req(), h.issuer, name, bytes.NewReader(content))
	h.must(err)
}

// connect opens a channel and returns the card's answer to INITIALIZE UPDATE.
func (h *harness) connect(c *cardsim.Card) (id string, answer []byte, err error) {
	o, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd"})
	if err != nil {
		return "", nil, err
	}
	answer, err = c.Transmit(o.InitializeUpdate)
	return o.ID, answer, err
}

// authenticate runs mutual authentication.
func (h *harness) authenticate(c *cardsim.Card) (id string, err error) {
	id, answer, err := h.connect(c)
	if err != nil {
		return "", err
	}
	a, err := h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: id, Response: answer})
	if err != nil {
		return id, err
	}
	r, err := c.Transmit(a.ExternalAuthenticate)
	if err == nil && !bytes.Equal(r, []byte{0x90, 0}) {
		err = fmt.Errorf("EXTERNAL AUTHENTICATE: %X", r)
	}
	return id, err
}

// send transmits secured commands and returns the card's protected answers.
func send(c *cardsim.Card, script [][]byte) ([][]byte, error) {
	var out [][]byte
	for _, s := range script {
		r, err := c.Transmit(s)
		if err != nil {
			return out, err
		}
		out = append(out, r)
	}
	return out, nil
}

// ask sends one plain command through a channel and returns the protected answer.
func (h *harness) ask(c *cardsim.Card, id string, plain apdu.Command) ([]byte, error) {
	w, err := h.service.Wrap(h.ctx, h.req(), kms.ScriptInput{Issuer: h.issuer, Channel: id, APDUs: [][]byte{plain.Bytes()}})
	if err != nil {
		return nil, err
	}
	return c.Transmit(w[0])
}

// step sends one step of a package and checks that the card took it.
func (h *harness) step(c *cardsim.Card, in kms.PackageScriptInput) error {
	script, err := h.service.PackageScript(h.ctx, h.req(), in)
	if err != nil {
		return err
	}
	answers, err := send(c, script)
	if err != nil {
		return err
	}
	plain, err := h.service.Unwrap(h.ctx, h.req(), kms.ScriptInput{Issuer: h.issuer, Channel: in.Channel, APDUs: answers})
	if err != nil {
		return err
	}
	for _, p := range plain {
		if !bytes.Equal(p, []byte{0x90, 0}) {
			return fmt.Errorf("the card answered %X to %s", p, in.Step)
		}
	}
	return nil
}

// create asks for the package of an image on an authenticated channel.
func (h *harness) create(c *cardsim.Card, id, image string) (kms.CreatedPackage, error) {
	status, err := h.ask(c, id, update.GetStatus())
	if err != nil {
		return kms.CreatedPackage{}, err
	}
	return h.service.CreatePackage(h.ctx, h.req(), kms.CreatePackageInput{
		Issuer: h.issuer, Channel: id, Image: image, UpdateKey: "upd", KVN: updKVN, Status: status,
	})
}

// download brings a package onto a card, up to and including the commit.
func (h *harness) download(c *cardsim.Card, image string) (p kms.CreatedPackage, err error) {
	id, err := h.authenticate(c)
	if err != nil {
		return p, err
	}
	if p, err = h.create(c, id, image); err != nil {
		return p, err
	}
	in := kms.PackageScriptInput{Issuer: h.issuer, Channel: id, Package: p.ID, Step: kms.StepOpen}
	if err := h.step(c, in); err != nil {
		return p, err
	}
	in.Step = kms.StepChunks
	for _, n := range p.Missing {
		in.Chunks = []int{n}
		if err := h.step(c, in); err != nil {
			return p, err
		}
	}
	in.Step, in.Chunks = kms.StepCommit, nil
	return p, h.step(c, in)
}

// confirm resets the card, authenticates again and has the receipt verified.
func (h *harness) confirm(c *cardsim.Card, id string) (kms.Package, error) {
	c.PowerOff()
	c.PowerOn()
	ch, err := h.authenticate(c)
	if err != nil {
		return kms.Package{}, err
	}
	receipt, err := h.ask(c, ch, update.GetReceipt())
	if err != nil {
		return kms.Package{}, err
	}
	return h.service.ConfirmPackage(h.ctx, h.req(), kms.ConfirmPackageInput{
		Issuer: h.issuer, Channel: ch, Package: id, Receipt: receipt,
	})
}

// want checks an error's code.
func (h *harness) want(what string, err error, code fault.Code) {
	h.t.Helper()
	if got := fault.CodeOf(err); got != code {
		h.t.Errorf("%s: %v (code %s), want %s", what, err, got, code)
	}
}

// outcomes returns operation=outcome of the newest entries.
func (h *harness) outcomes(n int) []string {
	h.t.Helper()
	size := h.ledger.Size()
	entries, err := h.ledger.Entries(h.ctx, max(0, size-int64(n)), n)
	h.must(err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Operation+"="+e.Outcome)
	}
	return out
}

var errTorn = cardsim.ErrTorn

func plain(s string) apdu.Command {
	c, err := apdu.ParseCommand(unhex(s))
	if err != nil {
		panic(err)
	}
	return c
}

func torn(err error) bool { return errors.Is(err, errTorn) || errors.Is(err, cardsim.ErrOff) }
