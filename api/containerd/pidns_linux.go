package containerd

import (
	"os"
	"syscall"
)

// pidNamespace is the inode of the daemon's pid namespace, by which clients see whether pids mean the same to them; 0 when
// it cannot be told.
func pidNamespace() uint64 {
	fi, err := os.Stat("/proc/self/ns/pid")
	if err != nil {
		return 0
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return st.Ino
}
