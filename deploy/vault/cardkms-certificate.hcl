# The signature of a server certificate; its key is made by the node and stays there.
path "pki/sign/cardkms" { capabilities = ["update"] }
