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
	var st unix.Statx_t // since Linux 5.8
	err := unix.Statx(unix.AT_FDCWD, filepath.Join(dir, "rootfs"), unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	if err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
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
