// Package explain searches, inside a token, for what would explain a card's proof that did
// not verify: it tries what else could have computed it, and names the options in which
// that differs from what a service expects. The search is over lists in this package and
// nothing that a caller chooses, and what it finds are names of options, never a value: it
// tells whoever asks one of a few hundred words about one answer, of which a card gives as
// many as one likes to anybody.
//
// # Questions
//
// A question is what officers have of the card, as parameters of a proposal: names as they
// are, everything else in hexadecimal. There are three kinds, and no other parameters:
//
//	Answer      key, host, answer, maybe profile: an answer to INITIALIZE UPDATE
//	Session     the same and sha256, and a transcript: the session that the answer opened
//	Cryptogram  profile, key, dki, atc, data, arqc, maybe psn and un: an ARQC, TC or AAC
//
// answer is the card's answer without its first 10 bytes, the key diversification data, and
// its status word: parameters stand in a log, which names no card. host is the host
// challenge. A transcript is text of at most 16 KiB and 16 commands, from EXTERNAL
// AUTHENTICATE on: each line "> " and a command, or "< " and the response to the one above,
// as they were on the wire. One that holds the key diversification data is refused.
//
// # Explanations
//
// An Explanation is "as-expected", or "none", or words OPTION:VALUE joined by "/", of the
// first hypothesis that fits, nearest first:
//
//	Answer      kvn diversification keys enc aid counter challenge i
//	Session     the same, c-mac or r-mac with the number of the command from 0 on whose MAC
//	            is the first wrong one, and what explains that one: none, key chaining icv
//	            data apdu lc cla le status-word padding mac-length mac decryption
//	Cryptogram  key dki option psn session-key padding atc
//
// For example (the package's Example), the card 00010203040506070809 under a master of
// KVN 30, diversified by kdf3, that answers host 0011223344556677 by
// 31037096F78A3395250A770D39A546CE4643A5000001 is explained by kvn:30/keys:mac-enc: it says
// KVN 31, and K-ENC and K-MAC are exchanged.
//
// Protocols and their sections are those of derive/scp02, derive/scp03 and derive/emv, which
// compute every proof; the deviations are those in which programs and cards were seen to
// differ, and each is from what [AmdD] GPC Card Specification v2.3 - Amendment D v1.2 or
// [GPCS] GlobalPlatform Card Specification 2.3.1, Appendix E, say.
//
// It leaves out SCP11, whose keys follow from no master, and cryptograms of profiles that are
// experimental. Under SCP02 no data are decrypted, so that a MAC over such data is
// mac:not-checked. A hypothesis for which a token has no mechanism is passed over.
//
// Search only reads: keys that it derives it releases, and asking again finds the same. It
// says "none" only if every key was there to be tried under; else it fails as the token
// does. The package has no clock and keeps nothing. How often a card's proofs are
// explained, who may ask, and what is logged, is its caller's, and so is that the
// transcript is the one that was approved.
package explain

import (
	"context"

	"cardkms/derive"
	"cardkms/kms/key"
)

// Question is a card's proof that did not verify.
type Question interface {
	// Search tries every hypothesis about the proof until one explains it, under those of
	// an issuer's key versions that the question is about. Errors are those of the token.
	Search(ctx context.Context, t derive.Token, versions []key.Version) (Explanation, error)
}

// Explanation is what a search found, in words of this package.
type Explanation string

// Words that stand alone.
const (
	foundNothing Explanation = "none"
	foundRight   Explanation = "as-expected"
)
