package api

import "time"

// The states of a proposal.
const (
	ProposalOpen     = "open"
	ProposalApproved = "approved"
	ProposalExecuted = "executed"
	ProposalRejected = "rejected"
	ProposalExpired  = "expired"
	ProposalVoid     = "void"
)

// Propose asks for an operation that other officers must approve.
type Propose struct {
	Issuer          string            `json:"issuer,omitempty" pattern:"^[a-z][a-z0-9-]{0,62}$" doc:"Issuer that it concerns; absent for what concerns every issuer."`
	Operation       string            `json:"operation" pattern:"^[a-z][a-z0-9-]*([.][a-z][a-z0-9-]*)*$" maxLength:"64" example:"card.release"`
	Object          string            `json:"object" minLength:"1" maxLength:"256" example:"officers/dan" doc:"Resource name of what it is about."`
	Params          map[string]string `json:"params,omitempty" doc:"At most 16, by names of a-z 0-9 _; values of A-Z a-z 0-9 . - _ : / +."`
	Document        string            `json:"document,omitempty" maxLength:"16384" doc:"Of profile.register: the card profile; of card.explain about MACs: the transcript. Its SHA-256 is the parameter sha256."`
	ExpectedVersion *int64            `json:"expectedVersion,omitempty" minimum:"0" doc:"Version of the object that is meant, 0 for none; absent for the one that it has now."`
	LifeSeconds     int               `json:"lifeSeconds,omitzero" minimum:"60" maximum:"604800" doc:"Until it expires; default one day."`
	ValidateOnly    bool              `json:"validateOnly,omitzero" doc:"Check everything and keep nothing."`
}

// Decision is what an officer said to a proposal.
type Decision struct {
	Officer   string    `json:"officer"`
	Decision  string    `json:"decision" enum:"approve,reject"`
	Time      time.Time `json:"time"`
	Signature Hex       `json:"signature" format:"hex" doc:"Ed25519, 64 bytes, over the statement that package kms/approval specifies."`
}

// Proposal is an operation that officers decide about.
type Proposal struct {
	ID              string            `json:"id"`
	Issuer          string            `json:"issuer,omitempty" doc:"Absent for what concerns every issuer."`
	Operation       string            `json:"operation"`
	Object          string            `json:"object"`
	Subject         string            `json:"subject,omitempty" doc:"What the object stands for where the log holds a pseudonym. Not signed."`
	Params          map[string]string `json:"params,omitempty"`
	ExpectedVersion int64             `json:"expectedVersion"`
	Proposer        string            `json:"proposer" doc:"Name of the officer."`
	Created         time.Time         `json:"created"`
	Expires         time.Time         `json:"expires"`
	Encoding        string            `json:"encoding" doc:"All of the above but the subject, byte for byte; its SHA-256 is what officers sign."`
	Document        string            `json:"document,omitempty" doc:"Whose SHA-256 is the parameter sha256; absent in lists."`
	State           string            `json:"state" enum:"open,approved,executed,rejected,expired,void"`
	Required        int               `json:"required" doc:"Approvals that it needs now."`
	Counted         int               `json:"counted" doc:"Approvals that count now."`
	Decisions       []Decision        `json:"decisions"`
	Found           string            `json:"found,omitempty" doc:"What an executed card.explain found: as-expected, none, or options in which the card differs, as OPTION:VALUE/OPTION:VALUE."`
	EndedBy         string            `json:"endedBy,omitempty" doc:"Officer who executed or rejected it."`
	Ended           time.Time         `json:"ended,omitzero"`
}

// ProposalList is one page of proposals.
type ProposalList struct {
	Proposals     []Proposal `json:"proposals"`
	NextPageToken string     `json:"nextPageToken,omitempty" doc:"Asks for the next page; absent at the end. A page may be shorter than asked for."`
}

// Decide carries an officer's signature.
type Decide struct {
	Signature Hex `json:"signature" format:"hex" minLength:"128" maxLength:"128" doc:"Ed25519, 64 bytes, of the officer whom the client certificate names."`
}

// Officer takes part in dual control.
type Officer struct {
	Name     string `json:"name"`
	Identity string `json:"identity" doc:"SPIFFE URI of the client certificate."`
	Public   Hex    `json:"public" format:"hex" doc:"Ed25519 public key, 32 bytes."`
	Issuer   string `json:"issuer,omitempty" doc:"Absent for every issuer."`
	State    string `json:"state" enum:"active,sealed,removed"`
}

// Policy says how many officers must approve an operation.
type Policy struct {
	Operation string `json:"operation" doc:"Exact name, or default."`
	K         int    `json:"k" doc:"Approvals; the proposer is not among them."`
}

// Control is who takes part in dual control, and what it asks for.
type Control struct {
	Officers []Officer `json:"officers"`
	Policies []Policy  `json:"policies"`
	// GlassUntil is the end of the last break-glass.
	GlassUntil time.Time `json:"glassUntil,omitzero" doc:"Sealed officers may act until then, or could; absent if the glass was never broken."`
	Unreviewed bool      `json:"unreviewed" doc:"The glass was broken, and officers have yet to review it."`
}

// SuspendClient names a client.
type SuspendClient struct {
	Client string `json:"client" maxLength:"512" pattern:"^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$" doc:"SPIFFE URI of the client certificate."`
}

// Suspension is a client that is not served.
type Suspension struct {
	Client string    `json:"client" doc:"SPIFFE URI."`
	By     string    `json:"by" doc:"Identity of the officer."`
	Since  time.Time `json:"since"`
}

// SuspensionList is every client that is suspended.
type SuspensionList struct {
	Clients []Suspension `json:"clients"`
}

// System says whether use of keys is stopped.
type System struct {
	Halted bool `json:"halted"`
}
