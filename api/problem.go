package api

import (
	"strings"
	"time"
)

// TypePrefix and a code make the type of a Problem.
const TypePrefix = "urn:cardkms:error:"

// Problem is the body of every refusal, [Problem] Section 3.1, and the error
// that the client returns.
type Problem struct {
	Type      string       `json:"type" format:"uri" example:"urn:cardkms:error:proof_failed" doc:"urn:cardkms:error: and the code."`
	Title     string       `json:"title" doc:"The same sentence for every occurrence of the code."`
	Status    int          `json:"status" doc:"HTTP status."`
	Code      Code         `json:"code" doc:"Stable reason. The audit log and the metrics use the same words."`
	Detail    string       `json:"detail,omitempty" doc:"What about this request; never one of its values."`
	RequestID string       `json:"requestId" doc:"Leads to the operator's log and the audit entry."`
	Errors    []FieldError `json:"errors,omitempty" doc:"Which parts of the request are malformed."`
	Sealed    []Sealed     `json:"sealed,omitempty" doc:"Only of readyz: why the service does nothing."`

	RetryAfter time.Duration `json:"-"` // from the header; 0 for none
}

// FieldError is one malformed part of a request.
type FieldError struct {
	Pointer string `json:"pointer" example:"/body/commands/3" doc:"JSON pointer that starts with where the part was: body, path, query or header."`
	Detail  string `json:"detail" doc:"What is expected there."`
}

// Sealed is a state in which the service does nothing.
type Sealed struct {
	State   string `json:"state" example:"hsm-down"`
	Runbook string `json:"runbook" example:"deploy/runbooks/hsm-down.md" doc:"What the operator does then: a file of the distribution."`
}

// NewProblem returns the Problem of a code.
func NewProblem(c Code, detail, requestID string) *Problem {
	r := c.find()
	return &Problem{
		Type: TypePrefix + string(r.code), Title: r.title, Status: r.status, Code: r.code,
		Detail: detail, RequestID: requestID,
	}
}

// Error implements error.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(string(p.Code))
	if p.Detail != "" {
		b.WriteString(": " + p.Detail)
	}
	for _, e := range p.Errors {
		b.WriteString("; " + e.Pointer + ": " + e.Detail)
	}
	for _, sealed := range p.Sealed {
		b.WriteString("; " + sealed.State + ", see " + sealed.Runbook)
	}
	if p.RequestID != "" {
		b.WriteString(" (request " + p.RequestID + ")")
	}
	return b.String()
}
