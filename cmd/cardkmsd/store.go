package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"cardkms/kms/store"
)

func storeCommand() *cobra.Command {
	c := &cobra.Command{Use: "store", Short: "Look after the database"}
	c.AddCommand(migrateCommand())
	return c
}

func migrateCommand() *cobra.Command {
	var from, to string
	c := &cobra.Command{
		Use:   "migrate --from OLD.yaml --config NEW.yaml",
		Short: "Copy the database of a node that is stopped into an empty PostgreSQL database",
		Long: `Copy rows, audit log and images from the SQLite database that one configuration
names into the empty PostgreSQL database that another one names, in one
transaction: if the copy is interrupted, the new database is empty as before.

Afterwards everything in the new database is compared with the signed log and with
the anchors, as at every start, and the log says that it moved. It stays one log:
checkpoints, proofs and receipts from before remain good.

Both configurations name the same token, log and anchors. The node must be
stopped. Do not start it again with the old configuration: its anchors are ahead
of the old database then, and it refuses to serve.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			old, err := load(from)
			if err != nil {
				return err
			}
			cfg, err := load(to)
			if err != nil {
				return err
			}
			n, err := migrateStore(cmd.Context(), cfg, old, operatorLog(cmd))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "moved %d rows, %d entries of the audit log and %d blocks of images; compared them with the signed log\n", n.Rows, n.Leaves, n.Blocks)
			return err
		},
	}
	c.Flags().StringVar(&from, "from", "", "configuration `FILE` of the SQLite database")
	c.Flags().StringVar(&to, "config", "cardkms.yaml", "configuration `FILE` of the PostgreSQL database")
	_ = c.MarkFlagRequired("from")
	return c
}

// migrateStore copies one database into another, and opens the new one.
func migrateStore(ctx context.Context, cfg, old *config, logger *slog.Logger) (n store.Copied, err error) {
	switch {
	case old.Database.URL != "" || cfg.Database.URL == "":
		return n, errUsage{errors.New("--from names a configuration with SQLite, --config one with database.url")}
	case cfg.Log != old.Log || cfg.Token.State != old.Token.State || cfg.Token.Pseudonym != old.Token.Pseudonym:
		return n, errUsage{errors.New("the two configurations name different logs or keys of the service")}
	}
	if err := cfg.openVault(ctx, logger); err != nil {
		return n, err
	}
	defer cfg.closeVault()
	if n, err = copyStore(ctx, cfg, old); err != nil {
		return n, fmt.Errorf("copying the database: %w", err)
	}
	node, err := open(ctx, cfg, logger)
	if err != nil {
		return n, fmt.Errorf("the copy is not what the log says: %w", err)
	}
	defer node.close()
	return n, node.service.Moved(ctx, n)
}

func copyStore(ctx context.Context, cfg, old *config) (n store.Copied, err error) {
	lock, err := lockDir(old.path(old.Data))
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	from, err := openStore(ctx, old)
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := openStore(ctx, cfg)
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	return store.Copy(ctx, to, from)
}
