// Package cardsim is a smart card in software: the card's half of SCP03, SCP02 and SCP11, of the CUP-1 update package, and enough ordinary
// functions to see that an update did not disturb them.
//
// It is a second implementation on purpose. It shares no code with the host packages of cardkms (own APDU and TLV parser,
// own CMAC, own key derivation, standard library only), so that agreement between the two means something.
//
// It follows [AmdD] (GlobalPlatform Card Technology, Secure Channel Protocol '03', Card Specification v2.3 Amendment D
// v1.1.2) for the secure channel, SP 800-38B for CMAC, SP 800-108 for key derivation, ISO/IEC 7816-4 for APDUs and the
// transparent file, and cardkms' own CUP-1 for the update; [GPCS] (GlobalPlatform Card Specification 2.3.1) Appendix E for
// SCP02, with 3DES. SCP11 is that on which yubikit and kaoh/globalplatform agree, on P-256 with AES-128 and X.509 certificates,
// whose dates a card without a clock cannot check. It leaves out logical channels, GET STATUS, applet loading, PUT KEY under SCP02 and every other algorithm.
//
// # Update objects
//
// An object is one BER-TLV (tags of one byte, minimal lengths, fields in the order shown, nothing optional, nothing
// trailing), carried by one STORE DATA chain. The field 8E stands after the outer TLV and is not counted in its length,
// except in a chunk, where it is the last field inside:
//
//	manifest  E1 L {80 81 82 83 84 85 86 87 88 89 8A 8B 8C 8D 8F 90}  8E 10 CMAC(K_mac, E1 L {...})
//	chunk     E3 L {80 03 index | 87 L 01 C | 8E 08 mac}              mac = CMAC(K_mac, E3 | manifest MAC | 80... | 87...)[0:8]
//	commit    E4 2E {82 04 seq | 88 04 counter | 8A 20 SHA-256}       8E 10 CMAC(K_mac, E4 | manifest MAC | content)
//	status    E5 L {92 01 | 82 04 | 93 n | 87 08 | 88 04 | 94 01}     8E 10 CMAC(K_mac, E5 | manifest MAC | content)
//	receipt   E6 13 {92 01 05 | 87 08 version | 88 04 counter}        8E 10 CMAC(K_mac, E6 | manifest MAC | content)
//	abort     E7 06 {82 04 seq}                                       8E 10 CMAC(K_mac, E7 | manifest MAC | content)
//
// The MAC of a manifest covers the whole TLV with its length; all other MACs cover the tag, the MAC of the manifest and the
// value without its length. C is AES-CBC(K_enc, ICV, data | CRC-32(data) | 80 padding) with ICV = AES-ECB(K_enc, index).
// In suite 00 nothing has an 8E, and a chunk is E3 L {80 03 index | 81 L (data | CRC-32(data))}: the secure channel
// protects it, so it needs a channel that has presented the manifest. See Example_commit for a worked object.
//
// # Memory
//
// Everything that survives a reset is in an [NVM]. Small values and the update journal are pairs of records written
// alternately, each with a generation number and a CRC-32, so that a power cut leaves the old or the new value. The power
// may be cut at any write ([NVM.CutAt]); the command in progress then has no answer and [ErrTorn] is returned.
//
// A [Card] may be used from several goroutines; commands are executed one at a time. An NVM belongs to one Card.
package cardsim
