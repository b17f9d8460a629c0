package probe

import (
	"context"
	"crypto/ecdh"
	"fmt"

	"cardkms/derive"
)

// Agreer is a token that may be able to derive as SCP11 does, inside: see package hsm. The
// service speaks no SCP11.
type Agreer interface {
	AgreementMACs(ctx context.Context, ours, peers [2][]byte, info, message []byte) ([5][]byte, error)
}

// agreement is a vector of SCP11: both parties' private keys, and the five keys.
type agreement struct {
	Curve         string
	Ephemeral     octets `json:"esk_oce"`
	Static        octets `json:"sk_oce"`
	CardEphemeral octets `json:"esk_sd"`
	CardStatic    octets `json:"sk_sd"`
	Usage         byte   `json:"key_usage"`
	Type          byte   `json:"key_type"`
	Length        byte   `json:"key_len"`
	Data          octets `json:"receipt_data"`
	out           struct {
		Receipt, SENC, SMAC, SRMAC, DEK octets
		Key                             octets `json:"receipt_key"`
	}
}

// runAgreement derives the keys of a vector inside the token and compares what each
// computes with what the known key computes, and the receipt.
func runAgreement(b *bench, v standard) error {
	var in agreement
	if err := v.parse(&in, &in.out); err != nil {
		return err
	}
	t, ok := b.token.(Agreer)
	if !ok {
		return skip("the token agrees on no secrets")
	}
	if in.Curve != "P-256" {
		return skip("only agreements on P-256 are run")
	}
	peers, err := publics(in.CardEphemeral, in.CardStatic)
	if err != nil {
		return err
	}
	macs, err := t.AgreementMACs(b.ctx, [2][]byte{in.Ephemeral, in.Static}, peers, []byte{in.Usage, in.Type, in.Length}, in.Data)
	if err != nil {
		return err
	}
	if err := equals("the receipt", macs[0], in.out.Receipt, nil); err != nil {
		return err
	}
	for i, known := range []octets{in.out.Key, in.out.SENC, in.out.SMAC, in.out.SRMAC, in.out.DEK} {
		if len(known) == 0 {
			return errNoAnswer
		}
		k, err := b.aes(derive.SessionMAC, known)
		if err != nil {
			return err
		}
		want, err := b.token.MAC(b.ctx, k, in.Data)
		if err := equals(fmt.Sprintf("the MAC under key %d", i+1), macs[i], want, err); err != nil {
			return err
		}
	}
	return nil
}

// publics returns the public points of private keys that a vector gives.
func publics(scalars ...octets) (points [2][]byte, err error) {
	for i, s := range scalars {
		k, err := ecdh.P256().NewPrivateKey(s)
		if err != nil {
			return points, err
		}
		points[i] = k.PublicKey().Bytes()
	}
	return points, nil
}
