# A database user for a while, and the renewal of its lease and of no other.
path "database/creds/cardkms" { capabilities = ["read"] }
path "sys/leases/renew" {
  capabilities       = ["update"]
  allowed_parameters = { "lease_id" = ["database/creds/cardkms/*"], "increment" = [] }
}
