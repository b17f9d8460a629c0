package update_test

import (
	"context"
	"fmt"

	"cardkms/derive/derivetest"
	"cardkms/kms/update"
)

// The worked example of the package comment: the keys of vector self-cup1-0.
func ExamplePackageKeys() {
	var tok derivetest.Token
	keys := update.PackageKeys(kUPD(&tok, 16), unhex("00112233445566778899AABBCCDDEEFF"))
	fmt.Printf("K_enc %X\n", tok.Value(keys.ENC))
	fmt.Printf("K_mac %X\n", tok.Value(keys.MAC))
	// Output:
	// K_enc 432DBE9E1F29FA97E2357E73FF986A49
	// K_mac C73FCE3BDDB10E6DE28C65FD91979BA7
}

// The package of the same vector: its manifest, the beginning of its first chunk,
// and the first command that carries the manifest, not yet secured.
func ExampleNewPackage() {
	ctx := context.Background()
	var tok derivetest.Token
	m := sampleManifest()
	p, err := update.NewPackage(ctx, &tok, m, update.PackageKeys(kUPD(&tok, 16), m.Context))
	if err != nil {
		fmt.Println(err)
		return
	}
	from, to := m.ChunkRange(1)
	chunk, err := p.Seal(ctx, &tok, 1, content(2500)[from:to])
	if err != nil {
		fmt.Println(err)
		return
	}
	script, err := update.StoreData(p.Encoded, 223, false)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("manifest %d bytes, %X … %X\n", len(p.Encoded), p.Encoded[:12], p.Encoded[len(p.Encoded)-18:])
	fmt.Printf("chunk 1 of %d, %d bytes, %X …\n", m.Chunks(), len(chunk), chunk[:22])
	fmt.Printf("%d command, %X\n", len(script), script[0].Bytes()[:5])
	// Output:
	// manifest 175 bytes, E1819A800101810101820400 … 8E10E770BE04775D00C2A4DC4E65A2B145C3
	// chunk 1 of 3, 1064 bytes, E38204248003000001878204110161D8E07977575A20 …
	// 1 command, 80E29100AF
}
