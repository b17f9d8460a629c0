package cardsim

import (
	"encoding/hex"
	"fmt"
)

// The commit object of the vector self-cup1-0: sequence number 7, security counter 3, the digest of the image, under the K_mac
// of the package and bound to the MAC of its manifest.
func Example_commit() {
	fromHex := func(s string) []byte { b, _ := hex.DecodeString(s); return b }
	p := heldPackage{
		manifest: manifest{
			suite: suiteAES, seq: 7, counter: 3,
			digest: [32]byte(fromHex("823156B2A0362F65EE5302513F7EE7EC8B44F5E3370AFF115494267AE0EF10F2")),
			mac:    fromHex("E770BE04775D00C2A4DC4E65A2B145C3"),
		},
		kMAC: fromHex("C73FCE3BDDB10E6DE28C65FD91979BA7"),
	}
	object := p.sealCommit()
	fmt.Printf("%X\n%X\n%X\n", object[:14], object[14:48], object[48:])
	// Output:
	// E42E820400000007880400000003
	// 8A20823156B2A0362F65EE5302513F7EE7EC8B44F5E3370AFF115494267AE0EF10F2
	// 8E1074004A05DCAC1D8A46BA2FDB6B927465
}
