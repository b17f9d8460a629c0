package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"iter"

	"cardkms/audit"
	"cardkms/kms/approval"
)

// judge has a Replay look at the entries that a verification walks.
type judge struct {
	replay approval.Replay
	first  []approval.Officer // whom dual control began with
	k      int                // and how many of them approved, at first
}

// add takes the next entry. One that does not parse is the verification's to
// report.
func (j *judge) add(encoding []byte) {
	_, rest, _ := bytes.Cut(encoding, []byte("\noperation "))
	operation, _, _ := bytes.Cut(rest, []byte("\n"))
	if !approval.Concerns(string(operation)) {
		return
	}
	e, err := audit.ParseEntry(encoding)
	if err != nil {
		return
	}
	r := approval.Record{
		Sequence: e.Sequence, Time: e.Time, Actor: e.Actor, Issuer: e.Issuer, Operation: e.Operation,
		Object: e.Object, Outcome: e.Outcome, Detail: e.Detail,
	}
	if j.first == nil {
		j.first, j.k, _ = approval.FirstOf(r)
	}
	j.replay.Add(r)
}

// fingerprint names a key as "ssh-keygen -l" does: SHA-256 of its encoding in
// [RFC 8709], Section 4.
func fingerprint(k ed25519.PublicKey) string {
	const name = "ssh-ed25519"
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name...)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(k))), k...)
	sum := sha256.Sum256(b)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// watch hands entries on and judges them. Nothing counts before they are verified.
func (j *judge) watch(entries iter.Seq2[[]byte, error]) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for encoding, err := range entries {
			if err == nil {
				j.add(encoding)
			}
			if !yield(encoding, err) {
				return
			}
		}
	}
}

// verdict names every entry whose operation lacks its approvals.
func (j *judge) verdict() error {
	if len(j.replay.Unproven) == 0 {
		return nil
	}
	text := fmt.Sprintf("%d operations lack their approvals", len(j.replay.Unproven))
	for _, u := range j.replay.Unproven {
		text += "\n  " + u.Error()
	}
	return fmt.Errorf("%w: %s", errNotVerified, text)
}
