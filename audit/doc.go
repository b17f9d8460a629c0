// Package audit keeps the form of the audit log: entries, the Merkle tree over
// them, signed checkpoints, proofs, and the verification of all of these.
//
// It follows [RFC 6962] Certificate Transparency, Section 2.1, for the tree, by
// way of golang.org/x/mod/sumdb/tlog; [tlog-checkpoint] and [signed-note] of
// C2SP (c2sp.org) for checkpoints, by way of golang.org/x/mod/sumdb/note;
// [tlog-cosignature] and [tlog-proof] of C2SP for what witnesses add and for what
// is handed to somebody without the log. VERIFY.md shows the same verification
// with openssl, sha256sum and awk.
//
// It leaves out where entries are stored, who may write them and what they
// mean: operations, roles and outcomes are words to it. It makes no call that
// waits, reads no clock but a cosigner's, and imports nothing of this product, so that an auditor
// can build a verifier from this package alone and run it offline.
//
// It promises that an entry has exactly one encoding, that the parser accepts
// nothing else, and that no field can hold a line break or any other character
// outside its alphabet, so that no caller can forge a line. Everything here may
// be used by several goroutines at once, except an Edge.
//
// The caller must give each entry the next sequence number and must make an
// entry durable before anything that it describes leaves the process.
//
// # The encoding of an entry
//
// An entry is ASCII text of at most EntryBytesMax bytes. It starts with the line
// "cardkms-audit-entry/1", followed by the lines below in this order, each made
// of a name, one space (20), a value, and one line feed (0A). Every line is
// present. The value "-" stands for none; where it is not allowed the line says
// "always".
//
//	sequence   always: the number of the leaf, decimal, from 0, no leading zero
//	time       always: UTC, 2006-01-02T15:04:05.000000000Z, 30 characters
//	actor      always: "service", "anonymous" or a SPIFFE URI: "spiffe://", a trust
//	           domain of a-z 0-9 . - _, then segments "/" A-Z a-z 0-9 . - _
//	origin     where the request came from: an IP address, made of 0-9 a-f . :, or
//	           "console" for somebody at the machine ([PCI DSS] 4.0.1, Requirement
//	           10.2.2, origination of event)
//	role       the role in which the actor acted: a-z, 0-9, hyphens
//	issuer     the issuer (tenant): a-z, 0-9, hyphens
//	operation  always: words of a-z 0-9 - joined by dots, e.g. channel.authenticate
//	object     resource name: segments A-Z a-z 0-9 . - _ joined by "/"
//	key        resource name of the key version that was used
//	request    id of the request: A-Z a-z 0-9 . - _
//	digest     SHA-256 of the request, 64 lower-case hex digits
//	decision   always: "allowed" or "refused"
//	outcome    always: a code, a-z 0-9 _, e.g. ok
//	intent     sequence of the intent that this entry closes, decimal
//	algorithm  "approved" or "legacy"
//	card       pseudonym of the card, lower-case hex, an even number of digits
//	previous   digest of what the operation changed before it, 64 lower-case hex
//	           digits: the content digest of the row (package statemap), or SHA-256
//	           over those of several rows in the order of their names
//	state      the same after it
//	detail     key=value pairs, one space between two, keys ascending and unique;
//	           keys a-z 0-9 _, values A-Z a-z 0-9 . - _ : / +
//
// Names start with a letter. A digest of 32 zero bytes is none and is written "-".
//
// The operation that the example of this package encodes, byte for byte (indented
// here by one tab):
//
//	cardkms-audit-entry/1
//	sequence 41
//	time 2026-11-12T09:30:00.000123000Z
//	actor spiffe://example.com/update-server/7
//	origin 192.0.2.17
//	role update-server
//	issuer acme
//	operation channel.authenticate
//	object channels/n1-00c4
//	key issuers/acme/keys/isd/versions/3
//	request 4bf92f3577b34da6
//	digest ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
//	decision allowed
//	outcome ok
//	intent -
//	algorithm approved
//	card 6d1c0de5a1f00d42
//	previous -
//	state -
//	detail apdus=1 level=33
//
// The leaf hash is SHA-256 of one byte 00 and the encoding ([RFC 6962], Section
// 2.1); for the entry above it is shown by the example of [LeafHash].
//
// # The encoding of a checkpoint
//
// A checkpoint is a note whose text is: the origin, one line feed; the number of
// entries, decimal, one line feed; the root hash in standard base64, one line
// feed; then any number of extension lines, each at least one character and one
// line feed ([tlog-checkpoint]). The signatures follow after an empty line
// ([signed-note]): type 01 is Ed25519, type 02 is ECDSA over P-256 and SHA-256
// with the signature in ASN.1 DER and the key id SHA-256(SPKI)[:4].
//
// A checkpoint of a log that holds the entry above alone, signed with the Ed25519
// key whose seed is 32 zero bytes:
//
//	kms.example.com/audit
//	1
//	0Cs6ZbYN5Ogjevg7G/M/ye8f9sCEfsZXgtEQv+fS+1s=
//
//	— kms.example.com/audit NkeP4uCygwOa05rFX0WTxuWkTiXIEWEztyMY5915WSKM5ILl7OvWPE4TDnc0aaTDcTFaZxJYP4/767oIlD1IhDMMTQc=
//
// A witness adds a signature line of type 04: key id SHA-256(name | 0A | 04 |
// key)[:4]; then 8 bytes, big-endian, the time in seconds since 1970; then the
// Ed25519 signature of the lines "cosignature/v1" and "time " and the seconds,
// decimal, and of the text of the note ([tlog-cosignature]). The example of
// [NewCosigner] shows one.
//
// # The encoding of a proof
//
// A proof is the line "c2sp.org/tlog-proof@v1"; optionally the line "extra " and
// base64 of data that nobody signed; the line "index " and the sequence of the
// entry, decimal; a line of base64 for each hash of the audit path, from the leaf's
// sibling upwards ([RFC 6962], Section 2.1.1); an empty line; and a checkpoint
// ([tlog-proof]). The entry itself is in a file of its own. The example of
// [Proof.Format] shows one.
package audit
