// Package update makes COS update packages in the format CUP-1 and the commands
// that carry them to a card.
//
// # Keys
//
// K-UPD is the update key of one card. The keys of one package follow from it
// and from ctx = host challenge | card challenge of the channel that opened the
// package, by the derivation of SCP03 with labels of our own:
//
//	K_enc = SP 800-108 counter mode, CMAC(K-UPD, "CUP1-ENC-KEY" | 00 | L(2) | i | ctx)
//	K_mac = SP 800-108 counter mode, CMAC(K-UPD, "CUP1-MAC-KEY" | 00 | L(2) | i | ctx)
//
// # Objects
//
// Objects are BER-TLV with minimal lengths, fields in this order, none optional.
//
//	manifest  E1 L { fields } 8E 10 mac      mac = CMAC(K_mac, E1 L { fields })
//	chunk i   E3 L { 80 03 i | 87 L 01 C | 8E 08 mac[0:8] }
//	          mac = CMAC(K_mac, E3 | manifest mac | 80 03 i | 87 L 01 C)
//	commit    E4 L { 82 sequence | 88 counter | 8A digest } 8E 10 mac
//	abort     E7 L { 82 sequence } 8E 10 mac
//	status    E5 L { 92 state | 82 sequence | 93 missing | 87 version | 88 counter | 94 error } 8E 10 mac
//	receipt   E6 L { 92 05 | 87 version | 88 counter } 8E 10 mac
//	          mac = CMAC(K_mac, tag | manifest mac | content), for commit, abort, status and receipt
//
// Manifest fields: 80 format (01), 81 suite, 82 sequence number (4), 83 class id
// (16), 84 card id (10), 85 component (5–16), 86 precursor version (8), 87 target
// version (8), 88 security counter (4), 89 image size (4), 8A SHA-256 (32),
// 8B CRC-32 (4), 8C chunk size (2), 8D number of chunks (2), 8F KVN and key id of
// K-UPD (2), 90 ctx (16 or 32). Integers are big endian.
//
// C is AES-CBC under K_enc with ICV = AES(K_enc, i as 16 bytes) over the chunk and
// its CRC-32 with padding method 2: encryption inside, then the MAC outside. The
// CRC finds transfer and memory faults; only the MAC finds attacks. Chunk MACs are
// not chained, so that an interrupted download goes on where it stopped.
//
// Suite 01 is the above. Suite 00 is for cards that know nothing but SCP03: no
// object has an 8E, 8F is 0000, a chunk is E3 L { 80 03 i | 81 L data | CRC-32 },
// and only the secure channel protects it.
//
// The worked example is the package of the test vector self-cup1-0: with K-UPD
// 404142…4F and ctx 001122…FF, K_enc is 432DBE9E1F29FA97E2357E73FF986A49.
//
// # Transport
//
// Each object is one chain of STORE DATA: 80 E2 P1 P2, P1 = 11 for more and 91
// for the last block, P2 the block number from 00.
//
// The package keeps no state and holds no image: a chunk is sealed as it is read.
package update
