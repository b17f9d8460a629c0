package kms_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cardkms/derive/scp03"
	"cardkms/kms"
	"cardkms/kms/approval"
	"cardkms/kms/fault"
	"cardkms/kms/report"
	"cardkms/kms/store"
	"cardkms/kms/store/sqlite"
	"cardkms/kms/store/storetest"
	"cardkms/softhsm/cardsim"
)

// answer opens a channel and returns it with the card's answer.
func (h *harness) answer(c *cardsim.Card) (string, []byte) {
	h.t.Helper()
	id, a, err := h.connect(c)
	h.must(err)
	return id, a
}

func (h *harness) prove(id string, answer []byte) error {
	_, err := h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: id, Response: answer})
	return err
}

func TestEveryBitOfTheCardCryptogramCounts(t *testing.T) {
	h := newHarness(t)
	const first, bits = 21, 64 // KDD 10, KVN, 03, i, challenge 8
	for bit := range bits {
		id, a := h.answer(h.card(byte(bit)))
		a[first+bit/8] ^= 0x80 >> (bit % 8)
		err := h.prove(id, a)
		h.want("a flipped bit", err, fault.ProofFailed)
		if err.Error() != fault.Proof().Error() {
			t.Errorf("bit %d: %v tells more than that the proof failed", bit, err)
		}
		// The channel is gone, so the right answer comes too late.
		a[first+bit/8] ^= 0x80 >> (bit % 8)
		h.want("the right answer afterwards", h.prove(id, a), fault.ChannelClosed)
	}
	if got := h.outcomes(1); got[0] != "channel.authenticate=proof_failed" {
		t.Errorf("the last entry is %v", got)
	}
}

func TestThreeWrongCryptogramsQuarantineTheCard(t *testing.T) {
	var quarantined []fault.Code
	h := newHarness(t, func(h *harness) {
		h.observer = func(o kms.Observed) {
			if o.Operation == kms.ChannelAuthenticate && o.Quarantined {
				quarantined = append(quarantined, o.Outcome)
			}
		}
	})
	card := h.card(1)
	wrong := func() error {
		id, a := h.answer(card)
		a[len(a)-6] ^= 1 // in the cryptogram: the counter and 9000 follow
		return h.prove(id, a)
	}
	h.want("first", wrong(), fault.ProofFailed)
	h.want("second", wrong(), fault.ProofFailed)
	_, err := h.authenticate(card)
	h.must(err) // a success in between starts the count anew
	for range h.profile.Attempts {
		h.want("in a row", wrong(), fault.ProofFailed)
	}
	_, err = h.authenticate(card)
	h.want("a right cryptogram in quarantine", err, fault.CardQuarantined)
	h.restart()
	_, err = h.authenticate(card)
	h.want("after a restart", err, fault.CardQuarantined)
	_, err = h.authenticate(h.card(2))
	h.must(err)
	if !slices.Equal(quarantined, []fault.Code{fault.ProofFailed}) {
		t.Errorf("the observer saw %v put a card into quarantine", quarantined)
	}
}

func TestUnknownKeyVersionLooksLikeAWrongCryptogram(t *testing.T) {
	h := newHarness(t)
	unknown := h.card(1, func(c *cardsim.Config) { c.KeySets[0].KVN = 0x31 })
	id, a := h.answer(unknown)
	errKVN := h.prove(id, a)
	id, a = h.answer(h.card(2, func(c *cardsim.Config) { c.KeySets[0].MAC = random(16) }))
	errMAC := h.prove(id, a)
	if fault.CodeOf(errKVN) != fault.ProofFailed || errKVN.Error() != errMAC.Error() {
		t.Errorf("unknown KVN: %v; wrong key: %v", errKVN, errMAC)
	}
	_, err := h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd", KVN: 0x31})
	h.want("opening with an unknown KVN", err, fault.NotFound)
	_, err = h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "none"})
	h.want("an unknown key", err, fault.NotFound)
	_, err = h.service.OpenChannel(h.ctx, h.req(), kms.OpenChannelInput{Issuer: h.issuer, Key: "isd", Profile: "none"})
	h.want("an unknown profile", err, fault.NotFound)
}

func TestReplays(t *testing.T) {
	h := newHarness(t)
	card := h.card(1)
	id, a := h.answer(card)
	h.must(h.prove(id, a))
	h.want("the same answer on the same channel", h.prove(id, a), fault.ChannelState)
	id2, _ := h.answer(card)
	h.want("an old answer on a new channel", h.prove(id2, a), fault.ProofFailed)

	id3, a3 := h.answer(card)
	stranger := h.req()
	stranger.Caller.ID = "spiffe://test/role/update-server/two"
	_, err := h.service.Authenticate(h.ctx, stranger, kms.AuthenticateInput{Issuer: h.issuer, Channel: id3, Response: a3})
	h.want("another client's channel", err, fault.ChannelClosed)
	h.advance(61 * time.Second)
	h.want("a minute later", h.prove(id3, a3), fault.ChannelClosed)

	id4, a4 := h.answer(card)
	h.advance(-time.Hour)
	h.want("a clock that went back", h.prove(id4, a4), fault.ClockUnsafe)
	h.advance(time.Hour)
	h.want("a clock that is right again", h.prove(id4, a4), fault.ChannelClosed)
}

func TestAnswersThatAreNone(t *testing.T) {
	h := newHarness(t)
	card := h.card(1)
	_, good := h.answer(card)
	for n := range len(good) {
		id, _ := h.answer(card)
		if err := h.prove(id, good[:n]); err == nil {
			t.Fatalf("an answer cut to %d bytes passed", n)
		}
	}
	id, _ := h.answer(card)
	h.want("an overlong answer", h.prove(id, append(bytes.Clone(good), 0x90, 0x00)), fault.InvalidInput)
	id, _ = h.answer(card)
	h.want("a card that refuses", h.prove(id, []byte{0x6A, 0x88}), fault.CardRefused)
	id, _ = h.answer(card)
	wrong := scp03.Level(0x02)
	_, err := h.service.Authenticate(h.ctx, h.req(), kms.AuthenticateInput{Issuer: h.issuer, Channel: id, Response: good, Level: &wrong})
	h.want("a level that is none", err, fault.InvalidInput)
}

func TestCounterMustRise(t *testing.T) {
	h := newHarness(t)
	card := h.card(1)
	clone := h.card(1) // the same keys, and a counter that starts again
	for range 2 {
		_, err := h.authenticate(card)
		h.must(err)
	}
	_, err := h.authenticate(clone)
	h.want("a clone", err, fault.CardCounter)
}

func TestCardRanges(t *testing.T) {
	h := newHarness(t)
	card := h.card(7)
	id, a := h.answer(card)
	r := h.req()
	r.Caller.Cards = kms.CardRange{From: [10]byte{9: 1}, To: [10]byte{9: 6}}
	_, err := h.service.Authenticate(h.ctx, r, kms.AuthenticateInput{Issuer: h.issuer, Channel: id, Response: a})
	h.want("a card outside the range", err, fault.Forbidden)
	_, err = h.authenticate(card)
	h.must(err)
	_, err = h.service.Card(h.ctx, r, h.issuer, "00000000000000000007")
	h.want("its row", err, fault.NotFound)
}

// TestPermissions compares every operation × role with a matrix written down
// here, by asking for something that does not exist: the answer to who may is
// not found, to who may not forbidden.
func TestPermissions(t *testing.T) {
	h := newHarness(t)
	u, o, a, op := kms.UpdateServer, kms.SecurityOfficer, kms.Auditor, kms.Operator
	calls := map[kms.Operation]func(kms.Request) error{
		kms.ChannelOpen: func(r kms.Request) error {
			_, err := h.service.OpenChannel(h.ctx, r, kms.OpenChannelInput{Issuer: h.issuer, Key: "none"})
			return err
		},
		kms.ChannelAuthenticate: func(r kms.Request) error {
			_, err := h.service.Authenticate(h.ctx, r, kms.AuthenticateInput{Issuer: h.issuer})
			return err
		},
		kms.ScriptPrepare: func(r kms.Request) error {
			_, err := h.service.PrepareScripts(h.ctx, r, kms.PrepareInput{Issuer: h.issuer, Key: "none", KVN: 1, Commands: [][]byte{{0, 0xA4, 4, 0}}, Cards: make([]kms.CardAt, 1)})
			return err
		},
		kms.EMVVerify: func(r kms.Request) error {
			r.Caller.Cards = kms.AllCards()
			return h.service.VerifyARQC(h.ctx, r, mchip(h.issuer))
		},
		kms.EMVAnswer: func(r kms.Request) error {
			r.Caller.Cards = kms.AllCards()
			_, err := h.service.ARPC(h.ctx, r, kms.ARPCInput{Transaction: mchip(h.issuer)})
			return err
		},
		kms.EMVScriptOp: func(r kms.Request) error {
			r.Caller.Cards = kms.AllCards()
			_, err := h.service.SecureEMVScript(h.ctx, r, kms.EMVScriptInput{ARPCInput: kms.ARPCInput{Transaction: mchip(h.issuer)}})
			return err
		},
		kms.OTAPacketOp: func(r kms.Request) error {
			r.Caller.Cards = kms.AllCards()
			_, err := h.service.SecureOTAPacket(h.ctx, r, kms.OTAPacketInput{OTACard: kms.OTACard{Issuer: h.issuer}})
			return err
		},
		kms.OTAVerify: func(r kms.Request) error {
			r.Caller.Cards = kms.AllCards()
			_, err := h.service.VerifyOTAResponse(h.ctx, r, kms.OTAResponseInput{OTACard: kms.OTACard{Issuer: h.issuer}})
			return err
		},
		kms.ChannelWrap:   h.script((*kms.Service).Wrap),
		kms.ChannelUnwrap: h.script((*kms.Service).Unwrap),
		kms.ChannelClose:  func(r kms.Request) error { return h.service.CloseChannel(h.ctx, r, h.issuer, "none") },
		kms.ImageRegister: func(r kms.Request) error {
			_, err := h.service.RegisterImage(h.ctx, r, kms.RegisterImageInput{Issuer: h.issuer})
			return err
		},
		kms.ImageContent: func(r kms.Request) error {
			_, err := h.service.UploadImage(h.ctx, r, h.issuer, "none", nil)
			return err
		},
		kms.ImageRead: func(r kms.Request) error { _, err := h.service.Image(h.ctx, r, h.issuer, "none"); return err },
		kms.PackageCreate: func(r kms.Request) error {
			_, err := h.service.CreatePackage(h.ctx, r, kms.CreatePackageInput{Issuer: h.issuer})
			return err
		},
		kms.PackageScript: func(r kms.Request) error {
			_, err := h.service.PackageScript(h.ctx, r, kms.PackageScriptInput{Issuer: h.issuer})
			return err
		},
		kms.PackageChunks: func(r kms.Request) error { return h.service.StreamChunks(h.ctx, r, h.issuer, "none", 1, nil) },
		kms.PackageConfirm: func(r kms.Request) error {
			_, err := h.service.ConfirmPackage(h.ctx, r, kms.ConfirmPackageInput{Issuer: h.issuer})
			return err
		},
		kms.PackageRead: func(r kms.Request) error { _, err := h.service.Package(h.ctx, r, h.issuer, "none"); return err },
		kms.CardRead:    func(r kms.Request) error { _, err := h.service.Card(h.ctx, r, h.issuer, "none"); return err },
		kms.ProfileRead: func(r kms.Request) error { _, err := h.service.Profiles(h.ctx, r, h.issuer); return err },
		kms.KeyRead:     func(r kms.Request) error { _, err := h.service.Keys(h.ctx, r, h.issuer); return err },
		kms.AuditRead:   func(r kms.Request) error { _, err := h.service.AuditEntries(h.ctx, r, 0, 1); return err },
		kms.ReportRead: func(r kms.Request) error {
			_, err := h.service.Report(h.ctx, r, kms.ReportInput{Name: report.Inventory})
			return err
		},
	}
	h.enrol("one", "bob", "cyd")
	decide := func(d approval.Decision) func(kms.Request) error {
		return func(r kms.Request) error {
			_, err := h.service.Decide(h.ctx, r, kms.DecideInput{ID: "none", Decision: d})
			return err
		}
	}
	calls[kms.ApprovalPropose] = func(r kms.Request) error {
		_, err := h.service.Propose(h.ctx, r, kms.ProposeInput{
			Issuer: h.issuer, Operation: "card.release", Object: "issuers/" + h.issuer + "/cards/00000000000000000000", Life: time.Hour,
		})
		return err
	}
	calls[kms.ApprovalApprove], calls[kms.ApprovalReject] = decide(approval.Approve), decide(approval.Reject)
	calls[kms.ApprovalExecute] = func(r kms.Request) error { _, err := h.service.Execute(h.ctx, r, "none"); return err }
	calls[kms.ApprovalRead] = func(r kms.Request) error { _, err := h.service.Proposal(h.ctx, r, "none"); return err }
	calls[kms.ClientSuspend] = func(r kms.Request) error {
		_, err := h.service.SuspendClient(h.ctx, r, "spiffe://test/role/operator/nobody")
		return err
	}
	calls[kms.ClientRead] = func(r kms.Request) error { _, err := h.service.Suspensions(h.ctx, r); return err }
	calls[kms.SystemHalt] = func(r kms.Request) error { return h.service.Halt(h.ctx, r) }
	calls[kms.CardImport] = func(r kms.Request) error {
		_, err := h.service.ImportCards(h.ctx, r, h.issuer, "none", nil)
		return err
	}
	calls[kms.KeysChange] = func(r kms.Request) error { _, err := h.service.ChangeKeys(h.ctx, r, h.issuer, "none"); return err }
	calls[kms.KeysConfirm] = func(r kms.Request) error {
		_, err := h.service.ConfirmKeys(h.ctx, r, h.issuer, "none", nil)
		return err
	}
	calls[kms.KeysRetire] = func(r kms.Request) error { _, err := h.service.RetireKeys(h.ctx, r, h.issuer, "none", 1); return err }
	calls[kms.KeySuspend] = func(r kms.Request) error { _, err := h.service.SuspendKey(h.ctx, r, h.issuer, "none", 1); return err }
	ofAll := []kms.Operation{kms.SystemHalt, kms.ClientSuspend, kms.ClientRead, kms.AuditRead, kms.ReportRead} // one log for all issuers
	want := map[kms.Operation][]kms.Role{
		kms.ChannelOpen: {u}, kms.ChannelAuthenticate: {u}, kms.ChannelWrap: {u}, kms.ChannelUnwrap: {u}, kms.ChannelClose: {u},
		kms.ImageRegister: {u, o}, kms.ImageContent: {u, o}, kms.ImageRead: {u, o, a},
		kms.PackageCreate: {u}, kms.PackageScript: {u}, kms.PackageChunks: {u}, kms.PackageConfirm: {u}, kms.PackageRead: {u, a},
		kms.CardRead: {u, o, a}, kms.KeyRead: {o, a}, kms.ProfileRead: {u, o, a}, kms.AuditRead: {a}, kms.ReportRead: {o, a},
		kms.ApprovalPropose: {o}, kms.ApprovalApprove: {o}, kms.ApprovalReject: {o}, kms.ApprovalExecute: {o}, kms.ApprovalRead: {o, a},
		kms.SystemHalt: {o, op}, kms.ClientSuspend: {o}, kms.ClientRead: {o, a},
		kms.CardImport: {o}, kms.KeysChange: {u}, kms.KeysConfirm: {u}, kms.KeysRetire: {u}, kms.KeySuspend: {o}, kms.ScriptPrepare: {u}, kms.EMVVerify: {u}, kms.EMVAnswer: {u}, kms.EMVScriptOp: {u},
		kms.OTAPacketOp: {u}, kms.OTAVerify: {u},
	}
	for _, operation := range kms.Operations() {
		call := calls[operation]
		if call == nil {
			t.Errorf("%s is not tried", operation)
			continue
		}
		for _, role := range []kms.Role{u, o, a, op, "nobody"} {
			r := h.as(role)
			if slices.Contains(ofAll, operation) {
				r.Caller.Issuer = ""
			}
			err := call(r)
			forbidden := fault.CodeOf(err) == fault.Forbidden
			if forbidden == slices.Contains(want[operation], role) {
				t.Errorf("%s by %q: %v", operation, role, err)
			}
			foreign := h.as(role)
			foreign.Caller.Issuer = "issuer-of-others"
			if err := call(foreign); slices.Contains(ofAll, operation) && fault.CodeOf(err) != fault.Forbidden ||
				!slices.Contains(ofAll, operation) && !forbidden && fault.CodeOf(err) != fault.NotFound {
				t.Errorf("%s by %q of another issuer: %v", operation, role, err)
			}
		}
	}
}

func (h *harness) script(f func(*kms.Service, context.Context, kms.Request, kms.ScriptInput) ([][]byte, error)) func(kms.Request) error {
	return func(r kms.Request) error {
		_, err := f(h.service, h.ctx, r, kms.ScriptInput{Issuer: h.issuer, Channel: "none", APDUs: [][]byte{{0x80, 0xCA, 0, 0x66}}})
		return err
	}
}

func TestWrapIsRepeatedUnderItsIdempotencyKey(t *testing.T) {
	h := newHarness(t)
	card := h.card(1)
	id, err := h.authenticate(card)
	h.must(err)
	in := kms.ScriptInput{Issuer: h.issuer, Channel: id, APDUs: [][]byte{unhex("80CA006600")}}
	r := h.req()
	r.Idempotency = "once"
	first, err := h.service.Wrap(h.ctx, r, in)
	h.must(err)
	again, err := h.service.Wrap(h.ctx, r, in)
	h.must(err)
	if !bytes.Equal(first[0], again[0]) {
		t.Error("the same request was wrapped twice")
	}
	in.APDUs = [][]byte{unhex("80CA00E000")}
	_, err = h.service.Wrap(h.ctx, r, in)
	h.want("another request under the key", err, fault.IdempotencyMismatch)
	answer, err := card.Transmit(first[0])
	h.must(err)
	in.APDUs = [][]byte{answer}
	plain, err := h.service.Unwrap(h.ctx, h.req(), in)
	h.must(err)
	if !bytes.HasSuffix(plain[0], []byte{0x90, 0}) {
		t.Errorf("the card answered %X", plain[0])
	}
	_, err = h.service.Unwrap(h.ctx, h.req(), in)
	h.want("a response too many", err, fault.ChannelState)
}

func TestAChangedResponseEndsTheChannel(t *testing.T) {
	h := newHarness(t)
	card := h.card(1)
	id, err := h.authenticate(card)
	h.must(err)
	answer, err := h.ask(card, id, plain("80CA006600"))
	h.must(err)
	answer[0] ^= 1
	in := kms.ScriptInput{Issuer: h.issuer, Channel: id, APDUs: [][]byte{answer}}
	_, err = h.service.Unwrap(h.ctx, h.req(), in)
	h.want("a changed response", err, fault.ProofFailed)
	answer[0] ^= 1
	_, err = h.service.Unwrap(h.ctx, h.req(), in)
	h.want("the right one afterwards", err, fault.ChannelClosed)
}

// TestTwoWayFailures fails every write of an authentication and a wrap once
// before and once after its effect. Nothing usable may leave without its entry;
// when the answer was lost the ledger finds out, and a card is never left with
// a success that the log does not know.
func TestTwoWayFailures(t *testing.T) {
	for _, mode := range []storetest.Failure{storetest.NotApplied, storetest.AnswerLost} {
		for at := 1; at <= 3; at++ {
			var faulty *storetest.Faulty
			h := newHarness(t, func(h *harness) {
				db, err := sqlite.Open(h.ctx, h.path)
				h.must(err)
				faulty = storetest.NewFaulty(db)
				h.db = faulty
			})
			card := h.card(1)
			before := h.ledger.Size()
			faulty.Fail(at, mode)
			got := h.authenticateAndWrap(card)
			entries := h.ledger.Size() - before
			if fault.CodeOf(got) == fault.OK && entries != 3 {
				t.Errorf("%v at write %d: a success with %d entries", mode, at, entries)
			}
			if mode == storetest.NotApplied && fault.CodeOf(got) != fault.AuditUnavailable {
				t.Errorf("write %d not applied: %v", at, got)
			}
			_, err := h.authenticate(card)
			h.must(err) // and the next one works, without a restart
		}
	}
}

func (h *harness) authenticateAndWrap(card *cardsim.Card) error {
	id, err := h.authenticate(card)
	if err != nil {
		return err
	}
	_, err = h.ask(card, id, plain("80CA006600"))
	return err
}

// TestNoSecretInTheDatabase looks for every key that the test knows, in every
// form, in all that the store wrote.
func TestNoSecretInTheDatabase(t *testing.T) {
	h := newHarness(t)
	h.image("cos", 1, random(2000))
	card := h.card(1)
	p, err := h.download(card, "cos")
	h.must(err)
	_, err = h.confirm(card, p.ID)
	h.must(err)
	secrets := [][]byte{h.master, h.updateMaster}
	set, err := cardsim.Personalise(h.master, [10]byte{9: 1}, kvn, 16)
	h.must(err)
	upd, err := cardsim.PersonaliseUpdate(h.updateMaster, [10]byte{9: 1}, updKVN, 16)
	h.must(err)
	secrets = append(secrets, set.ENC, set.MAC, set.DEK, upd.Value)
	files, err := filepath.Glob(h.path + "*")
	h.must(err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		h.must(err)
		for i, s := range secrets {
			for _, form := range []string{string(s), hex.EncodeToString(s), strings.ToUpper(hex.EncodeToString(s)), base64.StdEncoding.EncodeToString(s)} {
				if bytes.Contains(b, []byte(form)) {
					t.Errorf("%s holds secret %d", filepath.Base(f), i)
				}
			}
		}
	}
	if len(files) == 0 {
		t.Error("no database was found")
	}
	// The log speaks of cards by pseudonym only.
	entries, err := h.ledger.Leaves(h.ctx, 0, 1000)
	h.must(err)
	for _, e := range entries {
		if bytes.Contains(e, []byte("00000000000000000001")) {
			t.Errorf("an entry names the card:\n%s", e)
		}
	}
	var rows []store.Row
	h.must(h.db.View(h.ctx, func(tx store.Tx) (err error) { rows, err = tx.List("package", h.issuer, "", 10); return err }))
	if len(rows) != 1 {
		t.Errorf("%d packages are stored", len(rows))
	}
}
