// Package witness is both halves of the protocol by which somebody else watches
// that an audit log only grows: the log asks, and a witness on another machine
// cosigns a checkpoint if it is consistent with the last one it cosigned.
//
// It follows [tlog-witness] of C2SP (c2sp.org), Transparency Log Witnesses,
// add-checkpoint, and [tlog-cosignature] for what a witness signs. The request is
//
//	old <size of the last checkpoint that the witness cosigned, 0 for none>
//	<hash of the consistency proof, base64>      0 to 63 lines
//	<empty line>
//	<the new checkpoint, a signed note>
//
// and the answer is 200 with signature lines; 400 for another form, or an old
// size above the new one; 403 if no signature of the log verifies; 404 if the log
// is unknown; 409 with the size that the witness has, as text/x.tlog.size, if the
// old size is not that one, or if it is and equals the new size, and the roots
// differ; 422 if the consistency proof does not verify.
//
// It leaves out the retrieval for monitors, which the document leaves open, and
// TLS: the checkpoints are signed, so that whoever reads or changes the requests
// can only stop them; who must not even do that is kept out in front of a Server.
//
// It promises that a Server never cosigns two histories of one log: the new
// checkpoint is durable before its cosignature leaves the process, requests for
// one log go one after the other, and a directory has one Server. What a witness
// remembers changes only by a cosignature, or by Forget, which is a person's
// decision.
//
// The caller must keep a witness's key and directory where the log's operator
// cannot change them; a witness beside its log witnesses nothing.
package witness
