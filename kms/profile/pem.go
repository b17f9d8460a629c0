package profile

import (
	"bytes"
	"encoding/pem"

	"cardkms/kms/fault"
)

// DecodePEM returns the certificates of a text in PEM ([RFC 7468], Section 5) in which nothing
// else stands. A block that is damaged is an error: package pem goes on behind it, and an
// authority would vanish.
func DecodePEM(text []byte) (out [][]byte, err error) {
	begin := []byte("-----BEGIN ")
	n := bytes.Count(text, begin)
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		clean := bytes.HasPrefix(rest, begin)
		if block, rest = pem.Decode(rest); !clean || block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, errPEM
		}
		out = append(out, block.Bytes)
	}
	if len(out) != n {
		return nil, errPEM
	}
	return out, nil
}

var errPEM = fault.New(fault.InvalidInput, "this is not certificates in PEM and nothing else")
