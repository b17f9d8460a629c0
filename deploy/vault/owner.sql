CREATE ROLE cardkms_owner NOLOGIN;
GRANT CREATE, USAGE ON SCHEMA public TO cardkms_owner;
