# The User PIN of the token, read at the start and when the token was lost. The SO PIN and what custodians hold
# never stand under this path.
path "kv/data/cardkms/hsm" { capabilities = ["read"] }
