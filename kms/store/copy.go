package store

import (
	"context"
	"errors"
)

// ErrNotEmpty: a copy would mix with what is there.
var ErrNotEmpty = errors.New("store: the database that is to be filled is not empty")

// Copied counts what a copy holds.
type Copied struct{ Rows, Leaves, Blocks int64 }

// Sizes of the pages of a copy, of which one is in memory.
const (
	copyRows   = 1000
	copyLeaves = 1000
	copyBlocks = 64
)

// Copy fills an empty store with everything that another one holds, in one transaction
// of each: the copy is one state of the source, and it is there as a whole or not at all.
func Copy(ctx context.Context, to, from Store) (n Copied, err error) {
	err = from.View(ctx, func(src Tx) error {
		return to.Update(ctx, func(dst Tx) error {
			n = Copied{} // a store may call this again
			if err := mustBeEmpty(dst); err != nil {
				return err
			}
			return errors.Join(n.rows(dst, src), n.leaves(dst, src), n.blocks(dst, src))
		})
	})
	return n, err
}

func mustBeEmpty(tx Tx) error {
	rows, err := tx.All(Ref{}, 1)
	if err != nil {
		return err
	}
	size, err := tx.Size()
	if err == nil && (len(rows) > 0 || size > 0) {
		err = ErrNotEmpty
	}
	return err
}

func (c *Copied) rows(dst, src Tx) error {
	for after := (Ref{}); ; {
		page, err := src.All(after, copyRows)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := dst.Import(page); err != nil {
			return err
		}
		after = page[len(page)-1].Ref
		c.Rows += int64(len(page))
	}
}

func (c *Copied) leaves(dst, src Tx) error {
	for {
		page, err := src.Leaves(c.Leaves, copyLeaves)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := dst.AppendLeaves(c.Leaves, page); err != nil {
			return err
		}
		c.Leaves += int64(len(page))
	}
}

func (c *Copied) blocks(dst, src Tx) error {
	for last := (Block{N: -1}); ; {
		page, err := src.AllBlocks(last.Image, last.N, copyBlocks)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, b := range page {
			if err := dst.PutBlock(b.Image, b.N, b.Data); err != nil {
				return err
			}
		}
		last = page[len(page)-1]
		c.Blocks += int64(len(page))
	}
}
