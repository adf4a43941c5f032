// Package mount turns []storage.Mount into mounts of the host and takes them down again.
//
// It owns the meaning of a storage.Mount's options: those of mount(8), overlayfs's own, and containerd's "uidmap=" and
// "gidmap=". Drivers say what to mount, this package does it for the daemon, the shim and the client alike. It imports no
// driver and keeps no list of what it mounted: the kernel's mount table is the record.
//
// What a crash leaves: mounts below the target that was given. Unmount of the same target removes them all, so callers
// that know their targets need no journal. On systems other than Linux every function answers NotImplemented.
package mount

import (
	"fmt"

	"github.com/slipwayd/slipway/storage"
)

// All mounts each of mounts in order, at target or, where Mount.Target is set, at that path below it. Such a path is
// resolved inside target: symbolic links in it cannot lead elsewhere. Targets must exist. After an error nothing that All
// mounted is left. The errors are the kernel's, joined with NotFound, InvalidArgument, FailedPrecondition (the kernel
// lacks the file system or the feature) or PermissionDenied where they mean that.
func All(target string, mounts []storage.Mount) error {
	undo := func() {}
	for _, m := range mounts {
		undoOne, err := one(target, m)
		if err != nil {
			undo()
			return fmt.Errorf("cannot mount %s %q on %q: %w", m.Type, m.Source, at(target, m), err)
		}
		earlier := undo
		undo = func() { undoOne(); earlier() }
	}
	return nil
}

func at(target string, m storage.Mount) string {
	if m.Target == "" {
		return target
	}
	return target + ":" + m.Target
}

// Unmount removes every mount that is stacked at target, with all below them. Those still in use vanish from the tree at
// once and end with their last user. It is nil when nothing is mounted there or when target does not exist.
func Unmount(target string) error {
	return unmount(target)
}

// Temp mounts mounts on a new directory below dir ("" for the system's place for temporary files), calls fn with its
// path, and unmounts and removes it. Empty mounts give an empty directory.
func Temp(dir string, mounts []storage.Mount, fn func(root string) error) error {
	return temp(dir, mounts, fn)
}
