package cardsim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

// An NVM file is: the eight bytes of nvmMagic, page size (4 bytes, big endian), the memory, CRC-32 of all before (4 bytes).
const nvmMagic = "CARDNVM1"

// Save writes the memory to a file, first to a neighbour and then by renaming: a crash leaves the old file or the new one.
// The file holds the keys of the simulated card in clear, and only its owner may read it.
func (n *NVM) Save(path string) error {
	b := binary.BigEndian.AppendUint32([]byte(nvmMagic), uint32(n.pageBytes))
	b = append(b, n.data...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("saving card memory: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("saving card memory: %w", err)
	}
	return nil
}

// LoadNVM reads a file that Save wrote.
func LoadNVM(path string) (*NVM, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("loading card memory: %w", err)
	}
	if len(b) < len(nvmMagic)+8 || string(b[:len(nvmMagic)]) != nvmMagic {
		return nil, errors.New("loading card memory: not a card memory file")
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.ChecksumIEEE(body) != sum {
		return nil, errors.New("loading card memory: checksum wrong")
	}
	n := NewNVM(int(binary.BigEndian.Uint32(b[len(nvmMagic):])))
	n.data = body[len(nvmMagic)+4:]
	return n, nil
}
