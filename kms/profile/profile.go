package profile

import (
	"crypto/sha256"
	"fmt"

	"cardkms/derive/diversify"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/update"
)

// Profile is a card product, as its document describes it.
type Profile struct {
	Name string
	channel.Profile
	I         byte        // "i" parameter of the cards
	Level     scp03.Level // security level unless a caller asks for another
	Extended  bool        // the cards understand extended length
	Suite     update.Suite
	ChunkSize int // bytes of an image in one chunk
	PutKey    scp03.PutKeyFormat
	Keys      Keys
	// Certificates are of SCP11.
	Certificates Certificates
	Attempts     int // wrong card cryptograms in a row that quarantine a card
	Answers      []Answer
}

// Keys are what the keys of the cards are.
type Keys struct {
	Algorithm       key.Algorithm
	Diversification diversify.Method
	From, To        byte // Key Version Numbers, both included
}

// Bounds of a document.
const (
	// DocumentBytesMax is its greatest length: an officer has to read it.
	DocumentBytesMax = 16 << 10
	// AttemptsMax is the greatest number of wrong card cryptograms: a guess at one of 8
	// bytes is right once in 2^64, but who tries is to be seen.
	AttemptsMax     = 10
	attemptsDefault = 3
	chunkDefault    = 1024
	answersMax      = 16
	commandsMax     = 16
)

// Legacy reports whether the cards speak SCP02, which is deprecated.
func (p Profile) Legacy() bool { return p.SCP02 != 0 }

// Implicit reports whether the first command with a MAC opens a session. Such a card
// proves nothing before it obeys, so it gets prepared scripts and no channel.
func (p Profile) Implicit() bool { return p.Legacy() && p.SCP02&scp02.IExplicit == 0 }

// Usage is that of the keys that open channels to the cards; under scp11b there are none.
func (p Profile) Usage() key.Usage {
	switch {
	case p.Legacy():
		return key.GPSCP02
	case p.Agreed():
		return key.GPSCP11
	}
	return key.GPSCP03
}

// Agrees returns a fault.ProfileMismatch if the cards cannot have the keys of a version.
func (p Profile) Agrees(v key.Version) error {
	switch k := p.Keys; {
	case v.Usage != p.Usage():
		return mismatch("the usage of the key is " + string(v.Usage))
	case v.CardAlgorithm != k.Algorithm:
		return mismatch("the card keys of this version are " + string(v.CardAlgorithm))
	case v.Diversification != string(k.Diversification):
		return mismatch("the diversification of this version is " + v.Diversification)
	case v.KVN < k.From || v.KVN > k.To:
		return mismatch(fmt.Sprintf("the version has the Key Version Number %02X", v.KVN))
	}
	return nil
}

// AnsweredBy checks what a card says about itself. No proof covers its "i" parameter, so
// another one is not counted against the card.
func (p Profile) AnsweredBy(a scp03.Answer) error {
	if a.I != p.I {
		return mismatch(fmt.Sprintf("the card has the i parameter %02X", a.I))
	}
	return nil
}

func mismatch(what string) error {
	return fault.New(fault.ProfileMismatch, what+", and the card profile says another")
}

// Digest returns the SHA-256 of a document.
func Digest(document []byte) [sha256.Size]byte { return sha256.Sum256(document) }
