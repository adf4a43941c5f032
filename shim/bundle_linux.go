package shim

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// unmountBelow detaches every mount at or below dir, the innermost first. The usual bundle has none any more, which one
// look at its rootfs tells without reading the list of all mounts.
func unmountBelow(dir string) error {
	if mounted, err := mountinfo.Mounted(filepath.Join(dir, "rootfs")); err == nil && !mounted {
		return nil
	}
	all, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("cannot read mounts: %w", err)
	}
	for i := len(all) - 1; i >= 0; i-- {
		at := all[i].Mountpoint
		if at != dir && !strings.HasPrefix(at, dir+"/") {
			continue
		}
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot unmount %s: %w", at, err)
		}
	}
	return nil
}
