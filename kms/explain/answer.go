package explain

import (
	"context"
	"encoding/hex"
	"slices"

	"cardkms/derive"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/profile"
)

// answer is a card's answer to INITIALIZE UPDATE.
type answer struct {
	key     string
	host    []byte
	profile profile.Profile
	said    scp03.Answer
	old     scp02.Answer // instead of it under SCP02
}

// Answer reads a question about the answer to INITIALIZE UPDATE of the card with this key
// diversification data, whose profile the caller looked up by the parameter profile.
// What is no such question is fault.InvalidInput.
func Answer(params map[string]string, kdd []byte, of profile.Profile) (Question, error) {
	return answerOf(params, kdd, of)
}

// answerOf is Answer. A question about a session has sha256 beside, the digest of its
// transcript.
func answerOf(params map[string]string, kdd []byte, of profile.Profile) (q answer, err error) {
	bad := fault.New(fault.InvalidInput, "an answer is explained by key, host (the host challenge) and answer (the card's answer behind its 10 bytes of key diversification data), and maybe profile; MACs also by sha256 and a transcript as the document")
	if !only(params, "key", "host", "answer", "profile", "sha256") {
		return q, bad
	}
	if of.Agreed() {
		return q, fault.New(fault.InvalidInput, "answers of cards of SCP11 are not explained: their keys follow from no master")
	}
	q = answer{key: params["key"], profile: of}
	rest, err := hex.DecodeString(params["answer"])
	if err != nil {
		return q, bad
	}
	if q.host, err = hex.DecodeString(params["host"]); err != nil || len(q.host) != int(scp03.S8) && len(q.host) != int(scp03.S16) {
		return q, bad
	}
	whole := append(slices.Clone(kdd), rest...)
	if of.Legacy() {
		q.old, err = scp02.ParseAnswer(whole)
		q.said.KDD, q.said.KVN = q.old.KDD, q.old.KVN
		return q, err
	}
	q.said, err = scp03.ParseAnswer(whole, scp03.Mode(len(q.host)))
	return q, err
}

// Search implements Question.
func (q answer) Search(ctx context.Context, t derive.Token, versions []key.Version) (Explanation, error) {
	try := q.try03
	if q.profile.Legacy() {
		try = q.try02
	}
	return first(q.hypotheses(versions), func(h hypothesis) (bool, []string, error) { return try(ctx, t, h) })
}
