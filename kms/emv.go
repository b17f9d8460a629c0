package kms

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"cardkms/derive"
	"cardkms/derive/emv"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/store"
)

// ScriptCommandsMax is the greatest number of commands in one issuer script.
const ScriptCommandsMax = 16

// Transaction is what a card and its terminal said in one EMV transaction.
type Transaction struct {
	Issuer  string
	Profile string // of package derive/emv
	Key     string // name of the emv-ac key
	DKI     byte   // derivation key index: which version of the keys the card carries
	Card    emv.Card
	emv.Input
	Data []byte // what the cryptogram covers, in the scheme's order
}

// emvCard is what the service remembers of one EMV card under one emv-ac key. Its
// row is named by a MAC over PAN and sequence number, which stand nowhere in it.
type emvCard struct {
	ATC  uint16      `json:"atc"`            // the highest that was proved
	ARQC string      `json:"arqc"`           // of that ATC
	Done []Operation `json:"done,omitempty"` // with that cryptogram
	// Given are fingerprints of what was answered to these operations, where the request had
	// an Idempotency-Key.
	Given map[Operation]string `json:"given,omitempty"`
	Seen  time.Time            `json:"seen"` // last successful proof
	Nonce string               `json:"nonce"`
}

// proved books one proof. An ATC counts up, so a lower one is a replay, and so is a
// second operation of one kind with one cryptogram, unless it is the same request with the
// same answer again, which changes nothing.
func (c *emvCard) proved(op Operation, in emv.Input, given string, proof error, now time.Time) (again bool, err error) {
	arqc := hex.EncodeToString(in.ARQC)
	known := !c.Seen.IsZero()
	same := known && in.ATC == c.ATC && arqc == c.ARQC
	switch {
	case proof != nil:
		return false, proof
	case same && given != "" && given == c.Given[op]:
		return true, nil
	case known && in.ATC <= c.ATC && !same || same && slices.Contains(c.Done, op):
		return false, fault.New(fault.CardCounter, "the card's transaction counter did not rise")
	case !same:
		c.Done, c.Given = nil, nil
	}
	c.ATC, c.ARQC, c.Done, c.Seen = in.ATC, arqc, append(c.Done, op), now
	if given != "" {
		c.Given = with(c.Given, op, given)
	}
	return false, nil
}

// given returns the fingerprint of a request and its answer, empty where no Idempotency-Key
// names the request: CMAC under Config.Registry over "cardkms-given/1" 0A and the SHA-256 of
// caller, key and answer, each behind its length. The answer, which is computed anew, stands
// for what was asked. It is a MAC because a caller may put anything into the key, a card's
// number too.
func (s *Service) given(ctx context.Context, r Request, answer ...[]byte) (string, error) {
	if r.Idempotency == "" {
		return "", nil
	}
	d := digestOf(append([][]byte{[]byte(r.Caller.ID), []byte(r.Idempotency)}, answer...)...)
	mac, err := s.cfg.Token.MAC(ctx, s.cfg.Registry, append([]byte("cardkms-given/1\n"), d[:]...))
	if err != nil {
		return "", fmt.Errorf("naming a request: %w", err)
	}
	return hex.EncodeToString(mac), nil
}

// emvName is the row of a card: see cardname.go, with what its master key follows from
// in the place of key diversification data. So however a PAN is written, a card that
// has the key has the row; nothing opens it again.
func (s *Service) emvName(ctx context.Context, t transaction) (store.Ref, error) {
	return s.named(ctx, kindEMVCard, t.Issuer, fmt.Appendf(nil, "cardkms-emv-card-name/1\n%s\x00%s\x00%s\x00%X", t.Issuer, t.Key, t.profile.Option, t.ac.Follows()))
}

// transaction is a Transaction whose keys were found.
type transaction struct {
	Transaction
	profile emv.Profile
	token   derive.TDEAToken
	ac      emv.Master
	mac     emv.MACKey // of the cryptogram
	arpc    emv.MACKey
}

// begin checks the caller of an EMV operation and finds the keys. A caller whose
// cards are a range of key diversification data has no EMV card.
func (s *Service) begin(ctx context.Context, r Request, op Operation, in Transaction) (e event, t transaction, err error) {
	if e, err = s.start(ctx, r, op, in.Issuer, "keys/"+printable(in.Key)); err != nil {
		return e, t, err
	}
	t.Transaction = in
	if r.Caller.Cards != AllCards() {
		return e, t, s.refuse(ctx, e, fault.New(fault.Forbidden, "EMV cards are in no card range"))
	}
	if t.profile, err = emv.ProfileOf(in.Profile); err == nil && t.profile.Experimental() {
		err = s.experimental("this profile")
	}
	if err != nil {
		return e, t, s.refuse(ctx, e, err)
	}
	var ok bool
	if t.token, ok = s.cfg.Token.(derive.TDEAToken); !ok {
		return e, t, s.refuse(ctx, e, errNoRetail)
	}
	v, m, err := s.emvMaster(ctx, t, in.Key, key.EMVAC)
	if err == nil {
		t.ac, e.card = m, m.Follows()
		err = t.profile.Binds(in.Input, in.Data)
	}
	if err == nil {
		err = t.derive(m)
	}
	e.key, e.algorithm = v.ID.String(), algorithmOf(v)
	e.detail = map[string]string{"profile": in.Profile, "atc": fmt.Sprintf("%04X", in.ATC)}
	if err != nil {
		e.key = ""
		return e, t, s.refuse(ctx, e, err)
	}
	return e, t, nil
}

// derive refers to the keys of the cryptogram and of its answer.
func (t *transaction) derive(m emv.Master) (err error) {
	if t.mac, err = m.MAC(t.profile.Cryptogram, t.Input, false); err == nil {
		t.arpc, err = t.profile.ARPCKey(m, t.Input)
	}
	return err
}

// experimental refuses what only cards in software agree with, unless the configuration
// wants it.
func (s *Service) experimental(what string) error {
	if s.cfg.Experimental {
		return nil
	}
	return fault.New(fault.NotFound, what+" is experimental, and the configuration does not say experimental: true")
}

// emvMaster refers to the ICC master key of a card under one of the issuer's keys.
func (s *Service) emvMaster(ctx context.Context, t transaction, name string, u key.Usage) (key.Version, emv.Master, error) {
	v, err := s.version(ctx, t.Issuer, name, u, t.DKI, key.Protect)
	if err != nil {
		return key.Version{}, emv.Master{}, err
	}
	if v.Diversification != emvDiversification(t.profile.Option) {
		return v, emv.Master{}, fault.New(fault.KeyState, "the key derives card keys in another way than the profile")
	}
	m, err := cardkey.EMV(v, t.profile.Option, t.Card)
	return v, m, err
}

// conclude books the proof of a transaction with its entry: no answer that was computed
// leaves before.
func (s *Service) conclude(ctx context.Context, e *event, t transaction, answer [][]byte, proof error) error {
	ref, err := s.emvName(ctx, t)
	if err != nil {
		return err
	}
	var request string // of a proof that failed nothing is given again
	if proof == nil {
		if request, err = s.given(ctx, e.req, answer...); err != nil {
			return s.refuse(ctx, *e, err)
		}
	}
	if proof == nil && t.ATC >= counterAlarm {
		e.detail["counter"] = "ending"
		s.cfg.Logger.Warn("the transaction counter of an EMV card nears its end", "key", e.key)
	}
	now := s.cfg.Now().UTC()
	return s.log(ctx, e, func(tx store.Rows) error {
		var c emvCard
		n, err := get(tx, ref, &c)
		if err != nil {
			return err
		}
		again, err := c.proved(e.op, t.Input, request, proof, now)
		delete(e.detail, "again") // of a transaction that did not happen
		if again {
			e.detail["again"] = "true"
		}
		if e.outcome = err; again || err != nil {
			return nil // nobody makes rows of cards that prove nothing
		}
		c.Nonce = newID()
		return put(tx, ref, n, c)
	})
}

// verify proves a transaction's cryptogram. What is no answer of the proof is refused.
func (s *Service) verify(ctx context.Context, e event, t transaction) (proof, err error) {
	proof = emv.Verify(ctx, t.token, t.mac, t.profile.Padding, t.Data, t.ARQC)
	if proof != nil && fault.CodeOf(proof) != fault.ProofFailed {
		return nil, s.refuse(ctx, e, proof)
	}
	return proof, nil
}

// release destroys the keys of a transaction, and those that were used beside.
func (t transaction) release(more ...*derive.Key) {
	t.token.Release(slices.Concat(more, t.mac.Keys(), t.arpc.Keys(), []*derive.Key{t.ac.Key()})...)
}

// VerifyARQC verifies the cryptogram of a transaction: the ARQC, or the TC or AAC of
// one that stayed offline. It takes one cryptogram for each transaction counter, once;
// a counter that does not rise is fault.CardCounter, so what comes late is refused, and
// so is the second cryptogram of a transaction. Here, as in ARPC and SecureEMVScript, the
// same request under its Idempotency-Key has its answer again, at whichever node, until the
// counter rises.
func (s *Service) VerifyARQC(ctx context.Context, r Request, in Transaction) error {
	e, t, err := s.begin(ctx, r, EMVVerify, in)
	if err != nil {
		return err
	}
	defer t.release()
	proof, err := s.verify(ctx, e, t)
	if err != nil {
		return err
	}
	return s.conclude(ctx, &e, t, nil, proof)
}

// ARPCInput is a transaction with the issuer's decision.
type ARPCInput struct {
	Transaction
	Code        []byte // ARC, 2 bytes, under method 1; CSU, 4 bytes, under method 2
	Proprietary []byte // method 2 only, at most 8 bytes
}

// ARPC verifies the cryptogram of a transaction and answers it.
func (s *Service) ARPC(ctx context.Context, r Request, in ARPCInput) (arpc []byte, err error) {
	e, t, err := s.begin(ctx, r, EMVAnswer, in.Transaction)
	if err != nil {
		return nil, err
	}
	defer t.release()
	arpc, _, err = s.answer(ctx, &e, t, in, func() ([][]byte, error) { return nil, nil })
	return arpc, err
}

// answer verifies, computes the ARPC and the script's commands, and concludes.
func (s *Service) answer(ctx context.Context, e *event, t transaction, in ARPCInput, script func() ([][]byte, error)) (arpc []byte, commands [][]byte, err error) {
	proof, err := s.verify(ctx, *e, t)
	if err != nil {
		return nil, nil, err
	}
	if proof == nil {
		if arpc, err = t.profile.Answer(ctx, t.token, t.ac, t.Input, in.Code, in.Proprietary); err == nil {
			commands, err = script()
		}
		if err != nil {
			return nil, nil, s.refuse(ctx, *e, err)
		}
	}
	if err := s.conclude(ctx, e, t, append([][]byte{arpc}, commands...), proof); err != nil {
		return nil, nil, err
	}
	return arpc, commands, nil
}

// EMVScriptInput asks for an issuer script.
type EMVScriptInput struct {
	ARPCInput
	SMI, SMC string // names of the emv-smi and emv-smc keys
	Commands []emv.Command
}

// EMVScript is the answer to a transaction with a script for the card.
type EMVScript struct {
	ARPC     []byte
	Commands [][]byte // secured, in the order of sending
}

// SecureEMVScript verifies the cryptogram of a transaction, answers it and secures a
// script of issuer commands for the card: from ARQC to secured script in one call.
func (s *Service) SecureEMVScript(ctx context.Context, r Request, in EMVScriptInput) (out EMVScript, err error) {
	e, t, err := s.begin(ctx, r, EMVScriptOp, in.Transaction)
	if err != nil {
		return out, err
	}
	if n := len(in.Commands); n < 1 || n > ScriptCommandsMax {
		return out, s.refuse(ctx, e, fault.New(fault.TooLarge, fmt.Sprintf("an issuer script has 1 to %d commands", ScriptCommandsMax)))
	}
	var used []*derive.Key
	defer func() { t.release(used...) }()
	out.ARPC, out.Commands, err = s.answer(ctx, &e, t, in.ARPCInput, func() (commands [][]byte, err error) {
		commands, used, err = s.script(ctx, t, in)
		e.digest, e.detail["apdus"] = digestOf(commands...), fmt.Sprint(len(commands))
		return commands, err
	})
	return out, err
}

// script secures the commands and returns the keys that it used.
func (s *Service) script(ctx context.Context, t transaction, in EMVScriptInput) (out [][]byte, used []*derive.Key, err error) {
	_, smi, err := s.emvMaster(ctx, t, in.SMI, key.EMVSMI)
	if err != nil {
		return nil, nil, err
	}
	_, smc, err := s.emvMaster(ctx, t, in.SMC, key.EMVSMC)
	if err != nil {
		return nil, nil, err
	}
	out, used, err = t.profile.SecureScript(ctx, t.token, emv.Script{SMI: smi, SMC: smc, Input: t.Input, Commands: in.Commands})
	return out, append(used, smi.Key(), smc.Key()), err
}
