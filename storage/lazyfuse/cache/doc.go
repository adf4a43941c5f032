// Package cache keeps the bytes of files whose layers are not here yet, for all images of the host together.
//
// It owns one directory:
//
//	lock             held by the process that has the cache open
//	journal          which bytes of which file may be trusted; see journal.go
//	data/xx/<key>    a sparse file as long as the content, one for each key, never replaced by another inode while it is held
//
// It knows nothing of layers, indexes or registries: the caller verifies bytes before it writes them here, and chooses keys
// such that equal keys mean equal bytes (see Key).
//
// What a crash leaves: after a process's death at most the last second of writes is forgotten. After a power failure too:
// a range is recorded only once its bytes are durable, and a file is removed only once the journal durably says that nothing
// of it counts, so that no byte is ever answered that was not written. Files that the journal does not know are removed
// after the next start.
package cache
