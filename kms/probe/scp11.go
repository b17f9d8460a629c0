package probe

import (
	"crypto/ecdh"
	"fmt"

	"cardkms/derive"
	"cardkms/kms/key"
)

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
// computes with what the known key computes, and the receipt. Each is made to compute MACs
// here, whatever it does in a session.
func runAgreement(b *bench, v standard) error {
	var in agreement
	if err := v.parse(&in, &in.out); err != nil {
		return err
	}
	if in.Curve != "P-256" {
		return skip("only agreements on P-256 are run")
	}
	z, err := in.secret(b)
	if err != nil {
		return err
	}
	for i, known := range []octets{in.out.Key, in.out.SENC, in.out.SMAC, in.out.SRMAC, in.out.DEK} {
		if len(known) == 0 {
			return errNoAnswer
		}
		k := z.Derive(derive.Step{
			Function: derive.X963, After: []byte{in.Usage, in.Type, in.Length}, Offset: byte(16 * i), Class: derive.SessionMAC, Algorithm: key.AES128,
		})
		b.cleanup = append(b.cleanup, func() { b.token.Release(k) })
		got, err := b.token.MAC(b.ctx, k, in.Data)
		if err != nil {
			return err
		}
		if i == 0 {
			if err := equals("the receipt", got, in.out.Receipt, nil); err != nil {
				return err
			}
		}
		same, err := b.aes(derive.SessionMAC, known)
		if err != nil {
			return err
		}
		want, err := b.token.MAC(b.ctx, same, in.Data)
		if err := equals(fmt.Sprintf("the MAC under key %d", i+1), got, want, err); err != nil {
			return err
		}
	}
	return nil
}

// secret agrees with the card of a vector, whose private keys it gives as well.
func (in agreement) secret(b *bench) (*derive.Key, error) {
	var ours [2]*derive.Key
	var peers [2]*ecdh.PublicKey
	for i, s := range []octets{in.CardEphemeral, in.CardStatic} {
		k, err := ecdh.P256().NewPrivateKey(s)
		if err != nil {
			return nil, err
		}
		peers[i] = k.PublicKey()
	}
	for i, s := range []octets{in.Ephemeral, in.Static} {
		k, err := b.add(key.ECP256, derive.Agreeing, s)
		if err != nil {
			return nil, err
		}
		ours[i] = k
	}
	z, err := b.token.Agree(b.ctx, ours, peers)
	if err == nil {
		b.cleanup = append(b.cleanup, func() { b.token.Release(z) })
	}
	return z, err
}
