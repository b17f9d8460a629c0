package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net"

	"cardkms/softhsm/cardsim"
)

// runCard is a simulated card by itself, for whoever walks through the service with
// keys that they brought in by components and so know.
func runCard(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("cardkms-demo card", flag.ContinueOnError)
	listen := f.String("listen", "127.0.0.1:9000", "`HOST:PORT` of the reader that the card is in")
	master := f.String("master", "", "the gp-scp03 master (kdf3) in `HEX`, as the test ceremony's components make it")
	updateMaster := f.String("update-master", "", "the card-update master in `HEX`; without it the card takes no packages of suite 01")
	id := f.String("kdd", hex.EncodeToString(kdd[:]), "key diversification data in `HEX`")
	version := f.Uint("kvn", kvn, "Key Version Number of the card's keys")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	cfg := cardsim.Config{
		ISD: isd, I: cardI, ClassID: class, Component: isd, Version: [8]byte{1}, SecurityCounter: 1,
		Image: []byte("factory image"), BankBytes: imageBytes,
	}
	if b, err := hex.DecodeString(*id); err != nil || copy(cfg.KDD[:], b) != len(cfg.KDD) {
		return errors.New("-kdd has 20 hexadecimal digits")
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
	fmt.Printf("A card with KDD %X and keys of KVN %02X is in the reader tcp:%s; it forgets everything when this ends.\n", cfg.KDD, keys.KVN, l.Addr())
	return (&cardsim.Server{Card: card}).Serve(ctx, l)
}

func masterOf(flag, text string) ([]byte, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 16 && len(b) != 24 && len(b) != 32 {
		return nil, fmt.Errorf("%s is an AES key of 16, 24 or 32 bytes in hexadecimal: of a test, never of a real card", flag)
	}
	return b, nil
}
