package kms

import (
	"bytes"
	"slices"

	"cardkms/kms/fault"
	"cardkms/kms/key"
)

// Role is what a person or a program is to the service.
type Role string

// The roles.
const (
	UpdateServer    Role = "update-server"
	SecurityOfficer Role = "security-officer"
	Auditor         Role = "auditor"
	Operator        Role = "operator"
)

// Roles returns every role.
func Roles() []Role { return []Role{UpdateServer, SecurityOfficer, Auditor, Operator} }

// Caller is who asks: an authenticated identity and what its configuration
// allows it.
type Caller struct {
	ID     string // SPIFFE URI of the client certificate
	Role   Role
	Issuer string // empty for roles that serve every issuer
	Cards  CardRange
	// RequestsPerSecond and ChannelsMax are limits of its own; 0 for those of everybody.
	RequestsPerSecond int
	ChannelsMax       int
}

// CardRange limits a caller to cards by their key diversification data. The zero
// value holds no card.
type CardRange struct{ From, To [10]byte } // both included

// AllCards holds every card.
func AllCards() CardRange {
	var r CardRange
	for i := range r.To {
		r.To[i] = 0xFF
	}
	return r
}

// Holds reports whether a card's key diversification data is in the range.
func (r CardRange) Holds(kdd []byte) bool {
	return bytes.Compare(r.From[:], kdd) <= 0 && bytes.Compare(kdd, r.To[:]) <= 0 && r.To != [10]byte{}
}

// Operation names what a caller wants, as the audit log shows it.
type Operation string

// The operations.
const (
	ChannelOpen         Operation = "channel.open"
	ChannelAuthenticate Operation = "channel.authenticate"
	ChannelWrap         Operation = "channel.wrap"
	ChannelUnwrap       Operation = "channel.unwrap"
	ChannelClose        Operation = "channel.close"
	ImageRegister       Operation = "image.register"
	ImageContent        Operation = "image.content"
	ImageRead           Operation = "image.read"
	PackageCreate       Operation = "package.create"
	PackageScript       Operation = "package.script"
	PackageChunks       Operation = "package.chunks"
	PackageConfirm      Operation = "package.confirm"
	PackageRead         Operation = "package.read"
	CardRead            Operation = "card.read"
	CardImport          Operation = "card.import"
	KeysChange          Operation = "card.change-keys"
	KeysConfirm         Operation = "card.confirm-keys"
	KeysRetire          Operation = "card.retire-keys"
	ScriptPrepare       Operation = "script.prepare"
	EMVVerify           Operation = "emv.verify"
	EMVAnswer           Operation = "emv.answer"
	EMVScriptOp         Operation = "emv.script"
	OTAPacketOp         Operation = "ota.packet"
	OTAVerify           Operation = "ota.verify"
	ProfileRead         Operation = "profile.read"
	KeyRead             Operation = "key.read"
	KeySuspend          Operation = "key.suspend"
	AuditRead           Operation = "audit.read"
	ReportRead          Operation = "report.read"
	ApprovalPropose     Operation = "approval.propose"
	ApprovalApprove     Operation = "approval.approve"
	ApprovalReject      Operation = "approval.reject"
	ApprovalExecute     Operation = "approval.execute"
	ApprovalRead        Operation = "approval.read"
	SystemHalt          Operation = "system.halt"
	ClientSuspend       Operation = "client.suspend"
	ClientRead          Operation = "client.read"
	OfficerInit         Operation = "officer.init" // at the console only
	KeyLoad             Operation = "key.load"     // at the console only, so nobody has this permission
)

// permissions is the one place that says which role may do what. What is not
// here is refused.
var permissions = map[Operation][]Role{
	ChannelOpen:         {UpdateServer},
	ChannelAuthenticate: {UpdateServer},
	ChannelWrap:         {UpdateServer},
	ChannelUnwrap:       {UpdateServer},
	ChannelClose:        {UpdateServer},
	ImageRegister:       {UpdateServer, SecurityOfficer},
	ImageContent:        {UpdateServer, SecurityOfficer},
	ImageRead:           {UpdateServer, SecurityOfficer, Auditor},
	PackageCreate:       {UpdateServer},
	PackageScript:       {UpdateServer},
	PackageChunks:       {UpdateServer},
	PackageConfirm:      {UpdateServer},
	PackageRead:         {UpdateServer, Auditor},
	CardRead:            {UpdateServer, SecurityOfficer, Auditor},
	CardImport:          {SecurityOfficer},
	KeysChange:          {UpdateServer},
	KeysConfirm:         {UpdateServer},
	KeysRetire:          {UpdateServer},
	ScriptPrepare:       {UpdateServer},
	EMVVerify:           {UpdateServer},
	EMVAnswer:           {UpdateServer},
	EMVScriptOp:         {UpdateServer},
	OTAPacketOp:         {UpdateServer},
	OTAVerify:           {UpdateServer},
	ProfileRead:         {UpdateServer, SecurityOfficer, Auditor},
	KeyRead:             {SecurityOfficer, Auditor},
	KeySuspend:          {SecurityOfficer},
	AuditRead:           {Auditor},
	ReportRead:          {Auditor, SecurityOfficer},
	ApprovalPropose:     {SecurityOfficer},
	ApprovalApprove:     {SecurityOfficer},
	ApprovalReject:      {SecurityOfficer},
	ApprovalExecute:     {SecurityOfficer},
	ApprovalRead:        {SecurityOfficer, Auditor},
	SystemHalt:          {SecurityOfficer, Operator},
	ClientSuspend:       {SecurityOfficer},
	ClientRead:          {SecurityOfficer, Auditor},
}

// controls are the operations that change what others may do: nobody may take
// them back by putting an older database in place.
var controls = map[Operation]bool{ImageRegister: true, ImageContent: true, KeyLoad: true, ProfileLoad: true,
	ApprovalPropose: true, ApprovalApprove: true, ApprovalReject: true, SystemHalt: true, ClientSuspend: true, OfficerInit: true, KeySuspend: true,
	CeremonyBegin: true, CeremonyEnd: true, CeremonyAbandon: true, CeremonyToken: true, CeremonyKEK: true, CeremonyDestroy: true}

// Operations returns every operation, sorted.
func Operations() []Operation {
	out := make([]Operation, 0, len(permissions))
	for op := range permissions {
		out = append(out, op)
	}
	slices.Sort(out)
	return out
}

// may checks role and issuer. A caller bound to one issuer that names another
// gets the answer of an issuer that does not exist.
func (c Caller) may(op Operation, issuer string) error {
	if !slices.Contains(permissions[op], c.Role) {
		return fault.New(fault.Forbidden, "your role does not allow this operation")
	}
	if issuer == "" && c.Issuer != "" {
		return fault.New(fault.Forbidden, "this concerns every issuer, and you are bound to one")
	}
	if issuer != "" && !key.ValidName(issuer) || c.Issuer != "" && issuer != "" && c.Issuer != issuer {
		return fault.New(fault.NotFound, "no such issuer")
	}
	return nil
}
