package mount

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// idmappedTree answers a detached copy of the mount at source on which files owned by a container id appear to belong to
// the host id it is mapped to. The caller closes it; the tree lives as long as it is open or attached.
func idmappedTree(source string, o options, recursive bool) (int, error) {
	userns, err := userNamespace(o.uidmap, o.gidmap)
	if err != nil {
		return -1, err
	}
	defer userns.Close()
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	var rec uint
	if recursive {
		rec = unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, flags|rec)
	if err != nil {
		return -1, fmt.Errorf("open_tree %q: %w", source, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|rec, &attr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("id-mapped mount of %q (its file system may not support them): %w", source, err)
	}
	return fd, nil
}

// userNamespace makes a user namespace with these maps. It lives as long as the file is open.
func userNamespace(uidmap, gidmap string) (*os.File, error) {
	uids, err := parseIDMap(uidmap)
	if err != nil {
		return nil, err
	}
	gids, err := parseIDMap(gidmap)
	if err != nil {
		return nil, err
	}
	// A namespace needs a process to be born with. This one is traced, so that it stops before its first instruction and
	// never runs; the tracer is a thread, hence the lock.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess("/proc/self/exe", []string{"userns"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: uids,
		GidMappings: gids,
		Ptrace:      true,
		Pdeathsig:   syscall.SIGKILL,
	}})
	if err != nil {
		return nil, fmt.Errorf("cannot make a user namespace with uidmap %q gidmap %q: %w", uidmap, gidmap, err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", p.Pid))
	_ = p.Kill()
	_, _ = p.Wait()
	return f, err
}

// maxIDMaps is the kernel's limit on lines in /proc/PID/uid_map (user_namespaces(7)).
const maxIDMaps = 340

// parseIDMap reads "container:host:size[,container:host:size…]".
func parseIDMap(s string) ([]syscall.SysProcIDMap, error) {
	parts := strings.Split(s, ",")
	if len(parts) > maxIDMaps {
		return nil, fmt.Errorf("id map has more than %d ranges: %w", maxIDMaps, errdefs.ErrInvalidArgument)
	}
	maps := make([]syscall.SysProcIDMap, 0, len(parts))
	for _, part := range parts {
		var n [3]uint64
		fields := strings.Split(part, ":")
		ok := len(fields) == len(n)
		for i := 0; ok && i < len(n); i++ {
			var err error
			n[i], err = strconv.ParseUint(fields[i], 10, 32)
			ok = err == nil
		}
		if !ok || n[2] == 0 || n[0]+n[2] > 1<<32 || n[1]+n[2] > 1<<32 {
			return nil, fmt.Errorf("id map %q is not container:host:size: %w", part, errdefs.ErrInvalidArgument)
		}
		maps = append(maps, syscall.SysProcIDMap{ContainerID: int(n[0]), HostID: int(n[1]), Size: int(n[2])})
	}
	return maps, nil
}
