package audit_test

import (
	"bytes"
	"testing"

	"cardkms/audit"
)

// FuzzParseEntry: what is accepted is what Encode writes, byte for byte.
func FuzzParseEntry(f *testing.F) {
	f.Add(mustEncode(f, worked()))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := audit.ParseEntry(text)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || !bytes.Equal(again, text) {
			t.Errorf("parsed %q, encoded %q, %v", text, again, err)
		}
	})
}

// FuzzCheckpoint: the same for the text of a checkpoint; and no note, however
// malformed, panics.
func FuzzCheckpoint(f *testing.F) {
	_, v := newEd25519(f)
	f.Add([]byte("kms.example.com/audit\n1\nAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8=\n"))
	f.Add(seal(f, written(f, 1)))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := audit.OpenCheckpoint(text, origin, v); err == nil && c.Origin != origin {
			t.Errorf("opened %q", text)
		}
		c, err := audit.ParseCheckpoint(string(text))
		if err != nil {
			return
		}
		if again, err := c.Text(); err != nil || again != string(text) {
			t.Errorf("parsed %q, written %q, %v", text, again, err)
		}
	})
}

// FuzzVerifierKey: no panic, and the key that is accepted has a verifier.
func FuzzVerifierKey(f *testing.F) {
	f.Add("rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc=")
	f.Fuzz(func(t *testing.T, vkey string) {
		if v, err := audit.NewVerifier(vkey); err == nil && v.Verify(nil, nil) {
			t.Errorf("%q verifies nothing", vkey)
		}
	})
}
