CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE cardkms;
ALTER ROLE "{{name}}" SET role = cardkms;
