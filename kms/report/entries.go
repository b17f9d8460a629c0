package report

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"time"

	"cardkms/audit"
	"cardkms/kms/key"
)

// Entries are the entries of a period, in order. An error ends the report.
type Entries = iter.Seq2[audit.Entry, error]

// Client is who may call the service, by its configuration.
type Client struct {
	ID     string `json:"id"`
	Role   string `json:"role"`
	Issuer string `json:"issuer,omitempty"` // empty for every issuer
	Cards  string `json:"cards,omitempty"`  // range of key diversification data
}

// Use is what one client did in the period.
type Use struct {
	Client
	Known      bool             `json:"known"` // stands in the configuration now
	Operations map[string]int64 `json:"operations"`
	Refused    int64            `json:"refused"`
	Last       time.Time        `json:"last,omitzero"`
	Origins    []string         `json:"origins"` // addresses that it called from, at most originsMax
}

const originsMax = 16

// AccessReport says who may do what, and who did.
type AccessReport struct {
	Head
	Uses []Use `json:"uses"`
}

// NewAccess computes the access report. Clients that did nothing are in it too:
// a right that nobody uses should go.
func NewAccess(h Head, clients []Client, entries Entries) (*AccessReport, error) {
	uses := map[string]*Use{}
	for _, c := range clients {
		uses[c.ID] = &Use{Client: c, Known: true, Operations: map[string]int64{}, Origins: []string{}}
	}
	for e, err := range entries {
		if err != nil {
			return nil, err
		}
		u := uses[e.Actor]
		if u == nil {
			u = &Use{Client: Client{ID: e.Actor, Role: e.Role}, Operations: map[string]int64{}, Origins: []string{}}
			uses[e.Actor] = u
		}
		u.add(e)
	}
	r := &AccessReport{Head: h, Uses: []Use{}}
	for _, u := range uses {
		r.Uses = append(r.Uses, *u)
	}
	slices.SortFunc(r.Uses, func(a, b Use) int { return cmp.Compare(a.ID, b.ID) })
	return r, nil
}

func (u *Use) add(e audit.Entry) {
	u.Operations[e.Operation]++
	if e.Decision == audit.Refused {
		u.Refused++
	}
	u.Last = e.Time
	if e.Origin != "" && len(u.Origins) < originsMax && !slices.Contains(u.Origins, e.Origin) {
		u.Origins = append(u.Origins, e.Origin)
	}
}

// Text implements Document.
func (r *AccessReport) Text() string {
	p := page(r.Head, "Access")
	rows := [][]string{{"WHO", "ROLE", "ISSUER", "CARDS", "CONFIGURED", "OPERATIONS", "REFUSED", "LAST"}}
	for _, u := range r.Uses {
		var n int64
		for _, c := range u.Operations {
			n += c
		}
		last := "never in this period"
		if !u.Last.IsZero() {
			last = u.Last.UTC().Format(time.RFC3339)
		}
		rows = append(rows, []string{u.ID, u.Role, cmp.Or(u.Issuer, "every"), cmp.Or(u.Cards, "-"), fmt.Sprint(u.Known), fmt.Sprint(n), fmt.Sprint(u.Refused), last})
	}
	p.table(rows)
	for _, u := range r.Uses {
		if len(u.Operations) > 0 {
			p.counts(u.ID, u.Operations)
		}
	}
	return p.String()
}

// AlgorithmsReport counts operations by the status of their algorithms.
type AlgorithmsReport struct {
	Head
	ByStatus map[string]int64 `json:"byStatus"` // approved, legacy
	// Legacy counts the operations with algorithms that are no longer approved, by
	// key version.
	Legacy map[string]int64 `json:"legacy"`
	// Exceptions are those that officers made for deprecated protocols, the next end first.
	Exceptions []Exception `json:"exceptions"`
}

// Exception lets a key version speak a deprecated protocol until a moment.
type Exception struct {
	Version  string    `json:"version"` // resource name
	Until    time.Time `json:"until"`
	DaysLeft int       `json:"daysLeft"` // negative after the end
}

// exceptions returns those of key versions at the time now.
func exceptions(versions []key.Version, now time.Time) []Exception {
	out := []Exception{}
	for _, v := range versions {
		if !v.LegacyUntil.IsZero() {
			out = append(out, Exception{v.ID.String(), v.LegacyUntil, daysLeft(v.LegacyUntil, now)})
		}
	}
	slices.SortFunc(out, func(a, b Exception) int { return a.Until.Compare(b.Until) })
	return out
}

// unknownKey stands for the key version of an entry that was before the card said which.
const unknownKey = "not known yet"

// NewAlgorithms computes the algorithms report.
func NewAlgorithms(h Head, versions []key.Version, entries Entries) (*AlgorithmsReport, error) {
	r := &AlgorithmsReport{Head: h, ByStatus: map[string]int64{}, Legacy: map[string]int64{}, Exceptions: exceptions(versions, h.Made)}
	for e, err := range entries {
		if err != nil {
			return nil, err
		}
		if e.Algorithm == "" {
			continue
		}
		r.ByStatus[string(e.Algorithm)]++
		if e.Algorithm == audit.Legacy {
			r.Legacy[cmp.Or(e.Key, unknownKey)]++
		}
	}
	return r, nil
}

// Text implements Document.
func (r *AlgorithmsReport) Text() string {
	p := page(r.Head, "Algorithms")
	p.counts("STATUS", r.ByStatus)
	if len(r.Legacy) > 0 {
		p.counts("KEY VERSION WITH LEGACY ALGORITHMS", r.Legacy)
	}
	if len(r.Exceptions) > 0 {
		rows := [][]string{{"EXCEPTION FOR", "LAST DAY", "DAYS LEFT"}}
		for _, x := range r.Exceptions {
			rows = append(rows, []string{x.Version, day(x.Until.Add(-time.Second)), fmt.Sprint(x.DaysLeft)})
		}
		p.table(rows)
	}
	return p.String()
}

// Finding is an entry that the daily review should look at.
type Finding struct {
	Sequence int64     `json:"sequence"`
	Time     time.Time `json:"time"`
	What     string    `json:"what"`
}

// findingsMax bounds the findings of one report; More counts the rest.
const findingsMax = 1000

// DailyReport sums up a day, and names what a reviewer should look at.
type DailyReport struct {
	Head
	First    int64            `json:"first"` // sequences of the period's entries, -1 for none
	Last     int64            `json:"last"`
	Done     map[string]int64 `json:"done"`    // by operation
	Refused  map[string]int64 `json:"refused"` // by operation and outcome
	Findings []Finding        `json:"findings"`
	More     int64            `json:"more"`
}

// NewDaily computes the daily report.
func NewDaily(h Head, entries Entries) (*DailyReport, error) {
	r := &DailyReport{Head: h, First: -1, Last: -1, Done: map[string]int64{}, Refused: map[string]int64{}, Findings: []Finding{}}
	var before time.Time
	for e, err := range entries {
		if err != nil {
			return nil, err
		}
		if r.First < 0 {
			r.First = e.Sequence
		}
		r.Last = e.Sequence
		r.count(e)
		if e.Time.Before(before) {
			r.find(e, "the clock was set back by "+before.Sub(e.Time).Round(time.Second).String())
		}
		before = e.Time
	}
	return r, nil
}

func (r *DailyReport) count(e audit.Entry) {
	if e.Outcome == audit.OutcomePending {
		return // its outcome is another entry
	}
	did, sensitive := findings[e.Operation]
	if e.Decision == audit.Allowed && e.Outcome == audit.OutcomeOK {
		r.Done[e.Operation]++
		if sensitive {
			r.find(e, did)
		}
		return
	}
	r.Refused[e.Operation+" "+e.Outcome]++
	if what, ok := outcomes[e.Outcome]; ok {
		r.find(e, what)
	} else if sensitive {
		r.find(e, "was not done, "+e.Outcome+": "+e.Operation)
	}
}

func (r *DailyReport) find(e audit.Entry, what string) {
	if len(r.Findings) == findingsMax {
		r.More++
		return
	}
	r.Findings = append(r.Findings, Finding{e.Sequence, e.Time, what})
}

// findings are operations that a reviewer should see when they were done, and outcomes
// that one should see of any operation, with what to say about them.
var (
	findings = map[string]string{
		"service.start":     "the service started",
		"key.load":          "a key version was made at the console",
		"log.restore":       "officers accepted an older database",
		"log.prune":         "old entries were removed after their export",
		"log.space":         "the disk fills up",
		"log.full":          "the disk was full and nothing was done",
		"log.recovered":     "the disk had room again",
		"service.reload":    "another configuration, or another certificate, is in force",
		"log.clock":         "the clock had been wrong, and was right again",
		"pseudonym.destroy": "a pseudonym key was destroyed",
		"system.halt":       "somebody stopped all use of keys",
		"system.resume":     "officers let keys be used again",
		"client.suspend":    "an officer suspended a client",
		"client.resume":     "officers let a suspended client go on",
		"officer.init":      "the first officers were made at the console",
		"officer.enrol":     "officers enrolled another one",
		"officer.remove":    "officers removed one of them",
		"policy.set":        "officers changed how many must approve",
		"card.release":      "officers lifted the quarantine of a card",
		"glass.break":       "officers broke the glass: sealed officers may act for some hours",
		"glass.closed":      "a broken glass is over; officers must review what was done",
		"glass.review":      "officers reviewed what was done while the glass was broken",
		"key.create":        "officers made a key version",
		"key.activate":      "officers let a key version be used",
		"key.suspend":       "an officer stopped a key version",
		"key.deactivate":    "officers retired a key version",
		"key.compromise":    "officers declared a key version compromised",
		"key.plan-move":     "officers let a compromised key version reach its cards",
		"key.destroy":       "officers ordered the end of a key version",
		"key.undestroy":     "officers kept a key version after all",
		"key.allow-legacy":  "officers let a key version speak a deprecated protocol for some time",
		"key.destroyed":     "a key version left the token",

		"profile.register": "officers registered a version of a card profile",
		"profile.withdraw": "officers took a card profile out of use",
		"profile.load":     "a key ceremony registered a version of a card profile",

		"ceremony.begin":       "a key ceremony began, or went on",
		"ceremony.abandon":     "a key ceremony was given up at the console",
		"ceremony.token":       "a key ceremony made the token or the service's keys before there was a log",
		"ceremony.kek":         "a key ceremony made a key-encryption key",
		"ceremony.destroy-kek": "a key ceremony destroyed a key-encryption key",
	}
	outcomes = map[string]string{
		audit.OutcomeUnknown:      "nobody knows whether this operation came to its end",
		"object_tampered":         "the database was changed behind the service's back",
		"proof_failed":            "a card, a receipt or a status was not genuine",
		"card_quarantined":        "a quarantined card was used",
		"card_counter_not_rising": "a card's counter did not rise: a clone, or a card that lost its memory",
		"forbidden":               "somebody asked for what the role does not allow",
		"legacy_refused":          "a deprecated protocol was asked for that no exception allows",
		"profile_mismatch":        "a card, or a key, was not what its card profile says",
		"approval_required":       "somebody tried to carry out what too few had approved",
		"image_unverified":        "an image was not what its signature says",
		"downgrade_refused":       "an older image was asked for",
	}
)

// Text implements Document.
func (r *DailyReport) Text() string {
	p := page(r.Head, "Daily review")
	if r.First < 0 {
		p.line("There are no entries of this period.")
		return p.String()
	}
	p.line("entries %d to %d", r.First, r.Last)
	p.line("")
	p.counts("DONE", r.Done)
	if len(r.Refused) > 0 {
		p.counts("NOT DONE", r.Refused)
	}
	p.line("To look at:")
	for _, f := range r.Findings {
		p.line("  entry %d  %s  %s", f.Sequence, f.Time.UTC().Format(time.RFC3339), f.What)
	}
	if r.More > 0 {
		p.line("  and %d more", r.More)
	}
	return p.String()
}
