package audit_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"time"

	"cardkms/audit"
)

// worked is the entry of the package comment.
func worked() audit.Entry {
	return audit.Entry{
		Sequence:  41,
		Time:      time.Date(2026, 11, 12, 9, 30, 0, 123000, time.UTC),
		Actor:     "spiffe://example.com/update-server/7",
		Role:      "update-server",
		Issuer:    "acme",
		Operation: "channel.authenticate",
		Object:    "channels/n1-00c4",
		Key:       "issuers/acme/keys/isd/versions/3",
		Request:   "4bf92f3577b34da6",
		Digest:    sha256.Sum256([]byte("abc")),
		Decision:  audit.Allowed,
		Outcome:   audit.OutcomeOK,
		Algorithm: audit.Approved,
		Card:      "6d1c0de5a1f00d42",
		Detail:    map[string]string{"level": "33", "apdus": "1"},
	}
}

func ExampleEntry_Encode() {
	e := worked()
	encoding, err := e.Encode()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(encoding))
	// Output:
	// cardkms-audit-entry/1
	// sequence 41
	// time 2026-11-12T09:30:00.000123000Z
	// actor spiffe://example.com/update-server/7
	// role update-server
	// issuer acme
	// operation channel.authenticate
	// object channels/n1-00c4
	// key issuers/acme/keys/isd/versions/3
	// request 4bf92f3577b34da6
	// digest ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
	// decision allowed
	// outcome ok
	// intent -
	// algorithm approved
	// card 6d1c0de5a1f00d42
	// previous -
	// state -
	// detail apdus=1 level=33
}

func ExampleLeafHash() {
	e := worked()
	encoding, err := e.Encode()
	if err != nil {
		fmt.Println(err)
		return
	}
	h := audit.LeafHash(encoding)
	fmt.Printf("%x\n", h[:])
	// Output:
	// a6c5a80605121ebffbf4055759b55836d9e2af930fb71a466eaeff12240ccd4b
}

func ExampleSignCheckpoint() {
	key := ed25519.NewKeyFromSeed(make([]byte, 32)) // in the product it is inside a token
	signer, err := audit.NewSigner("kms.example.com/audit", key.Public().(ed25519.PublicKey),
		func(msg []byte) ([]byte, error) { return ed25519.Sign(key, msg), nil })
	if err != nil {
		fmt.Println(err)
		return
	}
	e := worked()
	encoding, err := e.Encode()
	if err != nil {
		fmt.Println(err)
		return
	}
	c := audit.Checkpoint{Origin: "kms.example.com/audit", Size: 1, Root: audit.LeafHash(encoding)}
	msg, err := audit.SignCheckpoint(c, signer)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(msg))
	// Output:
	// kms.example.com/audit
	// 1
	// psWoBgUSHr/79AVXWbVYNtnir5MPtxpGbq7/EiQMzUs=
	//
	// — kms.example.com/audit NkeP4i01DCW4/9O5fCHlcnSnYhNsGpKecaufgFiiU3p4EPd7xrl3gQ6iRLKAoMI0GnoKHTRV//kftx8QRedOaQf5DQM=
}
