package main

import (
	"bytes"
	"context"
	"crypto/des"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cardkms/softhsm/cardsim"
)

const (
	oldKVN    = 0x20
	oldI      = 0x75 // explicit initiation, three keys, R-MAC, pseudo-random challenge
	oldKey    = "issuers/demo/keys/old/versions/1"
	oldDays   = 30
	oldSerial = "80CA9F7F00" // GET DATA: the card's serial number and maker
)

// loadOldKey brings in the master of cards that know only SCP02, and tells the service
// what such cards are like.
func (d *demo) loadOldKey(ctx context.Context) error {
	say("   The issuer also has cards of ten years ago, which know SCP02 and 3DES only. Their master comes in the same way.")
	var typed, master string
	d.oldMaster, typed, master = tdeaMaster()
	file := filepath.Join(d.dir, "old.yaml")
	ceremony := "ceremony: Master of the old cards\nconfiguration: cardkms.yaml\npresent: [ada, bob]\ntogether: true\nkeys:\n" +
		"  - {issuer: demo, key: old, usage: gp-scp02, kvn: \"20\", diversification: visa2, master: " + master + "}\nprofiles:\n" +
		described("old-cards", "scp02", fmt.Sprintf("i: \"%X\"\nlevel: \"13\"\nkeys: {algorithm: tdea-2key, diversification: visa2, kvn: {from: \"20\", to: \"2F\"}}", oldI))
	if err := os.WriteFile(file, []byte(ceremony), 0o600); err != nil {
		return err
	}
	if err := d.sign(ctx, file); err != nil {
		return err
	}
	_, err := d.command(ctx, typed, "cardkmsd", "ceremony", "run", "--yes", file)
	return err
}

// tdeaMaster makes a 3DES key of two components, with what their custodians type and
// what the ceremony's file says. A component has odd parity; the other one has it too
// if the key's is even, which the cipher ignores.
func tdeaMaster() (value []byte, typed, described string) {
	value, one := random(16), random(16)
	setParity(value, 0)
	setParity(one, 1)
	typed, described = split(value, one, checkValue3DES)
	return value, typed, described
}

// setParity makes the number of ones in each byte even (0) or odd (1).
func setParity(key []byte, parity int) {
	for i, b := range key {
		if bits.OnesCount8(b)%2 != parity {
			key[i] ^= 1
		}
	}
}

// checkValue3DES is that of a 3DES key: 3DES over 8 zero bytes, the first 3 bytes.
func checkValue3DES(k []byte) string {
	c, err := des.NewTripleDESCipher(append(bytes.Clone(k), k[:8]...))
	if err != nil {
		panic("cardkms-demo: " + err.Error())
	}
	block := make([]byte, 8)
	c.Encrypt(block, block)
	return fmt.Sprintf("tdea-zero:%X", block[:3])
}

// oldCard has a card of SCP02 refused, excepted and served.
func (d *demo) oldCard(ctx context.Context) error {
	address, err := d.putOldCard(ctx)
	if err != nil {
		return err
	}
	ask := []string{"channel", "run", "--card", address, "--key", "old", "--card-profile", "old-cards", "--kvn", "20", oldSerial}
	say("8. A card of ten years ago beside it. SCP02 is broken, so the service does not speak it:")
	out, err := d.command(ctx, "", "cardkms", ask...)
	if err == nil || !strings.Contains(out, "legacy_refused") {
		return errors.New("SCP02 was spoken without an exception")
	}
	say("   Such cards still have to be reached. Officers approve an exception for this one key, which ends by itself.")
	until := time.Now().UTC().AddDate(0, 0, oldDays).Format(time.DateOnly)
	if err := d.decide(ctx, "key.allow-legacy", oldKey, "until="+until, "reason=old-cards-are-being-replaced"); err != nil {
		return err
	}
	say("   Now card and service prove themselves to each other by SCP02, and the card answers with its serial number:")
	if out, err = d.quiet(ctx, "", "cardkms", ask...); err != nil {
		return err
	}
	answer, ok := strings.CutSuffix(strings.TrimSpace(out), "9000")
	if !ok || !strings.HasPrefix(answer, "9F7F") {
		return errors.New("the card of SCP02 did not answer")
	}
	fmt.Printf("    GET DATA 9F7F (serial number and maker): %s, status 9000\n", answer)
	say("   Each use stands in the log as legacy, and the auditor's report counts down the days:")
	out, err = d.command(ctx, "", "cardkms", "audit", "report", "algorithms", "--as", "auditor", "--log-key", filepath.Join(d.dir, "log.vkey"))
	if err == nil && !strings.Contains(out, until) {
		err = errors.New("the report does not say when the exception ends")
	}
	return err
}

// putOldCard puts a card with keys of SCP02 into a reader. Its keys of SCP03, without
// which the simulation knows no card, nobody has.
func (d *demo) putOldCard(ctx context.Context) (string, error) {
	kdd := [10]byte{9: 0x02}
	nobody, err := cardsim.Personalise(random(32), kdd, kvn, 16)
	if err != nil {
		return "", err
	}
	card, err := cardsim.New(cardsim.Config{
		KDD: kdd, ISD: isd, KeySets: []cardsim.KeySet{nobody}, I: cardI, Legacy: cardsim.PersonaliseLegacy(d.oldMaster, kdd, oldKVN, oldI),
	}, nil)
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() { _ = (&cardsim.Server{Card: card}).Serve(ctx, l) }()
	return "tcp:" + l.Addr().String(), nil
}
