package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"

	"cardkms/softhsm/cardsim"
)

// cardUsage is an errUsage about the flags of the card.
type cardUsage string

func (e cardUsage) Error() string {
	return "cardkms-demo card: " + string(e) + `; "cardkms-demo card -help" lists its flags`
}

func (e cardUsage) Is(target error) bool { return target == errUsage }

// runCard is a simulated card by itself, for whoever walks through the service with
// keys that they brought in by components and so know.
func runCard(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("cardkms-demo card", flag.ContinueOnError)
	f.SetOutput(io.Discard) // main prints what is wrong, and once
	listen := f.String("listen", "127.0.0.1:9000", "`HOST:PORT` of the reader that the card is in")
	master := f.String("master", "", "the gp-scp03 master (kdf3) in `HEX`, as the test ceremony's components make it")
	updateMaster := f.String("update-master", "", "the card-update master in `HEX`; without it the card takes no packages of suite 01")
	id := f.String("kdd", hex.EncodeToString(kdd[:]), "key diversification data in `HEX`")
	version := f.Uint("kvn", kvn, "Key Version Number of the card's keys, e.g. 0x30")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.SetOutput(os.Stdout)
			f.Usage()
			return nil
		}
		return cardUsage(err.Error())
	}
	if f.NArg() > 0 {
		return cardUsage(fmt.Sprintf("%q is no flag", f.Arg(0)))
	}
	cfg := cardsim.Config{
		ISD: isd, I: cardI, ClassID: class, Component: isd, Version: [8]byte{1}, SecurityCounter: 1,
		Image: []byte("factory image"), BankBytes: imageBytes,
	}
	if b, err := hex.DecodeString(*id); err != nil || copy(cfg.KDD[:], b) != len(b) || len(b) != len(cfg.KDD) {
		return cardUsage("-kdd has 20 hexadecimal digits")
	}
	if *version < 0x01 || *version > 0x7F { // what PUT KEY of this card takes
		return cardUsage("-kvn is 0x01 to 0x7F")
	}
	secret, err := masterOf("-master", *master)
	if err != nil {
		return err
	}
	keys, err := cardsim.Personalise(secret, cfg.KDD, byte(*version), 16)
	if err != nil {
		return err
	}
	cfg.KeySets = []cardsim.KeySet{keys}
	if *updateMaster != "" {
		if secret, err = masterOf("-update-master", *updateMaster); err != nil {
			return err
		}
		if cfg.UpdateKey, err = cardsim.PersonaliseUpdate(secret, cfg.KDD, updateKVN, 16); err != nil {
			return err
		}
	}
	card, err := cardsim.New(cfg, nil)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", *listen)
	if err != nil {
		return err
	}
	fmt.Println(introduction(cfg, l.Addr()))
	return (&cardsim.Server{Card: card}).Serve(ctx, l)
}

// introduction says what whoever signs an image for a card, and opens a channel to it, has
// to know.
func introduction(c cardsim.Config, at net.Addr) string {
	return fmt.Sprintf("A card of class %X, component %X, version %X, security counter %d, KDD %X and KVN %02X is in the reader tcp:%s; it forgets everything when this ends.",
		c.ClassID, c.Component, c.Version, c.SecurityCounter, c.KDD, c.KeySets[0].KVN, at)
}

func masterOf(flag, text string) ([]byte, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 16 && len(b) != 24 && len(b) != 32 {
		return nil, cardUsage(flag + " is an AES key of 16, 24 or 32 bytes in hexadecimal: of a test, never of a real card")
	}
	return b, nil
}
