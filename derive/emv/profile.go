package emv

import (
	"context"
	"encoding/binary"
	"maps"
	"slices"

	"cardkms/derive"
	"cardkms/kms/fault"
)

// Profile is what a scheme says of the cards with one cryptogram version number (CVN).
type Profile struct {
	Option       Option
	Cryptogram   Derivation // of the key of ARQC, TC and AAC
	Padding      Padding
	Method       Method
	ARPC         Derivation // of the key of the ARPC
	Script       Derivation // of the keys of scripts
	Encipherment Encipherment
	// Unbound: the MACs of a script cover neither ATC nor ARQC.
	Unbound bool
	// ATCAt is where the data of the cryptogram holds the ATC, 0 where the key follows
	// from it anyway.
	ATCAt int
	// Format1: scripts are secured in Format 1, otherwise in Format 2.
	Format1 bool
}

// profiles follow the table of independent implementations that agree with each
// other: pyemv and jPOS, see testdata. 17 and 21 are 16 and 20 with the counters in
// the data of the cryptogram, which the caller passes. ccd-5 and aes-c are the cards of
// the Common Core Definitions of [EMV2] with cryptogram versions 5 (3DES) and 6 (AES), as
// two cards in software have them: mrautio/emv-card-simulator and strexp/card42, of which
// card42 alone knows AES.
var profiles = map[string]Profile{
	"visa-10": {
		Option: OptionA, Cryptogram: MasterItself, Padding: Padding1, Method: Method1,
		ARPC: MasterItself, Script: VisaXOR, Encipherment: ECB, ATCAt: 31,
	},
	"visa-18": {
		Option: OptionB, Cryptogram: CSK, Padding: Padding2, Method: Method2,
		ARPC: CSK, Script: VisaXOR, Encipherment: ECB,
	},
	"visa-22": {
		Option: OptionB, Cryptogram: CSK, Padding: Padding2, Method: Method2,
		ARPC: CSK, Script: CSK, Encipherment: ECB,
	},
	"mchip-16": {
		Option: OptionA, Cryptogram: SKD, Padding: Padding2, Method: Method1,
		ARPC: MasterItself, Script: CSK, Encipherment: CBC,
	},
	"mchip-17": {
		Option: OptionA, Cryptogram: SKD, Padding: Padding2, Method: Method1,
		ARPC: MasterItself, Script: CSK, Encipherment: CBC,
	},
	"mchip-20": {
		Option: OptionA, Cryptogram: CSK, Padding: Padding2, Method: Method1,
		ARPC: CSK, Script: CSK, Encipherment: CBC,
	},
	"mchip-21": {
		Option: OptionA, Cryptogram: CSK, Padding: Padding2, Method: Method1,
		ARPC: CSK, Script: CSK, Encipherment: CBC,
	},
	"interac-133": {
		Option: OptionA, Cryptogram: SKD, Padding: Padding2, Method: Method1,
		ARPC: SKD, Script: CSK, Encipherment: CBC, Unbound: true,
	},
	"ccd-5": {
		Option: OptionB, Cryptogram: CSK, Padding: Padding2, Method: Method2,
		ARPC: CSK, Script: CSK, Encipherment: CBCPadded, Format1: true,
	},
	"aes-c": {
		Option: OptionC, Cryptogram: CSK, Padding: Padding2, Method: Method2,
		ARPC: CSK, Script: CSK, Encipherment: CBCPadded, Format1: true,
	},
}

// Experimental reports whether no independent program of an issuer or HSM agrees with
// ours, but cards in software only: those are the profiles of Format 1, option C among them.
func (p Profile) Experimental() bool { return p.Format1 }

// ProfileNames returns the names of the profiles, sorted.
func ProfileNames() []string { return slices.Sorted(maps.Keys(profiles)) }

// ProfileOf returns the profile of a name.
func ProfileOf(name string) (Profile, error) {
	p, ok := profiles[name]
	if !ok {
		return p, fault.New(fault.NotFound, "there is no EMV profile of this name")
	}
	return p, nil
}

// Answer computes the ARPC of a profile. code is the ARC of 2 bytes under method 1
// and the CSU of 4 under method 2, which alone takes proprietary data.
func (p Profile) Answer(ctx context.Context, t derive.TDEAToken, ac Master, in Input, code, proprietary []byte) ([]byte, error) {
	k, err := p.ARPCKey(ac, in)
	if err != nil {
		return nil, err
	}
	if p.Method == Method2 {
		return ARPC2(ctx, t, k, in.ARQC, code, proprietary)
	}
	if len(proprietary) > 0 {
		return nil, fault.New(fault.InvalidInput, "ARPC method 1 takes no proprietary data")
	}
	return ARPC1(ctx, t, k.Retail, in.ARQC, code)
}

// ARPCKey refers to the key that Answer uses.
func (p Profile) ARPCKey(ac Master, in Input) (MACKey, error) {
	return ac.MAC(p.ARPC, in, false)
}

// Binds refuses a transaction counter that the cryptogram is not of: under a key that
// does not follow from it, only the data says it.
func (p Profile) Binds(in Input, data []byte) error {
	if p.ATCAt == 0 || len(data) >= p.ATCAt+2 && binary.BigEndian.Uint16(data[p.ATCAt:]) == in.ATC {
		return nil
	}
	return fault.New(fault.InvalidInput, "the data of the cryptogram is of another transaction counter")
}

// Keys refers to the keys of one command of a script, whose seed is in.
func (p Profile) Keys(smi, smc Master, in Input) (k Keys, err error) {
	if k.MAC, err = smi.MAC(p.Script, in, true); err != nil {
		return k, err
	}
	k.ENC, err = smc.ENC(p.Script, in)
	return k, err
}
