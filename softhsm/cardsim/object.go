package cardsim

import (
	"bytes"
	"encoding/binary"
)

// Tags of the CUP-1 objects.
const (
	tagManifest = 0xE1
	tagChunk    = 0xE3
	tagCommit   = 0xE4
	tagStatus   = 0xE5
	tagReceipt  = 0xE6
	tagAbort    = 0xE7
	tagMAC      = 0x8E
)

// Suites of CUP-1.
const (
	suiteChannel = 0x00 // the secure channel alone protects the chunks
	suiteAES     = 0x01 // AES-CBC and AES-CMAC under keys of the package
)

// objectMACBytes and chunkMACBytes are the lengths of the field 8E.
const (
	objectMACBytes = 16
	chunkMACBytes  = 8
)

// manifest is a parsed E1 object.
type manifest struct {
	suite     byte
	seq       uint32
	class     []byte
	card      []byte
	component []byte
	precursor [8]byte
	target    [8]byte
	counter   uint32
	size      uint32
	digest    [32]byte
	crc       uint32
	chunkSize int
	chunks    int
	key       [2]byte // KVN and key identifier of K-UPD
	context   []byte
	mac       []byte // empty in suite 00
	object    []byte // all bytes as received
}

// manifestFields are the tags in order with their lengths; 0 stands for a length that varies.
var manifestFields = []struct {
	tag  byte
	size int
}{
	{0x80, 1}, {0x81, 1}, {0x82, 4}, {0x83, 16}, {0x84, 10}, {0x85, 0}, {0x86, 8}, {0x87, 8}, {0x88, 4},
	{0x89, 4}, {0x8A, 32}, {0x8B, 4}, {0x8C, 2}, {0x8D, 2}, {0x8F, 2}, {0x90, 0},
}

// parseManifest reads an E1 object. Every byte has one allowed place: the fields are read in their order with their lengths,
// and the result is encoded again and compared, because a manifest that can be written in two ways could pass the MAC in one
// and be stored in the other.
func parseManifest(object []byte) (manifest, error) {
	body, rest, err := readTLV(object, tagManifest)
	if err != nil {
		return manifest{}, err
	}
	var v [16][]byte
	for i, f := range manifestFields {
		if v[i], body, err = readTLV(body, f.tag); err != nil {
			return manifest{}, err
		}
		if f.size != 0 && len(v[i]) != f.size {
			return manifest{}, errTLV
		}
	}
	m := manifestOf(v)
	m.object = bytes.Clone(object)
	switch {
	case len(body) > 0, v[0][0] != 0x01, m.suite != suiteAES && m.suite != suiteChannel:
		return manifest{}, errTLV
	case len(m.component) < 5 || len(m.component) > 16, len(m.context) != 16 && len(m.context) != 32:
		return manifest{}, errTLV
	}
	if m.suite == suiteAES {
		if m.mac, rest, err = readFixed(rest, tagMAC, objectMACBytes); err != nil {
			return manifest{}, err
		}
	}
	if len(rest) > 0 || !bytes.Equal(m.encode(), object) {
		return manifest{}, errTLV
	}
	return m, nil
}

// manifestOf assigns the fields.
func manifestOf(v [16][]byte) manifest {
	number := binary.BigEndian.Uint32
	return manifest{
		suite: v[1][0], seq: number(v[2]), class: v[3], card: v[4], component: v[5],
		precursor: [8]byte(v[6]), target: [8]byte(v[7]), counter: number(v[8]),
		size: number(v[9]), digest: [32]byte(v[10]), crc: number(v[11]),
		chunkSize: int(binary.BigEndian.Uint16(v[12])), chunks: int(binary.BigEndian.Uint16(v[13])),
		key: [2]byte(v[14]), context: v[15],
	}
}

// encode is the inverse of parseManifest.
func (m manifest) encode() []byte {
	b := m.encodeSigned()
	if m.suite == suiteAES {
		b = appendTLV(b, tagMAC, m.mac)
	}
	return b
}

// encodeSigned returns E1 L {...}, which the MAC covers.
func (m manifest) encodeSigned() []byte {
	u16 := func(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
	values := [16][]byte{
		{0x01}, {m.suite}, number4(m.seq), m.class, m.card, m.component, m.precursor[:], m.target[:], number4(m.counter),
		number4(m.size), m.digest[:], number4(m.crc), u16(m.chunkSize), u16(m.chunks), m.key[:], m.context,
	}
	var body []byte
	for i, f := range manifestFields {
		body = appendTLV(body, f.tag, values[i])
	}
	return appendTLV(nil, tagManifest, body)
}

func number4(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// chunkBytes returns the length of the data of chunk i (1 to m.chunks); the last one may be shorter.
func (m manifest) chunkBytes(i int) int {
	return min(m.chunkSize, int(m.size)-(i-1)*m.chunkSize)
}

// consistent reports whether the number of chunks follows from the image size and the chunk size.
func (m manifest) consistent() bool {
	if m.size == 0 || m.chunkSize == 0 {
		return false
	}
	return (int64(m.size)+int64(m.chunkSize)-1)/int64(m.chunkSize) == int64(m.chunks)
}

// chunk is a parsed E3 object; covered and mac are empty in suite 00.
type chunk struct {
	index   int
	content []byte // C of suite 01, data | CRC-32 of suite 00
	covered []byte // 80... | 87..., what the MAC covers besides the tag and the manifest MAC
	mac     []byte
}

// parseChunk reads an E3 object of this suite.
func parseChunk(object []byte, suite byte) (chunk, error) {
	body, rest, err := readTLV(object, tagChunk)
	if err != nil || len(rest) > 0 {
		return chunk{}, errTLV
	}
	index, after, err := readFixed(body, 0x80, 3)
	if err != nil {
		return chunk{}, err
	}
	ch := chunk{index: int(index[0])<<16 | int(index[1])<<8 | int(index[2])}
	if suite == suiteChannel {
		ch.content, after, err = readTLV(after, 0x81)
		if err != nil || len(after) > 0 || len(ch.content) < 4 {
			return chunk{}, errTLV
		}
		return ch, nil
	}
	content, after, err := readTLV(after, 0x87)
	if err != nil || len(content) < 1 || content[0] != 0x01 { // 01: padding method 2 (ISO/IEC 7816-4, tag 87)
		return chunk{}, errTLV
	}
	ch.content, ch.covered = content[1:], body[:len(body)-len(after)]
	if ch.mac, after, err = readFixed(after, tagMAC, chunkMACBytes); err != nil || len(after) > 0 {
		return chunk{}, errTLV
	}
	return ch, nil
}

// splitSigned reads `tag L {content} 8E 10 MAC`, or `tag L {content}` alone in suite 00, and returns content and MAC.
func splitSigned(object []byte, tag, suite byte) (content, mac []byte, err error) {
	content, rest, err := readTLV(object, tag)
	if err == nil && suite == suiteAES {
		mac, rest, err = readFixed(rest, tagMAC, objectMACBytes)
	}
	if err == nil && len(rest) > 0 {
		err = errTLV
	}
	return content, mac, err
}
