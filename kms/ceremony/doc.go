// Package ceremony reads the one file that drives a key ceremony, says in plain words
// what it asks for, checks and combines key components, keeps them encrypted between
// the days on which their custodians come, and writes the record.
//
// It follows the rules of split knowledge and dual control that PCI DSS v4.0 states in
// 3.6.1.2 and 3.7.6: components have the length of the key, each custodian knows one,
// and none of them says anything about the key. The file imitates the ceremony files of
// Let's Encrypt's boulder. It leaves out what the steps do: the program does that, with
// a token and a service. Nothing here does I/O but Keeper, whose directory is the
// caller's.
//
// # Components between two days
//
// SoftHSM2 has no derivation by XOR, so components meet once in the memory of the
// program that imports their sum; it may be a different day for each custodian. Until
// then a component is kept encrypted to a key pair of the token that exists for this
// ceremony only, by HPKE ([RFC 9180], base mode, DHKEM(P-256, HKDF-SHA256),
// HKDF-SHA256, AES-256-GCM). The info string binds it to its place:
//
//	"cardkms-component/1", digest of the file, value, number, custodian; each after its
//	length (4 bytes, big-endian)
//
// A file that was edited is another ceremony: Keeper.Ceremonies says whose components
// are kept, so that they can be given up.
//
// The last component is never kept: its custodian enters it when the sum is imported,
// so that until then this machine does not hold the key in any form. The private half
// of the pair never leaves the token and is destroyed when the ceremony ends; what
// backups hold of the components is useless then.
//
// BUG: the components lie in locked memory that is wiped, but copies are made on the
// way there and from there into the token: by the terminal's driver, by HPKE (its
// plaintext is wiped, the shared secret is not), and by miekg/pkcs11, which frees C
// memory without wiping it. Whoever can read the memory of this process during the
// import learns the key. That is limited by a process that ends right afterwards,
// leaves no core dump and runs while nothing else does.
//
// BUG: until the ceremony ends, whoever has the User PIN of the token and the kept files
// can open those components with a program of their own. They lack the last one.
package ceremony
