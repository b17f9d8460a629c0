package derive_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"encoding/hex"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/kms/key"
)

func blockCipher(t *testing.T, algorithm string, k []byte) cipher.Block {
	t.Helper()
	b, err := aes.NewCipher(k)
	if algorithm == "3des" {
		b, err = des.NewTripleDESCipher(append(bytes.Clone(k), k[:24-len(k)]...))
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPublishedCMAC compares the CMAC that is built from LastBlock and Double
// with the examples of SP 800-38B, AES and 3DES, and of RFC 4493.
func TestPublishedCMAC(t *testing.T) {
	var file struct {
		Examples []struct {
			Algorithm string
			Key       derivetest.Octets
			Message   derivetest.Octets
			MAC       derivetest.Octets
		} `json:"sp800_38b"`
		RFC struct {
			Key   derivetest.Octets
			Zero  derivetest.Octets `json:"aes_zero"`
			K1    derivetest.Octets
			K2    derivetest.Octets
			Cases []struct{ Message, MAC derivetest.Octets }
		} `json:"rfc4493"`
	}
	derivetest.ReadVectors(t, "std_cmac.json", &file)
	if len(file.Examples) != 20 || len(file.RFC.Cases) != 4 {
		t.Fatalf("the file has %d and %d cases, want 20 and 4", len(file.Examples), len(file.RFC.Cases))
	}
	for i, c := range file.Examples {
		got := derivetest.CMAC(blockCipher(t, c.Algorithm, c.Key), c.Message, 1)
		if !bytes.Equal(got[:len(c.MAC)], c.MAC) {
			t.Errorf("example %d (%s): %X, want %X", i, c.Algorithm, got, c.MAC)
		}
	}
	rfc := blockCipher(t, "aes128", file.RFC.Key)
	sub := make([]byte, 16)
	rfc.Encrypt(sub, sub)
	for _, want := range []derivetest.Octets{file.RFC.Zero, file.RFC.K1, file.RFC.K2} {
		if !bytes.Equal(sub, want) {
			t.Errorf("a subkey is %X, want %X", sub, want)
		}
		derive.Double(sub)
	}
	for i, c := range file.RFC.Cases {
		if got := derivetest.CMAC(rfc, c.Message, 1); !bytes.Equal(got, c.MAC) {
			t.Errorf("RFC 4493 case %d: %X, want %X", i, got, c.MAC)
		}
	}
}

func TestPad2(t *testing.T) {
	for _, c := range []struct {
		in, want string
		size     int
	}{
		{"", "8000000000000000", 8},
		{"01", "0180000000000000", 8},
		{"01020304050607", "0102030405060780", 8},
		{"0102030405060708", "01020304050607088000000000000000", 8},
		{"", "80000000000000000000000000000000", 16},
	} {
		in, _ := hex.DecodeString(c.in)
		if got := hex.EncodeToString(derive.Pad2(in, c.size)); got != c.want {
			t.Errorf("Pad2(%s, %d) = %s, want %s", c.in, c.size, got, c.want)
		}
	}
}

// TestLastBlock states the split at every edge: empty, one short of a block, a
// block, one more, and the two-block minimum of AN10922, whose padding spans
// both blocks.
func TestLastBlock(t *testing.T) {
	type split struct {
		Head, Last string
		Padded     bool
	}
	for _, c := range []struct {
		in     string
		blocks int
		want   split
	}{
		{"", 1, split{"", "8000000000000000", true}},
		{"01020304050607", 1, split{"", "0102030405060780", true}},
		{"0102030405060708", 1, split{"", "0102030405060708", false}},
		{"010203040506070809", 1, split{"0102030405060708", "0980000000000000", true}},
		{"01", 2, split{"0180000000000000", "0000000000000000", true}},
		{"0102030405060708", 2, split{"0102030405060708", "8000000000000000", true}},
		{"01020304050607080910111213141516", 2, split{"0102030405060708", "0910111213141516", false}},
	} {
		in, _ := hex.DecodeString(c.in)
		head, last, padded := derive.LastBlock(in, 8, c.blocks)
		got := split{hex.EncodeToString(head), hex.EncodeToString(last), padded}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("LastBlock(%s, 8, %d): %s", c.in, c.blocks, d)
		}
		if hex.EncodeToString(in) != c.in {
			t.Errorf("LastBlock changed its input %s", c.in)
		}
	}
}

// independentCMAC is written from SP 800-38B with big integers and CBC from the
// standard library, and shares nothing with package derive.
func independentCMAC(b cipher.Block, message []byte) []byte {
	n := b.BlockSize()
	l := make([]byte, n)
	b.Encrypt(l, l)
	sub := new(big.Int).SetBytes(l)
	double := func() {
		sub.Lsh(sub, 1)
		if sub.Bit(8*n) == 1 {
			sub.SetBit(sub, 8*n, 0)
			sub.Xor(sub, big.NewInt(map[int]int64{8: 0x1B, 16: 0x87}[n]))
		}
	}
	double()
	m := bytes.Clone(message)
	if len(m) == 0 || len(m)%n != 0 {
		double()
		m = append(m, 0x80)
		for len(m)%n != 0 {
			m = append(m, 0)
		}
	}
	end := m[len(m)-n:]
	new(big.Int).Xor(new(big.Int).SetBytes(end), sub).FillBytes(end)
	cipher.NewCBCEncrypter(b, make([]byte, n)).CryptBlocks(m, m)
	return m[len(m)-n:]
}

func TestCMACProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		alg := rapid.SampledFrom([]key.Algorithm{key.AES128, key.AES192, key.AES256, key.TDEA2, key.TDEA3}).Draw(rt, "algorithm")
		value := rapid.SliceOfN(rapid.Byte(), alg.Size(), alg.Size()).Draw(rt, "key")
		message := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(rt, "message")
		b := derivetest.Cipher(alg, value)
		got, want := derivetest.CMAC(b, message, 1), independentCMAC(b, message)
		if !bytes.Equal(got, want) {
			rt.Fatalf("CMAC = %X, want %X", got, want)
		}
	})
}
