package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cardkms/audit"
	"cardkms/audit/durable"
	"cardkms/kms/approval"
	"cardkms/kms/ledger"
)

func restoreCommand() *cobra.Command {
	r := restorer{}
	c := &cobra.Command{
		Use:   "restore FILE [DIR...]",
		Short: "Accept a database that is older than its anchors, after a restore from a backup",
		Long: `Accept an older database, by the signatures of officers, and say so in the log.

A service whose database is older than the checkpoints kept outside it does not
start: somebody may have put back a revoked key or a used approval. After a
restore that is meant, "restore --reason TEXT FILE" writes FILE, the restoration: from
which checkpoint to which, when and why. Officers compare what is lost, and sign it,
each on a machine of their own ("cardkms ceremony approve FILE"). "restore FILE" then
checks that as many signed it as the strictest policy asks for and that anchors and
database are still those of FILE, appends an entry "log.restore" with FILE and all
signatures, and has the anchors keep the log as it is now.

The officers are those whom the entries of the restored log name, from its first one
on: who was enrolled or removed in what is lost is not known any more. Entries that
were pruned are read from the exported directories DIR.

A database that was changed, and not only put back, is not accepted by anybody:
restore a backup first. Witnesses refuse the restored log until their operators
run "cardkms witness forget".`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.cmd, r.file, r.dirs = cmd, args[0], args[1:]
			return r.run(cmd.Context())
		},
	}
	c.Flags().StringVar(&r.config, "config", "cardkms.yaml", "configuration `FILE`")
	c.Flags().StringVar(&r.reason, "reason", "", "write FILE, which must not exist, with this `TEXT`, and change nothing")
	c.Flags().BoolVar(&r.yes, "yes", false, "do not ask")
	return c
}

// restorer carries out one call of the command.
type restorer struct {
	cmd                  *cobra.Command
	config, file, reason string
	dirs                 []string
	yes                  bool
	cfg                  *config
}

// errStated ends the opening of the database after the restoration was written.
var errStated = errors.New("stated")

func (r *restorer) run(ctx context.Context) (err error) {
	if r.cfg, err = load(r.config); err != nil {
		return err
	}
	decide := r.accept
	if r.reason != "" {
		decide = r.state
	}
	accepted := false
	n, err := openRestoring(ctx, r.cfg, operatorLog(r.cmd), &ledger.Restoration{
		Approve: func(ctx context.Context, l *ledger.Ledger, g ledger.Gap) (map[string]string, error) {
			detail, err := decide(ctx, l, g)
			accepted = err == nil
			return detail, err
		},
	})
	if errors.Is(err, errStated) {
		return nil
	}
	if err != nil {
		return err
	}
	defer n.close()
	if !accepted {
		return errors.New("the database agrees with its anchors; there is nothing to accept")
	}
	r.say("Accepted. The log has %d entries; the last one tells of this.", n.log.Size())
	return nil
}

func (r *restorer) say(format string, args ...any) {
	fmt.Fprintf(r.cmd.OutOrStdout(), format+"\n", args...)
}

// restoration is the step that the database needs now.
func (r *restorer) restoration(g ledger.Gap) approval.Restoration {
	return approval.Restoration{
		Log: r.cfg.Log.Origin, From: approval.Mark{Size: g.From.Size, Root: g.From.Root}, To: approval.Mark{Size: g.To.Size, Root: g.To.Root},
		Created: time.Now().UTC().Truncate(time.Second), Reason: r.reason,
	}
}

// state writes the restoration for officers to sign.
func (r *restorer) state(_ context.Context, _ *ledger.Ledger, g ledger.Gap) (map[string]string, error) {
	b, err := r.restoration(g).Encode()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(r.file); err == nil {
		return nil, fmt.Errorf("%s exists; a restoration is written once", r.file)
	}
	if err := durable.Replace(r.file, b, 0o644); err != nil {
		return nil, err
	}
	r.say("%sThis is %s; nothing was changed.\nnext: officers compare what is lost and sign it:\n  cardkms ceremony approve %[2]s --officer NAME --key KEY\nthen: cardkmsd restore %[2]s", b, r.file)
	return nil, errStated
}

// accept judges the signatures over the restoration, and has the person at the console
// confirm it. Nothing was written yet.
func (r *restorer) accept(ctx context.Context, l *ledger.Ledger, g ledger.Gap) (map[string]string, error) {
	b, err := os.ReadFile(r.file)
	if err != nil {
		return nil, err
	}
	x, err := approval.ParseRestoration(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.file, err)
	}
	if want := r.restoration(g); x.Log != want.Log || x.From != want.From || x.To != want.To {
		return nil, fmt.Errorf("%s is about another step than from %s to %s; state and sign it anew", r.file, want.From, want.To)
	}
	signatures, err := readApprovals(r.file)
	if err != nil {
		return nil, err
	}
	replay, err := r.replay(ctx, l, g)
	if err != nil {
		return nil, err
	}
	names, err := replay.Restores(x, signatures, time.Now())
	if err != nil {
		return nil, err
	}
	r.say("%sSigned by %s, who are officers by the log up to entry %d; what was decided about officers since is lost.\n"+
		"This will make the log go on from the database as it is now; what the anchors know beyond that is lost.", b, strings.Join(names, ", "), g.To.Size-1)
	if err := confirm(r.cmd, r.yes, "restore"); err != nil {
		return nil, err
	}
	return approval.RestoreDetail(x, signatures)
}

// entriesAtOnce is how many entries are read in one transaction.
const entriesAtOnce = 1000

// replay reads the whole log, as an auditor does, and compares it with the root that
// goes on: exported directories may be of another log.
func (r *restorer) replay(ctx context.Context, l *ledger.Ledger, g ledger.Gap) (*approval.Replay, error) {
	var past history
	if l.First() > 0 {
		if len(r.dirs) == 0 {
			return nil, fmt.Errorf("the entries before %d are in exported directories only: name them after %s", l.First(), r.file)
		}
		if _, err := verifySegments(r.cfg, r.dirs, func(encoding []byte) { past.add(encoding, g.To.Size) }); err != nil {
			return nil, err
		}
	}
	for past.size() < g.To.Size && past.err == nil {
		leaves, err := l.Leaves(ctx, past.size(), entriesAtOnce)
		if err != nil {
			return nil, err
		}
		for _, encoding := range leaves {
			past.add(encoding, g.To.Size)
		}
	}
	if past.err == nil && past.edge.Root() != g.To.Root {
		past.err = errors.New("the exported directories are of another log than the database")
	}
	return &past.replay, past.err
}

// history is what a log says of its officers, with the tree of its entries.
type history struct {
	edge   audit.Edge
	replay approval.Replay
	err    error
}

func (h *history) size() int64 { return h.edge.Size() }

func (h *history) add(encoding []byte, most int64) {
	if h.size() >= most || h.err != nil {
		return
	}
	h.edge.Append(audit.LeafHash(encoding))
	var e audit.Entry
	if e, h.err = audit.ParseEntry(encoding); h.err == nil {
		h.replay.Add(approval.Record{
			Sequence: e.Sequence, Time: e.Time, Actor: e.Actor, Issuer: e.Issuer, Operation: e.Operation,
			Object: e.Object, Outcome: e.Outcome, Detail: e.Detail,
		})
	}
}
