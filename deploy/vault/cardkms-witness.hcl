# Cosignatures of checkpoints, and the place where the newest one is remembered. No right to delete it, to destroy
# versions, or to change the key.
path "transit/keys/cardkms-witness" { capabilities = ["read"] }
path "transit/sign/cardkms-witness" { capabilities = ["update"] }
path "kv/data/cardkms/witness"      { capabilities = ["create", "update", "read"] }
