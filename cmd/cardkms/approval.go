package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/kms/approval"
	"cardkms/kms/approval/officerkey"
)

func (a *app) approvalCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "approval", Short: "Dual control: propose an operation, approve it, have it executed",
		Long: `Dual control: one officer proposes an operation, others approve it with their own
keys, then it is executed.

What is signed is the SHA-256 of the proposal's encoding, which this program
computes from what it shows; it signs no digest of the service. Exit status 4
means that the proposal needs another approval.`,
	}
	c.AddCommand(a.proposalsCommand(), a.proposalCommand(), a.proposeCommand(), a.decideCommand(approval.Approve), a.decideCommand(approval.Reject), a.executeCommand())
	return c
}

func (a *app) proposalsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List proposals, the newest last", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				all := []api.Proposal{}
				for p := (api.Page{}); ; {
					l, err := c.Proposals(cmd.Context(), p)
					if err != nil {
						return err
					}
					all = append(all, l.Proposals...)
					if p.Token = l.NextPageToken; p.Token == "" {
						break
					}
				}
				// The service pages by id, which is random.
				slices.SortFunc(all, func(x, y api.Proposal) int {
					return cmp.Or(x.Created.Compare(y.Created), cmp.Compare(x.ID, y.ID))
				})
				rows := make([][]string, len(all))
				for i, p := range all {
					rows[i] = []string{plain(p.ID), plain(p.State), plain(p.Operation), plain(p.Object), "by " + plain(p.Proposer),
						fmt.Sprintf("%d of %d approvals", p.Counted, p.Required), "expires " + stamp(p.Expires)}
				}
				return a.show(all, "%s", strings.Join(append(columns(rows), count(int64(len(all)), "proposal")), "\n"))
			})
		},
	}
}

func (a *app) proposalCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a proposal and what was decided", Args: arguments(proposalArg),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				p, _, err := fetchProposal(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				return a.showProposal(p, false)
			})
		},
	}
}

// showProposal shows a proposal, or a preview of one, which nobody can find or approve.
func (a *app) showProposal(p api.Proposal, preview bool) error {
	parsed, err := approval.Parse([]byte(p.Encoding))
	if err != nil {
		return err
	}
	if err := attached(p, parsed); err != nil {
		return err
	}
	if preview {
		parsed.ID = ""
		return a.show(p, "%sNothing was proposed.", spelt(p, parsed))
	}
	return a.show(p, "%s%s", spelt(p, parsed), progress(p))
}

// spelt describes a proposal by its encoding, and by the document whose digest stands in
// it.
func spelt(p api.Proposal, parsed approval.Proposal) string {
	text := inWords(parsed, p.Subject)
	for line := range strings.Lines(p.Document) {
		text += "  | " + line
	}
	if p.Document != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

// progress says how far a proposal is.
func progress(p api.Proposal) string {
	var b strings.Builder
	for _, d := range p.Decisions {
		fmt.Fprintf(&b, "  %-10s %s at %s\n", plain(d.Decision), plain(d.Officer), stamp(d.Time))
	}
	fmt.Fprintf(&b, "%s: %d of %d approvals", plain(p.State), p.Counted, p.Required)
	if p.EndedBy != "" {
		fmt.Fprintf(&b, "; by %s at %s", plain(p.EndedBy), stamp(p.Ended))
	}
	if p.Found != "" {
		fmt.Fprintf(&b, "\nfound: %s", plain(p.Found))
	}
	return b.String()
}

// fetchProposal returns a proposal as the service describes it, and as its own
// encoding says. Another one than was asked for is refused.
func fetchProposal(ctx context.Context, c *client.Client, id string) (api.Proposal, approval.Proposal, error) {
	p, err := c.Proposal(ctx, id)
	if err != nil {
		return p, approval.Proposal{}, err
	}
	parsed, err := approval.Parse([]byte(p.Encoding))
	if err == nil && parsed.ID != id {
		err = fmt.Errorf("%w: the service gave another proposal than %s", errNotVerified, id)
	}
	if err == nil {
		err = attached(p, parsed)
	}
	return p, parsed, err
}

func (a *app) proposeCommand() *cobra.Command {
	var life time.Duration
	var dry bool
	var document string
	c := &cobra.Command{
		Use: "propose OPERATION OBJECT [KEY=VALUE...]", Short: "Propose an operation",
		Long: `Propose an operation on an object for other officers to approve, e.g.

  card.release    issuers/demo/cards/00010203040506070809 reason=reader-was-broken
  card.explain    issuers/demo/cards/00010203040506070809 key=isd host=HEX answer=HEX [--document transcript.txt]
  officer.enrol   officers/dan identity=spiffe://.../role/security-officer/dan public=@dan.pub
  officer.remove  officers/dan
  policy.set      policies/card.release k=3
  key.create      issuers/demo/keys/isd/versions/2 usage=gp-scp03 algorithm=aes-256
                  card_algorithm=aes-128 diversification=kdf3 kvn=31 cryptoperiod_days=365 [token=NAME]
  key.create      issuers/demo/keys/oce/versions/1 usage=gp-scp11 algorithm=ec-p256
                  cryptoperiod_days=365 [token=NAME]
  key.activate    issuers/demo/keys/isd/versions/2
  key.deactivate  issuers/demo/keys/isd/versions/1 [exception=cards-were-lost]
  key.compromise  issuers/demo/keys/isd/versions/1
  key.plan-move   issuers/demo/keys/isd/versions/1
  key.destroy     issuers/demo/keys/isd/versions/1 days=30
  key.undestroy   issuers/demo/keys/isd/versions/1
  key.allow-legacy  issuers/demo/keys/old/versions/1 until=2027-06-30 reason=cards-expire
  profile.register  issuers/demo/profiles/default --document card.yaml
  profile.withdraw  issuers/demo/profiles/default reason=cards-were-recalled
  glass.break     system/glass hours=2 reason=two-officers-abroad
  glass.review    system/glass finding=only-the-card-was-released
  system.resume   system/halt
  client.resume   clients/cardkms.dev/role/update-server/one

An officer enrolled with sealed=yes can act only while the glass is broken: put that
key, its passphrase and its certificate in an envelope. A value @FILE of "public" is the
line of a public key. What is about an issuer is named issuers/ISSUER/... . Operations
that change a key version, release a card or resume something may have reason=WORD too,
which stands in the log; a parameter that an operation does not have is refused. The
version of the object that is meant is the one that it has now; when it changes,
the proposal is void.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return errUsage{errors.New("what is proposed is OPERATION OBJECT [KEY=VALUE...]")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := proposalOf(args)
			if err != nil {
				return err
			}
			if document != "" {
				if err := attach(&in, document); err != nil {
					return err
				}
			}
			in.LifeSeconds, in.ValidateOnly = int(life/time.Second), dry
			return a.with(func(c *client.Client) error {
				p, err := c.Propose(cmd.Context(), in)
				problem := (*api.Problem)(nil)
				if _, known := effects[in.Operation]; !known && errors.As(err, &problem) && problem.Code == api.InvalidInput { // a newer service may know it
					return advised{err, `"cardkms help approval propose" lists the operations`}
				}
				if err != nil {
					return err
				}
				return a.showProposal(p, dry)
			})
		},
	}
	c.Flags().StringVar(&document, "document", "", "`FILE` of profile.register: the card profile; of card.explain: the transcript of a session; its SHA-256 is what is signed")
	c.Flags().DurationVar(&life, "life", 24*time.Hour, "`TIME` until it expires, at most 168h")
	c.Flags().BoolVar(&dry, "preview", false, "check and show it, and propose nothing")
	return c
}

// proposalOf reads what a person wants to have done.
func proposalOf(args []string) (api.Propose, error) {
	in := api.Propose{Operation: args[0], Object: args[1]}
	if rest, ok := strings.CutPrefix(in.Object, "issuers/"); ok {
		in.Issuer, _, _ = strings.Cut(rest, "/")
	}
	for _, pair := range args[2:] {
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return in, errUsage{fmt.Errorf("%q is not KEY=VALUE", pair)}
		}
		if file, ok := strings.CutPrefix(v, "@"); ok && k == "public" {
			line, err := os.ReadFile(file)
			if err != nil {
				return in, err
			}
			public, err := officerkey.ParseLine(line)
			if err != nil {
				return in, fmt.Errorf("%s: %w", file, err)
			}
			v = base64.RawURLEncoding.EncodeToString(public)
		}
		if in.Params == nil {
			in.Params = map[string]string{}
		}
		in.Params[k] = v
	}
	return in, nil
}

func (a *app) executeCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "execute ID", Short: "Have an approved proposal executed, once", Args: arguments(proposalArg),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				p, parsed, err := fetchProposal(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				if err := a.confirm(cmd, yes, "execute", spelt(p, parsed)); err != nil {
					return err
				}
				if p, err = c.Execute(cmd.Context(), args[0]); err != nil {
					return err
				}
				return a.show(p, "%s", progress(p))
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func (a *app) haltCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "halt", Short: "Stop all use of keys at once; officers resume it", Args: exactly(0),
		Long: `Stop all use of keys at once, for every issuer: no channel, script or package is
served. One officer or operator can do this. To go on, an officer proposes
system.resume for system/halt, and others approve it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				if err := a.ask(cmd, yes, "halt", "Stop all use of keys, for every issuer?"); err != nil {
					return err
				}
				s, err := c.Halt(cmd.Context())
				if err != nil {
					return err
				}
				return a.show(s, "halted; propose system.resume system/halt to go on")
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

var errUnconfirmed = errors.New("not confirmed; nothing was done")

// confirm shows what will happen, on standard error so that JSON stays JSON, and
// has the person type a word.
func (a *app) confirm(cmd *cobra.Command, yes bool, word, what string) error {
	fmt.Fprint(a.err, screen(what))
	if yes {
		return nil
	}
	fmt.Fprintf(a.err, "Type %s to go on: ", word)
	var typed string
	// Fscanln reads no byte behind the line: what was pasted with it belongs to the shell.
	if _, err := fmt.Fscanln(cmd.InOrStdin(), &typed); err != nil || typed != word {
		return errUnconfirmed
	}
	return nil
}

// ask is confirm for a command that has checked nothing with the service yet: it puts a
// question, and with yes there is none.
func (a *app) ask(cmd *cobra.Command, yes bool, word, question string) error {
	if yes {
		return nil
	}
	return a.confirm(cmd, false, word, question+"\n")
}

// effects say in plain words what an operation does.
var effects = map[string]string{
	approval.CardExplain:     "try which option would make a card's failed answer or MAC right; it tells names of options, no value",
	approval.CardRelease:     "lift the quarantine of a card",
	approval.OfficerEnrol:    "let somebody propose and approve as a security officer",
	approval.OfficerRemove:   "take a security officer's rights away, for good",
	approval.GlassBreak:      "BREAK THE GLASS: let sealed officers propose and approve for some hours",
	approval.GlassReview:     "record what officers found about the time when the glass was broken",
	approval.PolicySet:       "change how many officers must approve an operation",
	approval.ProfileRegister: "register a version of a card profile, which new channels use from then on",
	approval.ProfileWithdraw: "take a card profile out of use: it opens no new channel",
	approval.ClientResume:    "let a suspended client call the service again",
	approval.SystemResume:    "let keys be used again",
	approval.KeyCreate:       "make a new key version in the token",
	approval.KeyActivate:     "let a key version be used",
	approval.KeyDeactivate:   "have a key version serve only the cards that still need it",
	approval.KeyCompromise:   "declare a key version compromised: it serves nothing any more",
	approval.KeyPlanMove:     "let a compromised key version reach its cards, to move them to another",
	approval.KeyDestroy:      "DESTROY a key version: its objects leave the token for good after some days",
	approval.KeyUndestroy:    "keep a key version that is about to be destroyed",
	approval.KeyAllowLegacy:  "let a key version speak SCP02, WHICH IS BROKEN, until the end of a day",
}

// inWords describes a proposal by its encoding, one without an id as what might be
// proposed. subject alone is the service's word.
func inWords(p approval.Proposal, subject string) string {
	effect, ok := effects[p.Operation]
	if !ok {
		effect = "do something that this program does not know; ask before you sign"
	}
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "  %-10s %s\n", name, value) }
	fmt.Fprintf(&b, "This will %s.\n", effect)
	if p.ID != "" {
		line("proposal", p.ID)
	}
	line("operation", p.Operation)
	line("object", p.Object)
	if subject != "" {
		line("", "which the service says is "+spoken(subject))
	}
	issuer := p.Issuer
	if issuer == "" {
		issuer = "every issuer"
	}
	line("issuer", issuer)
	line("version", fmt.Sprintf("%d (void if the object changes)", p.Expected))
	for _, k := range slices.Sorted(maps.Keys(p.Params)) {
		line(k, p.Params[k])
	}
	if p.ID != "" {
		line("proposed", "by "+p.Proposer+" at "+stamp(p.Created))
		line("expires", stamp(p.Expires))
	}
	return b.String()
}
