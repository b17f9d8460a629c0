// Package statemap computes one digest of every row that the service decides by:
// key versions, cards, images, packages. Checkpoints of the audit log carry it,
// so that a row which was edited, put back, deleted or added behind the
// service's back shows.
//
// It follows no outside document. Rows are spread over 65,536 buckets by a hash
// of their name; the digests of the buckets are the leaves of a tree with 16
// branches at each of 4 levels. A change of one row rewrites one bucket and four
// nodes, whatever the number of rows; a row is checked against its bucket alone,
// because the tree over the buckets is kept in memory (about 10 MB when full).
// With n rows a bucket holds n/65,536 of them: 15 at a million.
//
// It leaves out where rows and buckets are stored, who may change them, and the
// MAC that a token makes over each row.
//
// It promises that a bucket has exactly one encoding and that nothing else is
// parsed. A Map never changes: With returns another one, which shares what is
// the same, so that readers of an older state need no lock.
//
// # Encodings
//
// All numbers are big-endian; len is the length of the string that follows.
//
//	name of a row     len (1) kind | len (1) issuer | len (2) id
//	content digest    SHA-256("cardkms-row/1" 0A | name | version (8) | body)
//	digest of a row   SHA-256(content digest | MAC of the row)
//	entry of a bucket name | version (8) | digest (32)
//	bucket            version of the bucket's own row (8), then its entries,
//	                  ascending by name as bytes, no name twice
//	number of bucket  the first 16 bits of SHA-256("cardkms-bucket/1" 0A | name)
//	digest of bucket  SHA-256(00 | bucket), 32 zero bytes if there is none
//	node              SHA-256(01 | the digests of its 16 children), 32 zero bytes
//	                  if all of them are zero; the first hexadecimal digit of a
//	                  bucket's number chooses the child of the root
//
// An entry whose id is empty is no row: its version is the number of rows of that
// kind and issuer and its digest is zero. So a list from which a row was deleted
// shows too.
package statemap
