package hsm

import (
	"runtime"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// The parameter structures of [P11] as C lays them out on LP64. miekg/pkcs11
// copies a parameter's flat bytes to C memory; what the structures point to is
// Go memory, pinned until the call has returned.

// stringData is CK_KEY_DERIVATION_STRING_DATA.
type stringData struct {
	data   unsafe.Pointer
	length uint64
}

// prfData is CK_PRF_DATA_PARAM.
type prfData struct {
	kind   uint64
	value  unsafe.Pointer
	length uint64
}

// counterFormat is CK_SP800_108_COUNTER_FORMAT.
type counterFormat struct {
	littleEndian byte
	_            [7]byte
	widthBits    uint64
}

// kdfParams is CK_SP800_108_KDF_PARAMS.
type kdfParams struct {
	prf   uint64
	count uint64
	data  unsafe.Pointer
	_     uint64         // ulAdditionalDerivedKeys
	_     unsafe.Pointer // pAdditionalDerivedKeys
}

// Kinds of prfData.
const (
	prfIteration = 1 // CK_SP800_108_ITERATION_VARIABLE
	prfBytes     = 4 // CK_SP800_108_BYTE_ARRAY
)

func stringDataMechanism(mech uint, data []byte) (*pkcs11.Mechanism, func()) {
	var pin runtime.Pinner
	pin.Pin(&data[0])
	p := &stringData{data: unsafe.Pointer(&data[0]), length: uint64(len(data))}
	return pkcs11.NewMechanism(mech, flat(p)), pin.Unpin
}

// cbcDataTDEA is CK_DES_CBC_ENCRYPT_DATA_PARAMS.
type cbcDataTDEA struct {
	_      [8]byte // the IV
	data   unsafe.Pointer
	length uint64
}

// cbcTDEAMechanism is CKM_DES3_CBC_ENCRYPT_DATA with a zero IV.
func cbcTDEAMechanism(data []byte) (*pkcs11.Mechanism, func()) {
	var pin runtime.Pinner
	pin.Pin(&data[0])
	p := &cbcDataTDEA{data: unsafe.Pointer(&data[0]), length: uint64(len(data))}
	return pkcs11.NewMechanism(pkcs11.CKM_DES3_CBC_ENCRYPT_DATA, flat(p)), pin.Unpin
}

// counterMechanism is CKM_SP800_108_COUNTER_KDF with PRF AES-CMAC over
// before | counter (one byte) | after.
func counterMechanism(before, after []byte) (*pkcs11.Mechanism, func()) {
	var pin runtime.Pinner
	format := &counterFormat{widthBits: 8}
	pin.Pin(format)
	var params []prfData
	add := func(b []byte) {
		if len(b) > 0 {
			pin.Pin(&b[0])
			params = append(params, prfData{kind: prfBytes, value: unsafe.Pointer(&b[0]), length: uint64(len(b))})
		}
	}
	add(before)
	params = append(params, prfData{kind: prfIteration, value: unsafe.Pointer(format), length: uint64(unsafe.Sizeof(*format))})
	add(after)
	pin.Pin(&params[0])
	p := &kdfParams{prf: pkcs11.CKM_AES_CMAC, count: uint64(len(params)), data: unsafe.Pointer(&params[0])}
	return pkcs11.NewMechanism(ckmSP800108Counter, flat(p)), pin.Unpin
}

// flat copies a structure's bytes.
func flat[T any](p *T) []byte {
	return append([]byte{}, unsafe.Slice((*byte)(unsafe.Pointer(p)), unsafe.Sizeof(*p))...)
}
