-- The DDL is the only SQL text that differs between engines: PostgreSQL says
-- bytea for BLOB, bigint for INTEGER, text COLLATE "C" for TEXT, and has no STRICT.

-- +goose Up
CREATE TABLE state_rows (
    kind    TEXT    NOT NULL,
    issuer  TEXT    NOT NULL,
    id      TEXT    NOT NULL,
    version INTEGER NOT NULL CHECK (version >= 1),
    body    BLOB    NOT NULL,
    mac     BLOB    NOT NULL,
    PRIMARY KEY (kind, issuer, id)
) STRICT, WITHOUT ROWID;

-- hashes are those that the leaf adds to the tree, one after another: its own,
-- then that of each subtree which it completes.
CREATE TABLE log_leaves (
    seq    INTEGER PRIMARY KEY CHECK (seq >= 0),
    leaf   BLOB NOT NULL,
    hashes BLOB NOT NULL
) STRICT;

CREATE TABLE image_blocks (
    image TEXT    NOT NULL,
    n     INTEGER NOT NULL CHECK (n >= 0),
    data  BLOB    NOT NULL,
    PRIMARY KEY (image, n)
) STRICT;

-- +goose Down
DROP TABLE image_blocks;
DROP TABLE log_leaves;
DROP TABLE state_rows;
