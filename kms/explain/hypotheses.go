package explain

import (
	"cmp"
	"fmt"
	"slices"

	"cardkms/derive"
	"cardkms/derive/diversify"
	"cardkms/kms/cardkey"
	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// hypothesis is one way in which a card might have computed its answer.
type hypothesis struct {
	version key.Version
	method  diversify.Method
	enc     diversify.Purpose // which card key is taken for K-ENC
	mac     diversify.Purpose // and for K-MAC
}

// keyOrders are the card keys that might stand in the places of K-ENC and K-MAC: as
// they should, or exchanged by whoever personalised the card.
var keyOrders = [][2]diversify.Purpose{
	{diversify.ENC, diversify.MAC}, {diversify.MAC, diversify.ENC}, {diversify.DEK, diversify.MAC}, {diversify.ENC, diversify.DEK},
	{diversify.MAC, diversify.DEK}, {diversify.DEK, diversify.ENC}, {diversify.ENC, diversify.ENC}, {diversify.MAC, diversify.MAC},
}

// hypotheses returns all that are tried, the nearest to what the service expects
// first: at most one for each version, method and order of keys.
func (q answer) hypotheses(versions []key.Version) (out []hypothesis) {
	for _, v := range versions {
		if v.ID.Name != q.key || v.Usage != q.profile.Usage() || !searchable(v) {
			continue
		}
		own := diversify.Method(v.Diversification)
		methods := slices.DeleteFunc(diversify.Methods(), func(m diversify.Method) bool { return m == own })
		for _, m := range append(methods, own) {
			if diversify.Fits(m, v.Algorithm, v.CardAlgorithm) != nil || (m == diversify.None) != (v.Diversification == string(diversify.None)) {
				continue
			}
			for _, o := range keyOrders {
				out = append(out, hypothesis{version: v, method: m, enc: o[0], mac: o[1]})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b hypothesis) int { return cmp.Compare(len(q.differences(a)), len(q.differences(b))) })
	return out
}

// differences names in what a hypothesis differs from what the service expects.
func (q answer) differences(h hypothesis) (out []string) {
	if h.version.KVN != q.said.KVN {
		out = append(out, fmt.Sprintf("kvn:%02X", h.version.KVN))
	}
	if string(h.method) != h.version.Diversification {
		out = append(out, "diversification:"+string(h.method))
	}
	if h.enc != diversify.ENC || h.mac != diversify.MAC {
		out = append(out, "keys:"+h.enc.String()+"-"+h.mac.String())
	}
	return out
}

// encOnly is differences where nothing is known of K-MAC.
func (q answer) encOnly(h hypothesis) []string {
	h.mac = diversify.MAC
	out := q.differences(h)
	if h.enc != diversify.ENC {
		out[len(out)-1] = "enc:" + h.enc.String()
	}
	return out
}

// lastMAC is the K-MAC of the last order of keys with a K-ENC: when it fails too, no
// K-MAC explains the challenge.
func lastMAC(enc diversify.Purpose) (mac diversify.Purpose) {
	for _, o := range keyOrders {
		if o[0] == enc {
			mac = o[1]
		}
	}
	return mac
}

// cardKeys refers to the two card keys of a hypothesis.
func (q answer) cardKeys(h hypothesis, c derive.Class) (enc, mac *derive.Key, err error) {
	v := h.version
	v.Diversification = string(h.method)
	if h.method == diversify.None && c == derive.Static && (h.enc == diversify.DEK || h.mac == diversify.DEK) {
		return nil, nil, fault.New(fault.TokenUnable, "a K-DEK that the token holds only wraps")
	}
	if enc, err = cardkey.Of(v, q.said.KDD, diversify.Target{Purpose: h.enc, Class: c}); err != nil {
		return nil, nil, err
	}
	mac, err = cardkey.Of(v, q.said.KDD, diversify.Target{Purpose: h.mac, Class: c})
	return enc, mac, err
}
