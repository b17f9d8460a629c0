package audit_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"time"

	"cardkms/audit"

	"golang.org/x/mod/sumdb/tlog"
)

// worked is the entry of the package comment.
func worked() audit.Entry {
	return audit.Entry{
		Sequence:  41,
		Time:      time.Date(2026, 11, 12, 9, 30, 0, 123000, time.UTC),
		Actor:     "spiffe://example.com/update-server/7",
		Origin:    "192.0.2.17",
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
	// origin 192.0.2.17
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
	// d02b3a65b60de4e8237af83b1bf33fc9ef1ff6c0847ec65782d110bfe7d2fb5b
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
	// 0Cs6ZbYN5Ogjevg7G/M/ye8f9sCEfsZXgtEQv+fS+1s=
	//
	// — kms.example.com/audit NkeP4uCygwOa05rFX0WTxuWkTiXIEWEztyMY5915WSKM5ILl7OvWPE4TDnc0aaTDcTFaZxJYP4/767oIlD1IhDMMTQc=
}

func ExampleNewCosigner() {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	at := func() time.Time { return time.Date(2026, 11, 12, 9, 31, 0, 0, time.UTC) }
	witness, err := audit.NewCosigner("witness.example.com/w1", key, at)
	if err != nil {
		fmt.Println(err)
		return
	}
	msg, err := audit.SignCheckpoint(audit.Checkpoint{Origin: "kms.example.com/audit", Size: 1}, witness)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(msg))
	// Output:
	// kms.example.com/audit
	// 1
	// AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
	//
	// — witness.example.com/w1 27pKCAAAAABq9YdUzHovknNtxONalWn7Th97+eXJBgIfqLf88unvv4/pq3gtRxaaXOuvFqC1d0c9QEi6J92q/0HIBMLHhK7edVSyAQ==
}

func ExampleProof_Format() {
	p := audit.Proof{Index: 1, Hashes: tlog.RecordProof{{1}, {2}}, Checkpoint: []byte("kms.example.com/audit\n3\n...\n")}
	fmt.Print(string(p.Format()))
	// Output:
	// c2sp.org/tlog-proof@v1
	// index 1
	// AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
	// AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
	//
	// kms.example.com/audit
	// 3
	// ...
}
