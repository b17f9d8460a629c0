CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE cardkms_owner;
ALTER ROLE "{{name}}" SET role = cardkms_owner;
