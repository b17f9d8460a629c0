// Package cardkey says of which objects in the token a key version consists, and which
// references to the keys of one card follow from them.
//
// A key.Version is a row of the service, and package derive knows keys that follow from
// keys, and no rows. Here the one becomes the other: each part of a version is a
// derive.Root, whose class says what it may do, and a key of a card is a root diversified
// as the version has it, or the root itself where all cards have one. Which part, purpose
// and class that is hangs on the protocol of the card, so there is one function for each:
// SCP03 and SCP02 (K-ENC, K-MAC, and K-DEK where sessions need it), OTA (KIc, KID), EMV
// (ICC master keys) and Update (K-UPD). The formulas and their documents are in
// derive/diversify and derive/emv. Keys of SCP11 follow from no master: their version is a
// pair, one root and nothing else.
//
// No token is asked here: a reference costs a few hashes, and nothing has to be released
// that nobody used. Whether a version may serve now, and this card, its caller decides.
package cardkey

import (
	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/derive/emv"
	"cardkms/derive/scp02"
	"cardkms/derive/scp03"
	"cardkms/derive/scp80"
	"cardkms/kms/key"
)

// Root names the object of one part of a version inside its token. A pair is one part.
func Root(v key.Version, p key.Part) derive.Root {
	r := derive.Root{Token: v.Token, Label: v.ID.Label(p), Algorithm: v.Algorithm, Class: derive.Static, KCV: v.KCVs[p]}
	switch {
	case v.Usage == key.GPSCP11:
		r.Class, r.Public = derive.Agreeing, string(v.PublicKey)
	case p == key.Master:
	case v.Usage == key.GPSCP02: // [GPCS], Section E.4.1: also the DEK of a session is derived
		r.Class = derive.StaticCBC
	case p == key.DEK:
		r.Class = derive.DataEncryption
	}
	return r
}

// ownKeys reports whether a version is the keys of its cards themselves, which all of them
// have in common, and no master.
func ownKeys(m diversify.Method, u key.Usage) bool { return m == diversify.None && u.Channels() }

// Parts returns the parts of a version: three card keys, or one master.
func Parts(m diversify.Method, u key.Usage) []key.Part {
	if ownKeys(m, u) {
		return []key.Part{key.ENC, key.MAC, key.DEK}
	}
	return []key.Part{key.Master}
}

// Of refers to one key of the card with this key diversification data: what is asked for
// but for the algorithm, which the version says.
func Of(v key.Version, kdd []byte, to diversify.Target) (*derive.Key, error) {
	part, m := key.Master, diversify.Method(v.Diversification)
	if ownKeys(m, v.Usage) {
		part = map[diversify.Purpose]key.Part{diversify.ENC: key.ENC, diversify.MAC: key.MAC, diversify.DEK: key.DEK}[to.Purpose]
	}
	to.Algorithm = v.CardAlgorithm
	return diversify.Card(m, derive.FromRoot(Root(v, part)), kdd, to)
}

// SCP03 refers to K-ENC and K-MAC of one card. K-DEK is for PUT KEY only and is not part of
// a session.
func SCP03(v key.Version, kdd []byte) (st scp03.Static, err error) {
	if st.ENC, err = Of(v, kdd, diversify.Target{Purpose: diversify.ENC, Class: derive.Static}); err != nil {
		return st, err
	}
	st.MAC, err = Of(v, kdd, diversify.Target{Purpose: diversify.MAC, Class: derive.Static})
	return st, err
}

// SCP02 is SCP03 for SCP02, where the keys of a session come by CBC and K-DEK is one of
// those that they come from.
func SCP02(v key.Version, kdd []byte) (st scp02.Static, err error) {
	for _, k := range []struct {
		to      **derive.Key
		purpose diversify.Purpose
	}{{&st.ENC, diversify.ENC}, {&st.MAC, diversify.MAC}, {&st.DEK, diversify.DEK}} {
		if *k.to, err = Of(v, kdd, diversify.Target{Purpose: k.purpose, Class: derive.StaticCBC}); err != nil {
			return st, err
		}
	}
	return st, nil
}

// Update refers to K-UPD of one card.
func Update(v key.Version, kdd []byte) (*derive.Key, error) {
	return Of(v, kdd, diversify.Target{Purpose: diversify.Update, Class: derive.Static})
}

// OTA refers to KIc and KID of one card: of a key set, the first key is KIc and the second
// KID, so their purposes are those of K-ENC and K-MAC.
func OTA(v key.Version, kdd []byte) (k scp80.Keys, err error) {
	class := derive.SessionMAC
	if v.CardAlgorithm.TDEA() {
		class = derive.SessionENC
	}
	if k.KIc, err = Of(v, kdd, diversify.Target{Purpose: diversify.ENC, Class: derive.SessionENC}); err != nil {
		return k, err
	}
	k.KID, err = Of(v, kdd, diversify.Target{Purpose: diversify.MAC, Class: class})
	return k, err
}

// EMV refers to the ICC master key of one card by an option of EMV, whatever option the
// version has: its caller compares them, or asks which one a card has.
func EMV(v key.Version, o emv.Option, c emv.Card) (emv.Master, error) {
	return emv.NewMaster(o, derive.FromRoot(Root(v, key.Master)), c)
}
