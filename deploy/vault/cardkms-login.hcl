# What every node does with its own token: look at it, renew it, give it back. The default policy is left out
# of its role, because it allows much more.
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self"  { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
