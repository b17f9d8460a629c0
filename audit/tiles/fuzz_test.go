package tiles

import "testing"

// FuzzPath: what is accepted is what path writes.
func FuzzPath(f *testing.F) {
	f.Add("tile/0/x001/x234/067.p/1")
	f.Add("tile/entries/000")
	f.Fuzz(func(t *testing.T, path string) {
		if file, ok := parsePath(path); ok && file.path() != path {
			t.Errorf("%q is read as %+v", path, file)
		}
	})
}

// FuzzBundle: cutting a bundle into entries never panics, and the entries make
// the bundle again.
func FuzzBundle(f *testing.F) {
	b, _ := appendEntry(nil, []byte("entry"))
	f.Add(b)
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, bundle []byte) {
		var again []byte
		for rest := bundle; len(rest) > 0; {
			encoding, next, err := cutEntry(rest)
			if err != nil {
				return
			}
			if again, err = appendEntry(again, encoding); err != nil {
				t.Fatal(err)
			}
			rest = next
		}
		if string(again) != string(bundle) {
			t.Errorf("%x was cut and is now %x", bundle, again)
		}
	})
}
