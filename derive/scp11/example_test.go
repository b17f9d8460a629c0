package scp11_test

import (
	"crypto/ecdh"
	"fmt"

	"cardkms/derive/scp11"
)

// The command of SCP11b for a card's key of version 01.
func ExampleVariant_Authenticate() {
	ephemeral, err := ecdh.P256().NewPrivateKey(append(make([]byte, 31), 1)) // a token makes it
	if err != nil {
		panic(err)
	}
	fmt.Printf("%X\n", scp11.B.Authenticate(0x01, ephemeral.PublicKey()).Bytes()[:24])
	// Output: 8088011353A60D9002110095013C8001888101105F494104
}
