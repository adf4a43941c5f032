package content

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// syncData makes a file's bytes and length durable.
func syncData(f *os.File) error {
	return f.Sync()
}

// syncDirectory does nothing: NTFS journals directory entries in order, and Windows has no call to flush a directory.
func syncDirectory(*os.File) error {
	return nil
}

func startWriteback(*os.File, int64, int64) {}

func adviseSequential(*os.File) {}

// diskFull says whether err means that there is no room on the volume.
func diskFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}
