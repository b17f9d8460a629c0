-- +goose Up
-- touched are the numbers that the log gives what the leaf's change touched, two bytes
-- each, so that another node knows what to read again.
ALTER TABLE log_leaves ADD COLUMN touched BLOB NOT NULL DEFAULT x'';

-- +goose Down
ALTER TABLE log_leaves DROP COLUMN touched;
