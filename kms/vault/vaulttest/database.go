package vaulttest

import (
	"context"
	"os"
	"path/filepath"

	"cardkms/kms/store/postgres/throwaway"
)

// Database starts a PostgreSQL with the owner of deploy/vault/owner.sql, and has Vault
// make its users.
func (s *Server) Database() *throwaway.Cluster {
	s.t.Helper()
	ctx := context.Background()
	c, err := throwaway.Start(ctx)
	s.must(err)
	s.t.Cleanup(func() { _ = c.Close() })
	s.must(c.Passwords(ctx)) // the users that Vault makes show theirs
	root, err := Root()
	s.must(err)
	owner, err := os.ReadFile(filepath.Join(root, "deploy", "vault", "owner.sql"))
	s.must(err)
	_, err = c.SQL(ctx, "postgres", string(owner))
	s.must(err)
	s.Setup(map[string]string{"DATABASE_URL": c.URL("postgres")}, "Database")
	return c
}
