package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"cardkms/softhsm/cardsim"
)

const bankPAN = "4929717171717171"

// payment has a bank card pay and take a new PIN, and somebody in between try to take
// the same cryptogram twice.
func (d *demo) payment(ctx context.Context) error {
	say("9. A bank card pays at a terminal. Its cryptogram comes to the issuer, who verifies it, answers it and sends a script with a new PIN:\n" +
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
	out, err := d.quiet(ctx, string(request), "cardkms", "emv", "script", "-")
	if err != nil {
		return err
	}
	for i, line := range strings.Fields(out) {
		fmt.Printf("    %-30s %s\n", []string{"ARPC", "secured APPLICATION UNBLOCK", "secured PIN CHANGE/UNBLOCK"}[min(i, 2)], line)
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
