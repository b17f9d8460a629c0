package main

import (
	"time"

	"cardkms/kms/ledger"
)

// without names what the node does without at the moment.
func (n *node) without() (out []string) {
	if n.cfg.vaultFails() {
		out = append(out, "vault")
	}
	if lagging(n.log.Stats(), time.Now(), keeperPatience+n.cfg.Anchors.TokenEvery) {
		out = append(out, "log-keeper")
	}
	return out
}

// keeperPatience is how long an anchor or a witness may lack what is signed, beside the time
// that the configuration gives the anchor in the token.
const keeperPatience = time.Minute

// lagging reports whether an anchor or a witness has been behind for long: what it does not
// know, whoever has database and files could take back.
func lagging(s ledger.Stats, now time.Time, patience time.Duration) bool {
	for _, kept := range s.Kept {
		if !kept.Behind.IsZero() && now.Sub(kept.Behind) > patience {
			return true
		}
	}
	return false
}
