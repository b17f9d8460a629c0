package update_test

import (
	"bytes"
	"testing"

	"cardkms/derive/derivetest"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
	"cardkms/kms/update"
)

// FuzzParseStatus: what is accepted encodes to the same bytes, its missing chunks
// are ascending and inside the package, and what is refused is invalid_input.
func FuzzParseStatus(f *testing.F) {
	tok, p := samplePackage(f)
	f.Add(status(f, tok, p, update.Staging, 0xA0), 3)
	f.Add(status(f, tok, p, update.Idle), 1)
	_, suite00 := samplePackage(f, plain)
	f.Add(status(f, tok, suite00, update.Staging, 0xFF, 0x80), 9)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		s, err := update.ParseStatus(b)
		if err != nil {
			if fault.CodeOf(err) != fault.InvalidInput {
				t.Fatalf("code %s", fault.CodeOf(err))
			}
			return
		}
		objs, err := apdu.ParseTLVs(b)
		if err != nil {
			t.Fatalf("accepted what is not BER-TLV: %v", err)
		}
		var again []byte
		for _, o := range objs {
			again = apdu.AppendTLV(again, o.Tag, o.Value)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("encoding gives %X", again)
		}
		if n < 0 || n > update.ChunksMax {
			return
		}
		missing, err := s.Missing(n)
		last := 0
		for _, i := range missing {
			if err != nil || i <= last || i > n {
				t.Fatalf("missing %v of %d (%v)", missing, n, err)
			}
			last = i
		}
	})
}

// FuzzReceipt: no input panics, and none but the one receipt is accepted.
func FuzzReceipt(f *testing.F) {
	tok, p := samplePackage(f)
	good := receipt(f, tok, p)
	f.Add(good)
	f.Add(good[:len(good)-18])
	f.Add(status(f, tok, p, update.Confirmed))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := sampleManifest()
		tok := new(derivetest.Token)
		p, err := update.NewPackage(ctx, tok, m, update.PackageKeys(kUPD(tok, 16), m.Context))
		if err != nil {
			t.Fatal(err)
		}
		err = p.VerifyReceipt(ctx, tok, b)
		if (err == nil) != bytes.Equal(b, good) {
			t.Fatalf("%X: %v", b, err)
		}
		if c := fault.CodeOf(err); c != fault.OK && c != fault.ProofFailed && c != fault.InvalidInput {
			t.Fatalf("code %s", c)
		}
	})
}
