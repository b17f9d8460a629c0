-- The tables of SQLite in the types of PostgreSQL. COLLATE "C" orders by bytes.
-- A migration only adds: nodes of the version before go on until they are replaced.

-- +goose Up
CREATE TABLE state_rows (
    kind    text   COLLATE "C" NOT NULL,
    issuer  text   COLLATE "C" NOT NULL,
    id      text   COLLATE "C" NOT NULL,
    version bigint NOT NULL CHECK (version >= 1),
    body    bytea  NOT NULL,
    mac     bytea  NOT NULL,
    PRIMARY KEY (kind, issuer, id)
);

-- Rows are rewritten all the time, the head of the log with every group. Room on each
-- page lets a new version stay beside the old one, which then costs no index entry.
ALTER TABLE state_rows SET (fillfactor = 70);

CREATE TABLE log_leaves (
    seq     bigint PRIMARY KEY CHECK (seq >= 0),
    leaf    bytea NOT NULL,
    hashes  bytea NOT NULL,
    touched bytea NOT NULL
);

CREATE TABLE image_blocks (
    image text   COLLATE "C" NOT NULL,
    n     bigint NOT NULL CHECK (n >= 0),
    data  bytea  NOT NULL,
    PRIMARY KEY (image, n)
);

-- Whoever writes holds the lock of this one row, so that writers of all nodes exclude
-- each other. It is not the row of the head itself, because that does not exist yet when
-- the first node makes it.
CREATE TABLE writer (
    one boolean PRIMARY KEY CHECK (one)
);
INSERT INTO writer VALUES (true);

-- +goose Down
DROP TABLE writer;
DROP TABLE image_blocks;
DROP TABLE log_leaves;
DROP TABLE state_rows;
