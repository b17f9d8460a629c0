-- The roles of cardkms in PostgreSQL. Run by an administrator, in the database of cardkms:
--   psql -d cardkms -f roles.sql
--
-- cardkms_owner makes and migrates the tables; cardkms_node is what a serving node logs in
-- as, and can neither delete a row nor change a table. The database is untrusted whatever
-- its roles may do; they keep honest mistakes small.
\set ON_ERROR_STOP on

CREATE ROLE cardkms_owner NOLOGIN;
CREATE ROLE cardkms_node NOLOGIN;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO cardkms_owner;
GRANT USAGE ON SCHEMA public TO cardkms_node;

-- Of what the owner makes from now on. Leaves are updated when their content is emptied by
-- `cardkmsd prune`, rows and blocks when they change.
ALTER DEFAULT PRIVILEGES FOR ROLE cardkms_owner IN SCHEMA public GRANT SELECT, INSERT, UPDATE ON TABLES TO cardkms_node;

-- People and programs are members:
--   CREATE ROLE node1 LOGIN PASSWORD '…' IN ROLE cardkms_node;
--   CREATE ROLE migrate LOGIN PASSWORD '…' IN ROLE cardkms_owner;
--   ALTER ROLE migrate SET role cardkms_owner;    -- so that the owner owns what it makes
-- A new program that brings a migration is started once with database.url of `migrate`; after
-- that, and for nodes of the version before, `node1` is enough.
