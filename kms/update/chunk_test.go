package update_test

import (
	"bytes"
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"cardkms/derive"
	"cardkms/kms/apdu"
	"cardkms/kms/update"
)

// TestChunkRanges: the chunks of any image follow each other without a gap,
// cover it, and only the last may be short.
func TestChunkRanges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := sampleManifest()
		m.ChunkSize = rapid.IntRange(update.ChunkBytesMin, update.ChunkBytesMax).Draw(rt, "chunk size")
		m.Image.Size = rapid.Uint32Range(1, uint32(min(m.ChunkSize*update.ChunksMax, 1<<24))).Draw(rt, "size")
		var end int64
		for i := 1; i <= m.Chunks(); i++ {
			from, to := m.ChunkRange(i)
			if from != end || to <= from || to-from > int64(m.ChunkSize) || (to-from < int64(m.ChunkSize) && i != m.Chunks()) {
				rt.Fatalf("chunk %d is [%d, %d) after %d", i, from, to, end)
			}
			end = to
		}
		if end != int64(m.Image.Size) {
			rt.Fatalf("the chunks end at %d of %d", end, m.Image.Size)
		}
	})
}

// TestSealRefuses a chunk that is not one of the package, and data of another
// length than the chunk's.
func TestSealRefuses(t *testing.T) {
	tok, p := samplePackage(t)
	for _, c := range []struct{ i, n int }{
		{0, 1024}, {-1, 1024}, {4, 452}, {4, 0}, {1, 1023}, {1, 1025}, {3, 1024}, {3, 451}, {1, 0}, {1 << 40, 0},
	} {
		if out, err := p.Seal(ctx, tok, c.i, make([]byte, c.n)); err == nil {
			t.Errorf("chunk %d with %d bytes gives %d bytes", c.i, c.n, len(out))
		}
	}
}

// TestStoreData: a chain's blocks carry the object in order, are numbered from
// 00, and only the last is marked.
func TestStoreData(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		room := rapid.IntRange(1, 255).Draw(rt, "room")
		extended := rapid.Bool().Draw(rt, "extended")
		object := rapid.SliceOfN(rapid.Byte(), 1, min(256*room, 5000)).Draw(rt, "object")
		chain, err := update.StoreData(object, room, extended)
		if err != nil {
			rt.Fatal(err)
		}
		var joined []byte
		for n, c := range chain {
			p1, ne := byte(0x11), 256
			if n == len(chain)-1 {
				p1 = 0x91
			}
			if extended {
				ne = 65536
			}
			if c.CLA != 0x80 || c.INS != 0xE2 || c.P1 != p1 || int(c.P2) != n || c.Ne != ne || c.Extended != extended {
				rt.Fatalf("block %d has the header %X and Ne %d", n, c.Header(), c.Ne)
			}
			if len(c.Data) == 0 || len(c.Data) > room || (len(c.Data) < room && n != len(chain)-1) {
				rt.Fatalf("block %d of %d has %d bytes", n, len(chain), len(c.Data))
			}
			joined = append(joined, c.Data...)
			_ = c.Bytes() // must not panic
		}
		if !bytes.Equal(joined, object) {
			rt.Fatal("the blocks are not the object")
		}
	})
	for _, c := range []struct {
		n, room int
		ok      bool
	}{{256 * 4, 4, true}, {256*4 + 1, 4, false}, {1, 0, false}, {1, -1, false}, {65536, 256, true}} {
		if _, err := update.StoreData(make([]byte, c.n), c.room, true); (err == nil) != c.ok {
			t.Errorf("%d bytes in blocks of %d: %v", c.n, c.room, err)
		}
	}
	// The largest chunk fits the smallest room, that of S16 with C-DECRYPTION.
	tok, p := samplePackage(t, func(m *update.Manifest) { m.ChunkSize, m.Image.Size = 4096, 4096 })
	sealed, err := p.Seal(ctx, tok, 1, make([]byte, 4096))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := update.StoreData(sealed, 223, false); err != nil {
		t.Error(err)
	}
}

func TestGetData(t *testing.T) {
	for c, want := range map[string]string{
		apdu.Hex(update.GetStatus().Bytes()):  "80CA00E500",
		apdu.Hex(update.GetReceipt().Bytes()): "80CA00E600",
	} {
		if c != want {
			t.Errorf("%s, want %s", c, want)
		}
	}
}

// sealAll seals an image that is read chunk by chunk, and hands each chunk on.
func sealAll(tb testing.TB, tok derive.Token, p *update.Package, next func(data []byte), each func(sealed []byte)) {
	tb.Helper()
	buf := make([]byte, p.Manifest.ChunkSize)
	for i := 1; i <= p.Manifest.Chunks(); i++ {
		from, to := p.Manifest.ChunkRange(i)
		next(buf[:to-from])
		out, err := p.Seal(ctx, tok, i, buf[:to-from])
		if err != nil {
			tb.Fatal(err)
		}
		each(out)
	}
}

// TestConstantMemory: the live heap while sealing 16 MiB is that of sealing
// 1 MiB, because a chunk is sealed as it is read. The peak is sampled at fixed
// chunks after a collection, so it does not depend on time or on the collector.
func TestConstantMemory(t *testing.T) {
	peak := func(size uint32) (most uint64) {
		tok, p := samplePackage(t, func(m *update.Manifest) { m.ChunkSize, m.Image.Size = 4096, size })
		every := max(p.Manifest.Chunks()/16, 1)
		n := 0
		sealAll(t, tok, p, func([]byte) {}, func([]byte) {
			if n++; n%every == 0 {
				var s runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&s)
				most = max(most, s.HeapAlloc)
			}
		})
		return most
	}
	peak(1 << 20) // warm up
	small, large := peak(1<<20), peak(16<<20)
	t.Logf("live heap while sealing 1 MiB %d bytes, 16 MiB %d bytes: ratio %.3f", small, large, float64(large)/float64(small))
	if large > small+small/4 {
		t.Errorf("sealing 16 MiB keeps %d bytes alive, 1 MiB %d", large, small)
	}
}

// TestNoCommonBlock: two packages of the same image share no ciphertext block,
// and no package repeats one, though every chunk of the image is the same.
func TestNoCommonBlock(t *testing.T) {
	seen := map[[16]byte]bool{}
	blocks := 0
	for last := range 2 {
		tok, p := samplePackage(t, func(m *update.Manifest) {
			m.ChunkSize, m.Image.Size = 256, 64<<10
			m.Context[15] = byte(last)
		})
		sealAll(t, tok, p, func(data []byte) { clear(data) }, func(sealed []byte) {
			objs, err := apdu.ParseTLVs(sealed)
			if err != nil {
				t.Fatal(err)
			}
			fields, err := apdu.ParseTLVs(objs[0].Value)
			if err != nil || len(fields) != 3 || fields[1].Tag != 0x87 || fields[1].Value[0] != 1 {
				t.Fatalf("not a chunk: %X", sealed)
			}
			for c := fields[1].Value[1:]; len(c) > 0; c = c[16:] {
				b := [16]byte(c)
				if seen[b] {
					t.Fatalf("the block %X occurs twice", b)
				}
				seen[b] = true
				blocks++
			}
		})
	}
	if blocks != 2*256*17 {
		t.Errorf("%d blocks were compared", blocks)
	}
}
