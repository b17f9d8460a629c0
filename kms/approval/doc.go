// Package approval is dual control: who may approve a proposal, how many must,
// and until when. It is a pure state machine over values: it does no I/O and reads
// no clock, so that the service and an auditor decide by the same code.
//
// A security officer proposes an operation on an object; other officers approve it
// with a signature each, or one of them rejects it; when k of them have approved,
// an officer has it executed. Dual control is that of [SP 800-57] NIST SP 800-57
// Part 1 Revision 5, Section 8.1.5.2.2.2 and of [PCI DSS] v4.0, Requirement 3.7.6:
// no single person can do it. Here that means: k is at least 2, the proposer does
// not count, nobody counts twice, and a changed object makes every approval void.
//
// It leaves out what an operation does, where rows are kept, how an officer's key
// is protected, and who the caller of the service is.
//
// It promises that a proposal has exactly one encoding and that Parse accepts
// nothing else; that Case.Execute succeeds only while at least k approvals verify
// under the keys of k officers who are active at that moment; and that a case that
// was executed, rejected or is over stays so. Values may be used by several
// goroutines at once, except a Replay.
//
// The caller must keep the case in the same transaction as the change that it
// allows, must give the object's present version and the present officers, and
// must take the identity of an officer from an authenticated connection.
//
// # The encoding of a proposal
//
// A proposal is ASCII text of at most ProposalBytesMax bytes: the line
// "cardkms-proposal/1", then the lines below in this order, each made of a name,
// one space (20), a value and one line feed (0A). Every line is present; the value
// "-" stands for none and is allowed where the line says so.
//
//	id         128 random bits, 32 lower-case hex digits
//	issuer     the issuer (tenant): a-z, 0-9, hyphens, at most 63; "-" if it
//	           concerns every issuer
//	operation  words of a-z 0-9 - joined by dots, at most 64 characters
//	object     resource name: segments A-Z a-z 0-9 . - _ joined by "/", at most 256
//	           characters
//	expected   version of the object's row now, decimal, no leading zero; 0 if there
//	           must be none
//	proposer   name of the officer: a-z, then a-z 0-9 . - _, at most 63 characters
//	created    UTC, 2006-01-02T15:04:05Z, 20 characters
//	expires    the same; later than created, by at most seven days
//	params     key=value pairs, one space between two, keys ascending and unique;
//	           keys a-z, then a-z 0-9 _, at most 32 characters; values
//	           A-Z a-z 0-9 . - _ : / +, 1 to 256 characters; at most 16 pairs; or "-"
//
// Names start with a letter. The proposal of the example of this package, byte for
// byte (indented here by one tab):
//
//	cardkms-proposal/1
//	id 4bf92f3577b34da6a3ce929d0e0e4736
//	issuer acme
//	operation card.release
//	object issuers/acme/cards/6d1c0de5a1f00d42
//	expected 7
//	proposer ada
//	created 2026-11-12T09:30:00Z
//	expires 2026-11-13T09:30:00Z
//	params reason=reader-was-broken
//
// # What an officer signs
//
// The Ed25519 signature (RFC 8032) is over three lines: "cardkms-approval/1", the
// decision ("approve" or "reject"), and the SHA-256 digest of the proposal's
// encoding in 64 lower-case hex digits; each ends with one line feed. For the
// proposal above:
//
//	cardkms-approval/1
//	approve
//	0c6f5e79c80fba520cef693a9b80ce57daeb057596cf01fac59cff94a231c19c
//
// The example of [Statement] shows the signature under the key whose seed is 32 zero
// bytes.
//
// # Files that officers sign
//
// The file of a key ceremony and a Restoration are signed offline. Their statements are
// two lines, "cardkms-ceremony/1" or "cardkms-restore/1" and the SHA-256 digest of the
// file in 64 lower-case hex digits; each ends with one line feed. A restoration is ASCII
// text of six lines, a word, a space and a value each; sizes are decimal numbers of
// entries, roots are base64:
//
//	cardkms-restoration/1
//	log example.org/audit
//	from 1204 AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
//	to 1198 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=
//	created 2026-11-12T09:30:00Z
//	reason the disk died; backup of 9:00
//
// "from" is the newest checkpoint outside the database, "to" the log that goes on.
package approval
