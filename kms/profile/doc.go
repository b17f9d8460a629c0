// Package profile reads card profiles: what a service must know of one card product
// beside its keys.
//
// A profile is one YAML document. It is data and no code, names everything in which
// cards of one protocol differ, and is known by the SHA-256 of its bytes, which is what
// officers sign. deploy/profiles/README.md explains each field; the smallest one is
//
//	name: default
//	protocol: scp03
//	i: "70"
//	level: "33"
//	keys: {algorithm: aes-128, diversification: kdf3, kvn: {from: "30", to: "3F"}}
//
// Parse refuses unknown and duplicate fields, and a document whose parts contradict each
// other: it names all contradictions at once. [AmdD] GPC Card Specification v2.3 -
// Amendment D v1.2 and [GPCS] GlobalPlatform Card Specification 2.3.1, Appendix E, say
// what fits together.
//
// Cards of SCP11 follow from no master: their document has the authorities that certify them,
// and for SCP11a and c the certificates of the host. SCP11b does not prove the host to the
// card, so a document that says it says that anybody may open such a channel to its cards.
//
// A document has known answers: keys that are public, because they stand in it, and what
// a card of the product with these keys answers and is sent. Prove runs them through a
// token, by the code that serves cards. A diversification that has a name is tested with
// the vectors of other people; one that somebody wrote as a template is tested by nothing
// but its known answer, so it needs one.
//
// The package has no clock and keeps nothing. Which version of a profile serves, and who
// decides that, is its caller's.
package profile
