// Package kms is the service: what a caller may ask, in which order it happens,
// and what remains of it.
//
// Every operation goes check → act → log the outcome → answer; nothing that a
// caller or a card can use leaves before its entry is durable, and an operation
// whose entry the log refuses did not happen. Where the act is a change of rows,
// the change and its entry are one transaction. Where the act takes long (the
// content of an image, a stream of chunks), an intent is durable before it
// starts. Refusals and failed proofs leave an entry too.
//
// The service knows neither HTTP nor SQL nor PKCS#11: it speaks to a Token, a
// store.Store and a ledger.Ledger. Channels live in the memory of one process; a
// process that dies loses them, and cards authenticate anew. What counts about a
// card (its key version, sequence counter, failed proofs, packages) is in the
// store and survives.
//
// A Service is safe for concurrent use. Requests on one channel run one after
// another, because a Secure Channel Session is sequential.
package kms

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"cardkms/audit"
	"cardkms/derive"
	"cardkms/kms/channel"
	"cardkms/kms/fault"
	"cardkms/kms/key"
	"cardkms/kms/ledger"
	"cardkms/kms/report"
	"cardkms/kms/store"
)

// Token is what the service needs of a token.
type Token interface {
	derive.Token
	derive.Wrapper
	// Random returns n bytes of the token's random number generator.
	Random(ctx context.Context, n int) ([]byte, error)
}

// Config is what a Service is made of. All of it is required but Logger; the lists
// may be empty.
type Config struct {
	Token       Token
	Store       store.Store // for the content of images; rows go through Log
	Log         *ledger.Ledger
	Pseudonym   *derive.Key                            // SessionMAC root: names cards in the log
	Registry    *derive.Key                            // SessionMAC root: names and seals cards in the database
	ReleaseKeys map[string]map[string]crypto.PublicKey // issuer → name → key
	Issuers     []string                               // every tenant
	Clients     []report.Client                        // who may call, for the access report, until Reconfigured
	// Holder returns the token of a name, "" for the main one. One that is not there now
	// is fault.TokenUnavailable.
	Holder      func(token string) (Holder, error)
	Tokens      []string            // names of the tokens beside the main one, sorted
	ServiceKeys map[string][]string // labels of the service's own keys, by token
	// Experimental serves what only cards in software agree with: EMV's option C and scripts
	// in Format 1.
	Experimental bool
	// Node names this process among those that share the store; empty if there is only one.
	Node        string
	Limits      channel.Limits
	ChannelsMax int
	Now         func() time.Time
	Logger      *slog.Logger
	// Observer is told of each operation when its entry is durable, or was refused; it must
	// not wait. nil for nobody.
	Observer func(Observed)
	// Logging is called when an operation begins to wait for its entry, and what it returns
	// when the entry is durable or refused. nil for nobody.
	Logging func(ctx context.Context) (end func(error))
}

// Observed is what a metric may say of an operation: words of closed lists, and nothing
// about card or caller.
type Observed struct {
	Operation   Operation
	Outcome     fault.Code
	Quarantined bool // it put a card into quarantine
}

// Service is the key management service.
type Service struct {
	cfg      Config
	channels channels
	keys     issuerCache[[]key.Version]
	profiles issuerCache[map[string]cardProfile]
	// suspensions are the URIs of suspended clients, of every issuer: under "".
	suspensions issuerCache[map[string]bool]
	uploads     uploads
	readings    readings
	halt        haltCache
	health      health
	running     executing
	clients     atomic.Pointer[[]report.Client]
}

// New checks a configuration and returns a service.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.Token == nil || cfg.Store == nil || cfg.Log == nil || cfg.Pseudonym == nil || cfg.Registry == nil || cfg.Now == nil || cfg.Holder == nil:
		return nil, errors.New("kms: the configuration lacks a part")
	case cfg.ChannelsMax < 1:
		return nil, errors.New("kms: ChannelsMax must be at least 1")
	case cfg.Limits.AnswerWithin > time.Minute || cfg.Limits.AnswerWithin <= 0:
		return nil, errors.New("kms: a host challenge lives at most 60 seconds")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Service{cfg: cfg}
	s.channels.init(cfg.ChannelsMax)
	s.clients.Store(&cfg.Clients)
	return s, nil
}

// Request is what every operation knows of its caller's request.
type Request struct {
	Caller      Caller
	ID          string // for logs and the audit entry
	Origin      string // where the request came from: an IP address
	Idempotency string // Idempotency-Key of a mutation; empty for none
}

// event collects what the audit entry of one operation says.
type event struct {
	req    Request
	op     Operation
	issuer string
	object string
	key    string
	card   []byte // KDD; the entry holds its pseudonym
	alias  string // the pseudonym, where a channel knows it already
	// algorithm is the status of the algorithms of key; empty where none was used.
	algorithm   audit.Algorithm
	digest      audit.Digest
	intent      *int64
	detail      map[string]string
	outcome     error
	quarantined bool // it put the card into quarantine
	// approved: an executor does it, so the change is kept outside the database
	// before the answer, as that of controls.
	approved bool
	// last is done in the transaction of the entry, whatever the outcome; nil for nothing.
	last func(store.Rows) error
}

// entry encodes the event. Cards appear by pseudonym only.
func (s *Service) entry(ctx context.Context, e event) (audit.Entry, error) {
	out := audit.Entry{
		Actor: e.req.Caller.ID, Role: string(e.req.Caller.Role), Origin: e.req.Origin, Issuer: e.issuer,
		Operation: string(e.op), Object: e.object, Key: e.key, Request: e.req.ID,
		Digest: e.digest, Decision: audit.Allowed, Outcome: string(fault.CodeOf(e.outcome)),
		Algorithm: e.algorithm,
	}
	if e.outcome != nil {
		out.Decision = audit.Refused
	}
	if out.Card = e.alias; out.Card == "" && len(e.card) > 0 {
		p, err := s.pseudonym(ctx, e.issuer, e.card)
		if err != nil {
			return out, err
		}
		out.Card = p
	}
	out.Detail, out.Intent = e.detail, e.intent
	return out, nil
}

// pseudonym names a card in the log: AES-CMAC under a key of the token over
// issuer | 00 | KDD, 8 bytes. Destroying the key makes the log unlinkable.
func (s *Service) pseudonym(ctx context.Context, issuer string, kdd []byte) (string, error) {
	mac, err := s.cfg.Token.MAC(ctx, s.cfg.Pseudonym, append(append([]byte(issuer), 0), kdd...))
	if err != nil {
		return "", fmt.Errorf("computing a pseudonym: %w", err)
	}
	return hex.EncodeToString(mac[:8]), nil
}

// log makes the entry of an event durable, with the row changes of change, which
// may still set the outcome. It returns the event's outcome, or the log's error:
// then the operation did not happen. What decides about keys and images is also
// kept outside the database before log returns.
func (s *Service) log(ctx context.Context, e *event, change func(store.Rows) error) error {
	err := s.append(ctx, e, change)
	if s.cfg.Observer != nil {
		s.cfg.Observer(Observed{Operation: e.op, Outcome: fault.CodeOf(err), Quarantined: e.quarantined && fault.CodeOf(err) == fault.CodeOf(e.outcome)})
	}
	return err
}

// record makes an entry and what it changes durable and returns the entry's sequence.
func (s *Service) record(ctx context.Context, change func(store.Rows) (audit.Entry, error)) (sequence int64, err error) {
	if s.cfg.Logging != nil {
		end := s.cfg.Logging(ctx)
		defer func() { end(err) }()
	}
	return s.cfg.Log.Do(ctx, change)
}

func (s *Service) append(ctx context.Context, e *event, change func(store.Rows) error) error {
	entry, err := s.entry(ctx, *e)
	if err != nil {
		return err
	}
	e.alias = entry.Card
	_, err = s.record(ctx, func(tx store.Rows) (audit.Entry, error) {
		if change != nil {
			if err := change(tx); err != nil {
				return audit.Entry{}, err
			}
			entry.Outcome = string(fault.CodeOf(e.outcome))
			if entry.Decision = audit.Allowed; e.outcome != nil {
				entry.Decision = audit.Refused
			}
		}
		if e.last != nil {
			if err := e.last(tx); err != nil {
				return audit.Entry{}, err
			}
		}
		return entry, nil
	})
	if err == nil && change != nil && e.outcome == nil && (controls[e.op] || e.approved) {
		err = s.cfg.Log.Anchored(ctx)
	}
	if err != nil {
		return err
	}
	return e.outcome
}

// refuse logs why an operation does not happen and returns that reason, or the
// log's error.
func (s *Service) refuse(ctx context.Context, e event, why error) error {
	e.outcome = why
	return s.log(ctx, &e, nil)
}

// start checks the caller and returns the event of an operation. A refusal is in
// the log when start returns.
func (s *Service) start(ctx context.Context, r Request, op Operation, issuer, object string) (event, error) {
	e := event{req: r, op: op, issuer: issuer, object: printable(object)}
	if !key.ValidName(issuer) {
		e.issuer = ""
	}
	if err := r.Caller.may(op, issuer); err != nil {
		return e, s.refuse(ctx, e, err)
	}
	if err := s.suspended(ctx, r.Caller); err != nil {
		return e, s.refuse(ctx, e, err)
	}
	if haltable[op] {
		if err := s.halted(ctx); err != nil {
			return e, s.refuse(ctx, e, err)
		}
	}
	return e, nil
}

// printable makes a resource name that a caller wrote fit for the log, whose
// alphabet is narrower than what a caller can send.
func printable(object string) string {
	segments := strings.Split(object, "/")
	for i, s := range segments {
		segments[i] = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
				return r
			}
			return '_'
		}, s[:min(len(s), 64)])
		if s == "" {
			segments[i] = "_"
		}
	}
	return strings.Join(segments[:min(len(segments), 8)], "/")
}

// read checks the caller of an operation that changes and releases nothing but
// metadata; only refusals leave an entry.
func (s *Service) read(ctx context.Context, r Request, op Operation, issuer, object string) error {
	_, err := s.start(ctx, r, op, issuer, object)
	return err
}

// newID returns 128 random bits in hexadecimal. Identifiers of channels are
// guessed by nobody, but no secret hangs on them: a channel serves its own caller
// only.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// digestOf hashes parts with their lengths.
func digestOf(parts ...[]byte) audit.Digest {
	h := sha256.New()
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d\n", len(p))
		h.Write(p)
	}
	return audit.Digest(h.Sum(nil))
}

// Close ends every channel, destroys its session keys, and logs who read the log.
func (s *Service) Close() {
	s.channels.closeAll(s.cfg.Token)
	s.logReadings(s.cfg.Now(), 0)
}

// Suspect logs that the database holds something else than was written. A ledger
// that is sealed takes no entry; then the operator's log alone tells.
func (s *Service) Suspect(ctx context.Context, v *ledger.Violation) {
	e := event{
		req: Request{Caller: Caller{ID: audit.ActorService}}, op: "database.violation", issuer: v.Ref.Issuer,
		object: printable(string(v.Ref.Kind) + "/" + v.Ref.ID), outcome: fault.New(fault.ObjectTampered, v.What),
	}
	if v.Ref.Kind == kindCard {
		e.card = s.cardBehind(ctx, v.Ref)
	}
	if err := s.log(ctx, &e, nil); fault.CodeOf(err) != fault.ObjectTampered {
		s.cfg.Logger.Error("a violation is not in the audit log", slog.Any("violation", v), slog.Any("error", err))
	}
}

// Started logs that the service began to serve, with what it found out about its
// token. The entry's details, as those of token.serve, are yes or no for each capability
// that was tried:
//
//	derive_aes, derive_tdea, derive_scp11   card and session keys, and those of SCP11
//	aes_cbc                                 AES-CBC
//	wrap_aes128, wrap_aes192, wrap_aes256,
//	wrap_tdea2                              a key for PUT KEY, under another one
//	retail_mac, xor_key                     MACs of SCP02 and EMV, Visa's script keys
//	sign_ed25519, sign_p256                 checkpoints of the log
//	no_value_leaves                         no key value leaves the token, whoever sees to it
//
// kdf is native or composed; pin_version is that of a User PIN that Vault keeps.
func (s *Service) Started(ctx context.Context, found map[string]string) error {
	e := event{req: Request{Caller: Caller{ID: audit.ActorService}}, op: "service.start", detail: found}
	return s.log(ctx, &e, nil)
}

// Reconfigured logs that a configuration is about to be in force that differs in who may
// call, and shows those clients in access reports from now on. If it returns an error, the
// log has no entry and nothing must change.
func (s *Service) Reconfigured(ctx context.Context, found map[string]string, clients []report.Client) error {
	e := event{req: Request{Caller: Caller{ID: audit.ActorService}}, op: "service.reload", detail: found}
	err := s.log(ctx, &e, nil)
	if err == nil {
		s.clients.Store(&clients)
	}
	return err
}

// Moved logs that the database was copied into another one, of which this is the first
// entry.
func (s *Service) Moved(ctx context.Context, n store.Copied) error {
	found := map[string]string{"rows": fmt.Sprint(n.Rows), "entries": fmt.Sprint(n.Leaves), "blocks": fmt.Sprint(n.Blocks)}
	e := event{req: Request{Caller: Caller{ID: audit.ActorService}}, op: "store.migrate", detail: found}
	return s.log(ctx, &e, nil)
}

// TokenServes logs that a token beside the main one began to serve.
func (s *Service) TokenServes(ctx context.Context, name string, found map[string]string) error {
	e := event{req: Request{Caller: Caller{ID: audit.ActorService}}, op: "token.serve", object: "tokens/" + name, detail: found}
	return s.log(ctx, &e, nil)
}
