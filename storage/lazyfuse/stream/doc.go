// Package stream serves a layer of which nothing is known but where its blob is, while the blob passes for the first time.
//
// It owns the pass over the blob (fetched from its first byte to its last, decompressed, and kept uncompressed in a file without a
// name), what that tells of the layer on the way (index.Growing), and the waiting for what is not told yet: that a name is not there,
// what all a directory holds, and bytes that are still to come. What waits ends when it becomes known, when the layer turns out to
// be wrong, when the registry does not answer for the deadline, or with its context. It imports the packages index, fetch and layer
// beside it and internal/inflate, and no FUSE.
//
// Nothing verifies a blob before its last byte, so what is delivered earlier is not verified. When the digest is wrong, nothing more is
// delivered, ever. When it is right, and slipwayd has put the layer's files in place, these are served: the tree then is by
// construction what any other mount of the layer shows.
//
// What a crash leaves: the kernel remembers numbers of nodes, which are right for the same bytes only. So a file tells how many bytes of
// the blob were seen and their digest, and the next pass shows nothing before it has seen the same.
package stream
