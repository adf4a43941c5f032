package ipc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// access lets administrators and the system in, and nobody else (Security Descriptor Definition Language, [MS-DTYP] 2.5.1): P
// keeps what is inherited out, GA is all access, BA and SY are the two.
const access = "D:P(A;;GA;;;BA)(A;;GA;;;SY)"

// pipes is where all names of pipes are.
const pipes = `\\.\pipe\`

// buffer is how many bytes the system holds for a slower reader, in each direction.
const buffer = 64 << 10

// maxName bounds a file that names a pipe, in bytes.
const maxName = 256

func isPipe(address string) bool {
	return len(address) > len(pipes) && strings.EqualFold(address[:len(pipes)], pipes)
}

// listen is the first and only owner of the pipe's name, or fails.
func listen(address string) (net.Listener, error) {
	name := address
	if !isPipe(address) {
		name = pipes + "slipway-" + rand.Text()
	}
	l, err := winio.ListenPipe(name, &winio.PipeConfig{SecurityDescriptor: access, InputBufferSize: buffer, OutputBufferSize: buffer})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", name, err)
	}
	if name == address {
		return l, nil
	}
	fresh := address + ".new"
	err = os.WriteFile(fresh, []byte(name), 0o600)
	if err == nil {
		err = unshared(func() error { return os.Rename(fresh, address) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot tell where the pipe is: %w", err), l.Close())
	}
	return l, nil
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	name, err := public(address)
	if err != nil {
		return nil, err
	}
	return winio.DialPipeContext(ctx, name)
}

func public(address string) (string, error) {
	if isPipe(address) {
		return address, nil
	}
	var f *os.File
	err := unshared(func() (err error) {
		f, err = open(address)
		return err
	})
	if err != nil {
		return "", err
	}
	defer f.Close()
	name := make([]byte, maxName+1)
	n, err := f.Read(name)
	if err != nil || n > maxName || !isPipe(string(name[:n])) {
		return "", fmt.Errorf("%s names no pipe", address)
	}
	return string(name[:n]), nil
}

// open lets others put a new file in the place of this one while it is read; os.Open would not.
func open(path string) (*os.File, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	const share = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	h, err := windows.CreateFile(name, windows.GENERIC_READ, share, nil, windows.OPEN_EXISTING, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

// moment is how long a file may be another's alone: while it is being replaced, or a scanner of viruses looks at it.
const moment = 2 * time.Second

// unshared does again what fails because a file is another's alone at the moment.
func unshared(do func() error) error {
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		err := do()
		if !errors.Is(err, windows.ERROR_SHARING_VIOLATION) && !errors.Is(err, windows.ERROR_ACCESS_DENIED) || time.Since(begin) > moment {
			return err
		}
	}
}

func nobody(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func broken(err error) bool {
	for _, gone := range []error{windows.ERROR_BROKEN_PIPE, windows.ERROR_NO_DATA, windows.ERROR_PIPE_NOT_CONNECTED, windows.WSAECONNRESET, winio.ErrFileClosed} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}
