package postgres_test

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"cardkms/deploy"
	"cardkms/kms/store"
	"cardkms/kms/store/postgres"
)

// as returns the connection string of a database for another role.
func as(t *testing.T, database, role string) string {
	t.Helper()
	u, err := url.Parse(cluster.URL(database))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("user", role)
	u.RawQuery = q.Encode()
	return u.String()
}

// TestRoles makes the roles as they are deployed: the owner migrates, and a node works
// without the right to delete anything or to change a table.
func TestRoles(t *testing.T) {
	ctx := context.Background()
	db := database(t, t.Name())
	sql := strings.ReplaceAll(deploy.PostgresRoles, `\set ON_ERROR_STOP on`, "")
	for _, statements := range []string{sql, "CREATE ROLE node1 LOGIN IN ROLE cardkms_node; CREATE ROLE migrate LOGIN IN ROLE cardkms_owner; ALTER ROLE migrate SET role cardkms_owner"} {
		if _, err := cluster.SQL(ctx, db, statements); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := postgres.Open(ctx, postgres.Config{URL: as(t, db, "node1")}); err == nil {
		t.Error("a node made the tables")
	}
	owner, err := postgres.Open(ctx, postgres.Config{URL: as(t, db, "migrate")})
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Close(); err != nil {
		t.Fatal(err)
	}
	node, err := postgres.Open(ctx, postgres.Config{URL: as(t, db, "node1")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = node.Close() }()
	err = node.Update(ctx, func(tx store.Tx) error {
		if err := tx.PutAll([]store.Row{{Ref: store.Ref{Kind: "card", ID: "1"}, Version: 1}, {Ref: store.Ref{Kind: "card", ID: "1"}, Version: 2}}); err != nil {
			return err
		}
		if err := tx.AppendLeaves(0, []store.Leaf{{Hashes: make([][store.HashSize]byte, 1)}}); err != nil {
			return err
		}
		if err := tx.EmptyLeaves(0, 1); err != nil {
			return err
		}
		return tx.PutBlock("image", 0, []byte("x"))
	})
	if err != nil {
		t.Errorf("a node cannot work: %v", err)
	}
	for _, forbidden := range []string{"DELETE FROM log_leaves", "DELETE FROM state_rows", "TRUNCATE log_leaves", "DROP TABLE writer", "ALTER TABLE log_leaves ADD x int", "CREATE TABLE mine (x int)"} {
		if out, err := cluster.SQL(ctx, db, "SET ROLE node1; "+forbidden); err == nil {
			t.Errorf("a node may %s: %s", forbidden, out)
		}
	}
}
