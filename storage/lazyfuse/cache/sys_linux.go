package cache

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/internal/ipc"
)

// lockDir makes this process the only one that has the cache open.
func lockDir(path string) (*os.File, error) { return ipc.TryLock(path) }

// syncData makes a file's bytes and length durable, or a directory's entries.
func syncData(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// startWriteback asks the kernel to begin writing a file out, without waiting. It is advice: syncData is what counts.
func startWriteback(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}

// diskFull says whether err means that there is no room: on the device, in the quota, or below the file size limit.
func diskFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
}

// freeBytes is what the file system of dir has left for us.
func freeBytes(dir *os.File) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// setAside makes sure that writing length bytes from off will find room. The file does not become longer.
func setAside(f *os.File, off, length int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, length)
}
