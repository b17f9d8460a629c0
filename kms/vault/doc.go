// Package vault gets from a HashiCorp Vault what a node needs to work and should not have
// on its disk: the User PIN of its token (KV version 2), credentials of the database
// (database engine), the certificate that it serves with (PKI), and signatures of
// checkpoints by a key that this host does not hold (Transit). It is the only package
// that imports hashicorp/vault/api, version 1.23.0, whose client also serves OpenBao.
//
// Vault is asked at the start, when something must be renewed, when a lost token is opened
// again, and for a checkpoint; no other operation waits for it. It leaves out the keys of cards, which no
// Vault holds, and the keeping of secrets: nothing is written to the disk.
//
// # Logging in
//
// An AppRole's secret id comes response-wrapped. The wrapping token is looked up first and
// must have been made by the AppRole's own path; then it is opened, once. One that is
// spent already was opened by somebody else: ErrSpent, which is an alarm and no reason to
// try again. The secret id stays in memory for later logins. Kubernetes shows the
// account's token, and a certificate shows itself.
//
// # Renewal
//
// The client's own renewer of vault/api 1.23.0 says nothing for a whole lease when Vault is
// away or a token was revoked, so this package does not use it. A token, a lease or a
// certificate is renewed at a random time between a half and two thirds of its life.
// What fails is tried again after 0.5 to 30 seconds, with jitter. When less than a fifth
// of a life is left, or a call is refused because the token died, the client logs in
// again; leases that died with the old token are got anew.
//
// Every call ends within CallTimeout, even if Vault hangs, and follows no redirect. The
// library would obey variables of the environment that its caller never sees, one of
// which turns off the check of Vault's certificate: Open refuses to work beside any.
//
// The caller must call Close, which revokes the token, and with it every lease.
package vault
