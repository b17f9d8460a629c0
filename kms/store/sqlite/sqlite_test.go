package sqlite

import (
	"context"
	"path/filepath"
	"testing"

	"cardkms/kms/store"
	"cardkms/kms/store/storetest"
)

func open(t testing.TB, dir string) *DB {
	t.Helper()
	db, err := Open(context.Background(), filepath.Join(dir, "cardkms.db"))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T, dir string) store.Store { return open(t, dir) })
}
