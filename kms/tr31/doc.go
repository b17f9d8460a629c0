// Package tr31 reads and writes key blocks of versions B and D of [TR-31] ASC X9 TR
// 31-2018, which is ANSI X9.143:2021 under its new number.
//
// It is for laboratories and for moving keys between systems. The key block protection
// key (KBPK) and the key are clear in this process's memory, because PKCS #11 tokens
// have no mechanism for these blocks: production masters come as components or under a
// key-encryption key of the token (deploy/CEREMONY.md). Versions A and C are left out:
// they make keys by XOR with constants, and their header is not bound to the key.
//
// # The block
//
// A block is ASCII:
//
//	0   1  version: B (3DES KBPK) or D (AES KBPK)
//	1   4  length of the block in decimal
//	5   2  usage, e.g. K0 key-encryption key, E5 card personalisation
//	7   1  algorithm: A AES, T 3DES, others
//	8   1  mode of use, e.g. X derive, N no restriction
//	9   2  version of the key
//	11  1  exportability: E, N or S
//	12  2  number of optional blocks, decimal
//	14  2  00
//	16     optional blocks: id (2), length of all of it (2 hexadecimal digits, or 00, a
//	       count of digits and that many digits), data; a block PB fills up to a
//	       multiple of the cipher's block
//	       the encrypted key, then the MAC (B 8, D 16 bytes), in upper-case hexadecimal
//
// The clear content is the key's length in bits (2 bytes) | key | random padding that
// hides the length. The MAC is CMAC over header | clear content, and the IV of the CBC
// encryption. Both keys come from the KBPK by CMAC in counter mode:
//
//	K_i = CMAC(KBPK, i | usage (2) | 00 | algorithm (2) | bits (2))
//
// with usage 0000 for encryption and 0001 for the MAC; algorithm 0000 2-key and 0001
// 3-key 3DES, 0002, 0003, 0004 AES-128, 192, 256.
//
// A block is judged by its MAC before anything of its content is used; all failures of
// that are one. Functions are pure and safe for concurrent use.
package tr31
