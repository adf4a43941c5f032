// Package opened tells which files of a mounted file system are opened, by anybody who can see it: in any mount namespace, and whether
// the file is read or run.
//
// It owns a fanotify group for each Watch, which only listens: nobody waits for it, and of more than 16384 events between two calls of Files
// some are lost. To learn the name of what was opened the kernel opens it for this process too, read-only and without waiting, which is why
// a Watch is for the root of a container and not for what may have devices. It imports nothing of Slipway. A crash leaves nothing, as
// the group ends with the process.
package opened

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxFiles is how many files a Watch remembers.
const maxFiles = 8192

// File is one that was opened.
type File struct {
	Path string        // from New's root, without a slash in front
	At   time.Duration // from New to the first time, or up to the call of Files after it
}

// Watch notes what is opened until it is closed. It is for one goroutine at a time.
type Watch struct {
	group int    // descriptor
	base  string // in front of names: where root is, seen from here; "/" when it is in another mount namespace
	began time.Time
	files []File
	known map[string]bool
}

// New begins to note what is opened in the file system that is mounted at the directory root. NotImplemented where the kernel or this process's
// rights do not allow it. The caller closes the watch.
func New(root string) (*Watch, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_LARGEFILE|unix.O_NOATIME)
	if err != nil {
		return nil, unsupported("cannot watch what is opened", err)
	}
	w := &Watch{group: fd, began: time.Now(), known: map[string]bool{}}
	if w.base, err = nameOf(root); err == nil {
		err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN, unix.AT_FDCWD, root+"/.")
	}
	if err != nil {
		unix.Close(fd)
		return nil, unsupported("cannot watch what is opened in "+root, err)
	}
	return w, nil
}

// nameOf is how the kernel calls a directory, which may be one of /proc's links into another mount namespace.
func nameOf(dir string) (string, error) {
	fd, err := unix.Open(dir+"/.", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("cannot open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return strings.TrimSuffix(name, "/") + "/", err
}

func unsupported(what string, err error) error {
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s: %w: %w", what, err, errdefs.ErrNotImplemented)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Files lists what was opened so far, the first one first, each once. As long as it is not called, the kernel holds what was opened.
func (w *Watch) Files() ([]File, error) {
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Read(w.group, buf)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN): // that was all
			return w.files[:len(w.files):len(w.files)], nil
		case err != nil:
			return nil, fmt.Errorf("cannot read what was opened: %w", err)
		default:
			w.events(buf[:n])
		}
	}
}

// Close ends the watch.
func (w *Watch) Close() error { return unix.Close(w.group) }

// eventSize is that of struct fanotify_event_metadata (fanotify(7)): the length of the event in 4 bytes, the version, a reserved byte, the
// length of this in 2, the mask in 8, the descriptor and the process in 4 each.
const eventSize = 24

func (w *Watch) events(buf []byte) {
	for len(buf) >= eventSize {
		length := int(binary.NativeEndian.Uint32(buf))
		if length < eventSize || length > len(buf) || buf[4] != unix.FANOTIFY_METADATA_VERSION {
			return
		}
		if fd := int32(binary.NativeEndian.Uint32(buf[16:])); fd >= 0 { // not one that says that events were lost
			w.note(int(fd))
		}
		buf = buf[length:]
	}
}

func (w *Watch) note(fd int) {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	path, rooted := strings.CutPrefix(strings.TrimSuffix(path, " (deleted)"), w.base) // which was there when it was opened
	if err != nil || !rooted {
		return
	}
	if !w.known[path] && len(w.files) < maxFiles {
		w.known[path] = true
		w.files = append(w.files, File{path, time.Since(w.began)})
	}
}
