package approval_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"time"

	"cardkms/kms/approval"
)

// example is the proposal of the package comment.
func example() approval.Proposal {
	return approval.Proposal{
		ID: "4bf92f3577b34da6a3ce929d0e0e4736", Issuer: "acme", Operation: "card.release",
		Object: "issuers/acme/cards/6d1c0de5a1f00d42", Expected: 7, Proposer: "ada",
		Created: time.Date(2026, 11, 12, 9, 30, 0, 0, time.UTC),
		Expires: time.Date(2026, 11, 13, 9, 30, 0, 0, time.UTC),
		Params:  map[string]string{"reason": "reader-was-broken"},
	}
}

func ExampleProposal_Encode() {
	encoding, err := example().Encode()
	fmt.Printf("%s%v\n", encoding, err)
	// Output:
	// cardkms-proposal/1
	// id 4bf92f3577b34da6a3ce929d0e0e4736
	// issuer acme
	// operation card.release
	// object issuers/acme/cards/6d1c0de5a1f00d42
	// expected 7
	// proposer ada
	// created 2026-11-12T09:30:00Z
	// expires 2026-11-13T09:30:00Z
	// params reason=reader-was-broken
	// <nil>
}

func ExampleStatement() {
	digest, err := example().Digest()
	if err != nil {
		panic(err)
	}
	statement := approval.Statement(approval.Approve, digest)
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	fmt.Print(string(statement))
	fmt.Println(hex.EncodeToString(ed25519.Sign(key, statement)))
	// Output:
	// cardkms-approval/1
	// approve
	// 0c6f5e79c80fba520cef693a9b80ce57daeb057596cf01fac59cff94a231c19c
	// c40548816a6f9bd1b34d53cda6bb4bfcdc634c598f75828fa15329723bdd37ca7add606c36ae5cc688e67141d9fc0c1fd758e665fa988943dc7bef1b5e4eee07
}
