package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"cardkms/kms/key"
)

// Held says whether the token holds a key as the service knows it.
type Held string

// The answers. A key that is missing, or protected in another way than its
// template says, is for officers to look into.
const (
	Present Held = "present"
	Missing Held = "missing_or_changed"
	// NotSeen: the token was not there when the inventory was made.
	NotSeen Held = "not_seen"
)

// Key is one key version in the inventory.
type Key struct {
	key.Version
	Held Held `json:"held"`
}

// Profile is the newest version of a card profile in the inventory.
type Profile struct {
	Name       string    `json:"name"` // resource name
	Version    int       `json:"version"`
	Registered time.Time `json:"registered"`
	SHA256     string    `json:"sha256"` // of its document, as officers signed it
	Withdrawn  bool      `json:"withdrawn"`
}

// InventoryReport lists every key version, compared with a live look into the
// tokens, and the card profiles by which they are used.
type InventoryReport struct {
	Head
	Token string `json:"token"` // label, model and serial number of the main one
	// Tokens are the same of the others, by name.
	Tokens map[string]string `json:"tokens,omitempty"`
	Keys   []Key             `json:"keys"`
	// Ghosts are labels of key objects that no key version names, behind the name of
	// their token and a colon where that is not the main one. The keys of the service
	// itself are not among them.
	Ghosts   []string  `json:"ghosts"`
	Profiles []Profile `json:"profiles"`
}

// See adds what a token says of itself; the main one has no name.
func (r *InventoryReport) See(name, description string) {
	if name == "" {
		r.Token = description
		return
	}
	if r.Tokens == nil {
		r.Tokens = map[string]string{}
	}
	r.Tokens[name] = description
}

// AddGhost adds an object that no key version names.
func (r *InventoryReport) AddGhost(token, label string) {
	if token != "" {
		label = token + ":" + label
	}
	r.Ghosts = append(r.Ghosts, label)
}

// Text implements Document.
func (r *InventoryReport) Text() string {
	p := page(r.Head, "Key inventory")
	p.line("Token: %s", r.Token)
	for _, name := range slices.Sorted(maps.Keys(r.Tokens)) {
		p.line("Token %s: %s", name, r.Tokens[name])
	}
	rows := [][]string{{"KEY VERSION", "TOKEN", "USAGE", "MASTER", "CARD KEYS", "KVN", "STATE", "MADE", "IN THE TOKEN"}}
	for _, k := range r.Keys {
		rows = append(rows, []string{k.ID.String(), cmp.Or(k.Token, "main"), string(k.Usage), string(k.Algorithm), string(k.CardAlgorithm),
			fmt.Sprintf("%02X", k.KVN), string(k.State), day(k.Created), string(k.Held)})
	}
	p.table(rows)
	for _, g := range r.Ghosts {
		p.line("GHOST: the token holds a key named %s that the service does not know", g)
	}
	p.line("%d key versions, %d ghosts", len(r.Keys), len(r.Ghosts))
	rows = [][]string{{"CARD PROFILE", "VERSION", "REGISTERED", "SHA-256", "WITHDRAWN"}}
	for _, c := range r.Profiles {
		rows = append(rows, []string{c.Name, fmt.Sprint(c.Version), day(c.Registered), c.SHA256, fmt.Sprint(c.Withdrawn)})
	}
	p.table(rows)
	return p.String()
}

// Period is the cryptoperiod of one key version.
type Period struct {
	Version  string    `json:"version"` // resource name
	State    key.State `json:"state"`
	Begins   time.Time `json:"begins"`
	Ends     time.Time `json:"ends"`
	DaysLeft int       `json:"daysLeft"` // negative after the end
	Alarm    string    `json:"alarm"`    // "", "90", "30", "7" or "over"
}

// CryptoperiodsReport lists when each key version's cryptoperiod ends, the next
// one first.
type CryptoperiodsReport struct {
	Head
	Periods []Period `json:"periods"`
}

// NewCryptoperiods computes the periods of versions at the time h.Made.
func NewCryptoperiods(h Head, versions []key.Version) *CryptoperiodsReport {
	r := &CryptoperiodsReport{Head: h, Periods: []Period{}}
	for _, v := range versions {
		r.Periods = append(r.Periods, Period{v.ID.String(), v.State, v.Created, v.Ends, daysLeft(v.Ends, h.Made), v.Alarm(h.Made)})
	}
	slices.SortFunc(r.Periods, func(a, b Period) int { return a.Ends.Compare(b.Ends) })
	return r
}

// daysLeft returns the whole days until an end, negative after it.
func daysLeft(end, now time.Time) int {
	left := int(end.Sub(now).Hours() / 24)
	if end.Before(now) {
		left = min(left, -1)
	}
	return left
}

// Text implements Document.
func (r *CryptoperiodsReport) Text() string {
	p := page(r.Head, "Cryptoperiods")
	rows := [][]string{{"KEY VERSION", "STATE", "BEGINS", "ENDS", "DAYS LEFT", "ALARM"}}
	for _, k := range r.Periods {
		rows = append(rows, []string{k.Version, string(k.State), day(k.Begins), day(k.Ends), fmt.Sprint(k.DaysLeft), k.Alarm})
	}
	p.table(rows)
	p.line("%d key versions", len(r.Periods))
	return p.String()
}
