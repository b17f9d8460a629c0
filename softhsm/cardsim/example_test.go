package cardsim_test

import (
	"errors"
	"fmt"

	"cardkms/softhsm/cardsim"
)

func exampleConfig() cardsim.Config {
	return cardsim.Config{
		KDD:       [10]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9},
		ISD:       []byte{0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00},
		KeySets:   []cardsim.KeySet{{KVN: 0x30, ENC: make([]byte, 16), MAC: make([]byte, 16), DEK: make([]byte, 16)}},
		I:         0x70,
		UpdateKey: cardsim.UpdateKey{KVN: 0x5A, ID: 0x01, Value: make([]byte, 16)},
		Component: []byte{0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00},
	}
}

// A command is torn at its first write; after the next power on the card works, and no counter value is told twice.
func Example() {
	card, err := cardsim.New(exampleConfig(), cardsim.NewNVM(128))
	if err != nil {
		fmt.Println(err)
		return
	}
	selectCounter := []byte{0x00, 0xA4, 0x04, 0x00, 0x09, 0xF0, 'C', 'A', 'R', 'D', 'S', 'I', 'M', 0x01}
	generate := []byte{0x80, 0xAE, 0x00, 0x00, 0x00}

	fmt.Printf("ATR %X\n", card.PowerOn())
	card.Transmit(selectCounter)
	answer, _ := card.Transmit(generate)
	fmt.Printf("%X\n", answer)

	card.NVM().CutAt(1, cardsim.TearHalf)
	_, err = card.Transmit(generate)
	fmt.Println(errors.Is(err, cardsim.ErrTorn))

	card.PowerOn()
	card.Transmit(selectCounter)
	answer, _ = card.Transmit(generate)
	fmt.Printf("%X\n", answer)
	// Output:
	// ATR 3B800181
	// 00019000
	// true
	// 00029000
}

// The transcript of the ordinary functions is the same after a reset, but for what must be new.
func ExampleGoldenTranscript() {
	card, _ := cardsim.New(exampleConfig(), nil)
	card.PowerOn()
	before := cardsim.GoldenTranscript(card)
	after := cardsim.GoldenTranscript(card)
	fmt.Println(len(before), "exchanges,", cardsim.SameTranscript(before, after))
	fmt.Println("replayed:", cardsim.SameTranscript(before, before))
	// Output:
	// 31 exchanges, <nil>
	// replayed: cardsim: authentication 30 level 00: challenge repeated
}
