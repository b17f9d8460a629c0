// Package tiles keeps an audit log as a directory of plain files, and verifies
// such directories offline.
//
// It follows [tlog-tiles] of C2SP (c2sp.org), Tiled Transparency Logs, as files
// instead of URLs, and so any web server that serves the directory serves the
// log:
//
//	checkpoint                     the signed checkpoint, see package audit
//	tile/<L>/<N>[.p/<W>]           hashes of level L, 32 bytes each
//	tile/entries/<N>[.p/<W>]       entries: length, 2 bytes big-endian; encoding
//
// A file holds 256 hashes or entries; the last of a level may hold W of them,
// 1 to 255, and is then named by .p/<W>. A hash of level 0 is the leaf hash of an
// entry; a hash of level L+1 is that of the subtree over a whole file of level L.
// N has three digits for each path element, all but the last after an "x": file
// 1234067 is x001/x234/067.
//
// A log may be kept in several directories, its segments. Each has the hashes of
// the whole log up to its own checkpoint, 32 bytes for an entry, so that each is
// proven alone; entries that an earlier segment holds may be missing.
//
// It leaves out where entries come from, and compression. It promises that
// memory does not grow with the log; that a directory without checkpoint is one
// whose export broke off, and can be continued; that Verify finds every change
// of a file that the checkpoint covers, and names it. A cosignature is part of
// that for the witnesses that the caller names, and only in the newest checkpoint
// is it demanded.
//
// The caller must keep one writer for a directory at a time, and must bring the
// verifier keys: a directory that brings its own key proves nothing.
package tiles
