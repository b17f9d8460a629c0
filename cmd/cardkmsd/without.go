package main

import (
	"slices"
	"time"

	"cardkms/kms/ledger"
)

// without names what the node does without at the moment.
func (n *node) without() (out []string) {
	if n.cfg.vaultFails() {
		out = append(out, "vault")
	}
	if lagging(n.log.Stats(), time.Now(), processStart) {
		out = append(out, "log-keeper")
	}
	return out
}

// keeperPatience is how long an anchor or a witness may be behind: it has a new checkpoint
// every ten seconds at the latest, unless the configuration says otherwise.
const keeperPatience = time.Minute

// lagging reports whether an anchor or a witness has been behind for long: what it does not
// know, whoever has database and files could take back.
func lagging(s ledger.Stats, now, started time.Time) bool {
	for _, kept := range s.Kept {
		since := slices.MaxFunc([]time.Time{kept.At, started}, time.Time.Compare)
		if kept.Size < s.Signed.Size && now.Sub(since) > keeperPatience {
			return true
		}
	}
	return false
}
