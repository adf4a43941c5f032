package ipc

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
)

// TryLock makes this process the only one that has the lock of a file, which it makes where there is none. The lock ends when the file is
// closed, so with the process, however that ends. Unavailable when another has it.
func TryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	mine, err := lock(f)
	if err == nil && !mine {
		err = fmt.Errorf("another process has locked %s: %w", path, errdefs.ErrUnavailable)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
