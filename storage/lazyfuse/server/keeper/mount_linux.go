package keeper

import (
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// fsType is what /proc/mounts says of the mount.
const fsType = "fuse.slipway"

// Mount mounts a new FUSE file system and answers the descriptor that it is served by.
func Mount(mountpoint string) (*os.File, error) {
	if err := os.MkdirAll(mountpoint, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the mount point for lazy layers: %w", err)
	}
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot serve lazy layers, load the kernel's module fuse: %w", err)
	}
	// Fd also makes the descriptor blocking, as the server wants it. suid and dev are on: layers need both. The read size is the largest a
	// server asks for in its answer to INIT.
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", dev.Fd())
	if err := unix.Mount("slipway", mountpoint, fsType, unix.MS_RDONLY|unix.MS_NOATIME, options); err != nil {
		dev.Close()
		return nil, fmt.Errorf("cannot mount lazy layers on %s: %w", mountpoint, err)
	}
	return dev, nil
}

// Unmount takes every file system of ours off the mount point, in use or not: containers that still use one keep it and see ENOTCONN
// when nobody serves it.
func Unmount(mountpoint string) error {
	for {
		mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(mountpoint))
		if err != nil {
			return fmt.Errorf("cannot see what is mounted on %s: %w", mountpoint, err)
		}
		if len(mounts) == 0 || mounts[0].FSType != fsType {
			return nil
		}
		if err := unix.Unmount(mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("cannot unmount %s: %w", mountpoint, err)
		}
	}
}
