// Package lazyfuse is the driver that serves layers before they are here: those of package storage/overlay, some of which are
// directories of a FUSE mount until their blob has arrived.
//
// It owns the directory "lazy" in a layer's directory (package state), the FUSE server's process through packages
// server/keeper and server/control, and the decision whether a served layer may be let go: never while something is mounted
// on it. What is where in a blob is package index's, and fetching and caching is done in the server's process;
// so is serving a layer of which nothing is known, while it comes (package stream). This process asks such a layer nothing, but waits for it.
//
// A served layer's files are a symbolic link into the mount, so the mounts of a stack are the same before and after it has
// arrived; Fill exchanges the link for a directory in one step.
//
// What a crash leaves, of this process: a layer without a record, as of any driver; half of what Fill has unpacked, which the
// next New removes; layers that the server has and the driver not, which it is told to drop. Of the keeper and the server: see
// package keeper; the driver starts them again. A reboot: the server has no layers, and is told of them before the first mount.
package lazyfuse
