// Package hsm is the PKCS#11 adapter: a derive.Token whose keys live in a token.
//
// It follows [P11] PKCS #11 Cryptographic Token Interface, version 2.40, plus the
// mechanism CKM_SP800_108_COUNTER_KDF of version 3.0, and is the only package
// that talks to a PKCS#11 module.
//
// # Keys
//
// A root key is a token object, found once per life of the library by CKA_ID and
// CKA_LABEL together and compared by its key check value. A derived key is a
// recipe (derive.Key); its object is made inside the token when it is used, kept
// in a table of bounded size, and destroyed when it is released or when room is
// needed. Handles never leave this package and never outlive the initialisation
// of the library that gave them: SoftHSM2 gives old handle numbers to other keys
// after C_Finalize, and a MAC under the wrong key looks like any other.
//
// # Several tokens
//
// Tokens of one module share its library: C_Initialize and C_Finalize are for the whole
// process. When one of them is lost the library begins anew for all, every token is opened
// again, and one that does not open is away: nothing reaches it, because its handles may
// now be another's. So the others lose their session objects for a moment, and for good what
// was agreed on with cards; attempts for one that stays away come at most every 30 s. A token
// is opened while the others work, unless a call of theirs hangs; only for one that the library
// does not find does it begin anew, and not soon again while that would end an agreement. Tokens of two modules do not
// touch each other.
//
// # Plans
//
// AES-CMAC key derivation runs by one of two plans, found by trying and not from
// the mechanism list. The native plan is CKM_SP800_108_COUNTER_KDF. The composed
// plan computes the last block of the CMAC with CKM_AES_ECB_ENCRYPT_DATA: with
// E the block cipher under the base key, M1…Mn the padded message and K the CMAC
// subkey,
//
//	CMAC = E(Mn xor K xor C), C = the CBC chain over M1…Mn-1, K from E(0)
//
// E(0) and C are computed by the token and come to this process. They are not
// keys, but they are treated as secrets: the ones that are kept, in fixed arrays,
// are wiped with their object (for an AES master that is the library's life), and
// none is ever logged. Then the token computes the last E into a key object.
//
// # 3DES
//
// Tokens have no single DES. What SCP02 wants of it, the chain of the retail MAC and
// the encryption of an ICV, runs under a 3DES key whose three parts are equal, derived
// beside the session key (derive.RetailKey). The chaining value comes to this process
// between two calls, is used at once and wiped: it is an encryption under 56 bits.
//
// # Agreements
//
// What SCP11 derives from is no recipe: an ephemeral pair, and the secret that two pairs agree
// on, are made once. They are session objects that no table gives up to make room, and end
// when they are released, with the session that owns them, or with the library's life; then
// whatever was under way with a card has ended. A secret only derives, step by step inside:
// ECDH twice, CKM_CONCATENATE_BASE_AND_KEY, and for each key CKM_CONCATENATE_BASE_AND_DATA,
// CKM_SHA256_KEY_DERIVATION and CKM_EXTRACT_KEY_FROM_KEY. A token that lacks one of these
// makes no pairs.
//
// # What it promises
//
// No template, mechanism or attribute comes from a caller: templates.go makes
// every template, and an object is used only after its protecting attributes were
// read back. No key value is read: the readable objects are the oracle of
// compose.go, whose value is E of blocks of public input, and the secret of
// exchange.go, under which one component waits for its import. All methods are safe
// for concurrent use; a PKCS#11 session is never used by two goroutines at once;
// the library is never finalised while a call runs; waiting for a session ends
// with its context. After any error the session that saw it is closed. One wrong
// PIN stops the token until the operator acts, and so does a C_Login that is given up and
// does not succeed when it comes back.
//
// BUG: a call that hangs inside the module cannot be cancelled. It holds its
// session, and whoever waits for its answer or for a session gets
// fault.TokenUnavailable in the end. While one hangs nobody can finalise the library or
// make token objects (Keep, Generate, Destroy): those fail, at once from when the call is
// late. One that hangs while the library begins anew, in the library or in any of its tokens,
// stops all of its tokens. When no call comes back a supervisor has to restart the process.
//
// BUG: SoftHSM2 and NSS let whoever has the PIN derive an extractable key from a
// never-extractable one. There the boundary is kept by this package, not by the
// token; Capabilities says which of the two holds.
package hsm
