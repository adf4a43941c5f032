package testsuite

import (
	"archive/tar"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runAs runs a shell script in dir as another user of the host.
func runAs(dir string, uid, gid uint32, script string) ([]byte, error) {
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	return cmd.CombinedOutput()
}

// ReadTree describes the directory root as it is on disk.
func ReadTree(root string) (Tree, error) {
	t := Tree{}
	seen := map[uint64]*Node{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		fi, err := os.Lstat(p)
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if n := seen[st.Ino]; n != nil && !fi.IsDir() {
			t[rel] = n
			return nil
		}
		n, err := readNode(p, st)
		t[rel], seen[st.Ino] = n, n
		return err
	})
	return t, err
}

func readNode(p string, st *syscall.Stat_t) (n *Node, err error) {
	n = &Node{Mode: int64(st.Mode & 0o7777), UID: int(st.Uid), GID: int(st.Gid), MTime: time.Unix(st.Mtim.Unix())}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		var data []byte
		data, err = os.ReadFile(p)
		n.Type, n.Data = tar.TypeReg, string(data)
	case unix.S_IFDIR:
		n.Type = tar.TypeDir
	case unix.S_IFLNK:
		n.Type = tar.TypeSymlink
		n.Link, err = os.Readlink(p)
	case unix.S_IFIFO:
		n.Type = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Type = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			n.Type = tar.TypeBlock
		}
		n.Major, n.Minor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	if err != nil {
		return n, err
	}
	names := make([]byte, 4096)
	size, err := unix.Llistxattr(p, names)
	if err != nil || size == 0 {
		return n, err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:size]), "\x00"), "\x00") {
		if strings.HasPrefix(name, "trusted.overlay.") || name == "security.selinux" {
			continue
		}
		value := make([]byte, 65536)
		size, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			return n, err
		}
		n.set(name, string(value[:size]))
	}
	return n, nil
}
