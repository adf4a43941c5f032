package overlay

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/internal/opened"
	"github.com/slipwayd/slipway/storage"
)

var _ storage.Observer = (*Driver)(nil)

// Of a file of more than largeFile bytes a start is taken to read the first headOf and the last tailOf: the headers of programs and libraries, the
// directories of archives. What else it reads is known once it was started lazily.
const (
	largeFile = 4 << 20
	headOf    = 1 << 20
	tailOf    = 64 << 10
)

// Observe implements storage.Observer.
func (d *Driver) Observe(_ context.Context, l storage.Layer, pid int) (storage.Observation, error) {
	upper, err := d.files(l.ID)
	if err == nil {
		err = rootIs(pid, upper)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot observe what is read of layer %s: %w", l.ID, err)
	}
	watch, err := opened.New(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return nil, err
	}
	return &observation{driver: d, parents: l.Parents, watch: watch, found: map[string][]storage.Touch{}}, nil
}

// rootIs checks that the root of a process is an overlay that writes to the directory upper (proc_pid_mountinfo(5)).
func rootIs(pid int, upper string) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		sep := slices.Index(fields, "-")
		if len(fields) < 5 || fields[4] != "/" || sep < 0 || len(fields) < sep+4 {
			continue
		}
		if fields[sep+1] == "overlay" && slices.Contains(strings.Split(fields[sep+3], ","), "upperdir="+upper) {
			return nil
		}
		break
	}
	return fmt.Errorf("the root of process %d is no mount of it: %w", pid, errdefs.ErrFailedPrecondition)
}

type observation struct {
	driver  *Driver
	parents []string
	watch   *opened.Watch
	looked  int // files of the watch that were looked up
	found   map[string][]storage.Touch
}

// Opened implements storage.Observation. It has one caller at a time.
func (o *observation) Opened(context.Context) (map[string][]storage.Touch, error) {
	files, err := o.watch.Files()
	if err != nil || len(files) == o.looked {
		return o.found, err
	}
	var layers []*os.File
	for _, id := range o.parents {
		layer, err := os.Open(o.driver.Files(id))
		if err != nil {
			return o.found, err
		}
		defer layer.Close()
		layers = append(layers, layer)
	}
	for _, f := range files[o.looked:] {
		for i, layer := range layers {
			size, regular, err := lookUp(int(layer.Fd()), f.Path)
			if err != nil {
				continue
			}
			if regular && size > 0 { // else a whiteout, or what hides what is below
				id := o.parents[i]
				o.found[id] = append(o.found[id], touch(f, size))
			}
			break
		}
	}
	o.looked = len(files)
	return o.found, nil
}

// lookUp finds a file below a directory. Names come from the container and must not lead out of there; links they have none in them.
func lookUp(dir int, name string) (size int64, regular bool, err error) {
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return 0, false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	return st.Size, st.Mode&unix.S_IFMT == unix.S_IFREG, err
}

func touch(f opened.File, size int64) storage.Touch {
	t := storage.Touch{Path: f.Path, Millis: f.At.Milliseconds(), Ranges: [][2]int64{{0, size}}}
	if size > largeFile {
		t.Ranges = [][2]int64{{0, headOf}, {size - tailOf, size}}
	}
	return t
}

// Close implements storage.Observation.
func (o *observation) Close() error { return o.watch.Close() }
