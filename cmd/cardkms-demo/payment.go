package main

import (
	"bytes"
	"context"
	"crypto/des"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"cardkms/softhsm/cardsim"
)

// emvMaster makes two components of an issuer master key, 3DES with odd parity in each,
// with what custodians type and what the ceremony's file says.
func emvMaster() (value []byte, typed, described string) {
	one, two := oddParity(random(16)), oddParity(random(16))
	value = make([]byte, len(one))
	for i := range value {
		value[i] = one[i] ^ two[i]
	}
	described = fmt.Sprintf("{kcv: %q, components: [{custodian: alice, kcv: %q}, {custodian: bert, kcv: %q}]}", tdeaCheckValue(value), tdeaCheckValue(one), tdeaCheckValue(two))
	return value, hex.EncodeToString(one) + "\n" + hex.EncodeToString(two) + "\n", described
}

func oddParity(k []byte) []byte {
	for i := range k {
		if bits.OnesCount8(k[i])%2 == 0 {
			k[i] ^= 1
		}
	}
	return k
}

// tdeaCheckValue is 3DES over 8 zero bytes, the first 3 bytes.
func tdeaCheckValue(k []byte) string {
	b, err := des.NewTripleDESCipher(append(bytes.Clone(k), k[:8]...))
	if err != nil {
		panic("cardkms-demo: " + err.Error())
	}
	block := make([]byte, 8)
	b.Encrypt(block, block)
	return fmt.Sprintf("tdea-zero:%X", block[:3])
}

const bankPAN = "4929717171717171"

// payment has a bank card pay and take a new PIN, and somebody in between try to take
// the same cryptogram twice.
func (d *demo) payment(ctx context.Context) error {
	say("8. A bank card pays at a terminal. Its cryptogram comes to the issuer, who verifies it, answers it and sends a script with a new PIN:\n" +
		"   from ARQC to secured script in one call. The card's own code checks the answer and every command.")
	card, err := cardsim.PersonaliseEMV(d.issuer[0], d.issuer[1], d.issuer[2], bankPAN, "01")
	if err != nil {
		return err
	}
	data := random(37)
	atc, arqc := card.Transact(data)
	request, err := json.Marshal(map[string]any{
		"profile": "mchip-20", "key": "ac", "dki": "01", "pan": bankPAN, "psn": "01", "atc": fmt.Sprintf("%04X", atc),
		"data": hex.EncodeToString(data), "arqc": hex.EncodeToString(arqc), "code": "0010", "smi": "smi", "smc": "smc",
		"commands": []map[string]any{{"command": "84180000"}, {"command": "8424000208" + "249999FFFFFFFFFF", "encipher": true}},
	})
	if err != nil {
		return err
	}
	out, err := d.command(ctx, string(request), "cardkms", "emv", "script", "-")
	if err != nil {
		return err
	}
	if err := takeScript(card, strings.Fields(out)); err != nil {
		return err
	}
	fmt.Printf("    the card has verified the answer and taken both commands; its PIN block is %X\n", card.PIN())
	say("   The same cryptogram again:")
	out, err = d.command(ctx, string(request), "cardkms", "emv", "script", "-")
	if err == nil || !strings.Contains(out, "card_counter_not_rising") {
		return errors.New("a cryptogram served twice")
	}
	return nil
}

// takeScript gives the card the answer to its cryptogram and the commands of a script.
func takeScript(card *cardsim.EMVCard, lines []string) error {
	if len(lines) != 3 {
		return fmt.Errorf("%d lines, want an ARPC and two commands", len(lines))
	}
	var values [3][]byte
	for i, l := range lines {
		b, err := hex.DecodeString(l)
		if err != nil {
			return err
		}
		values[i] = b
	}
	if err := card.Authorise(values[0], [2]byte{0x00, 0x10}); err != nil {
		return err
	}
	for _, c := range values[1:] {
		if err := card.Script(c); err != nil {
			return err
		}
	}
	if !bytes.Equal(card.PIN(), []byte{0x24, 0x99, 0x99, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}) {
		return errors.New("the card has another PIN")
	}
	return nil
}
