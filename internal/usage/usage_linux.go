package usage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// host names where each hierarchy is mounted and which of its directories that is.
type host struct {
	controllers map[string]mounted // of version 1, by controller
	unified     *mounted
}

type mounted struct{ dir, root string }

func newHost() (*Host, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot find cgroups: %w", err)
	}
	h := parseMounts(string(data))
	if h.unified == nil && len(h.controllers) == 0 {
		return nil, fmt.Errorf("no cgroups are mounted: %w", errdefs.ErrNotFound)
	}
	return &Host{h}, nil
}

// parseMounts reads mountinfo (proc_pid_mountinfo(5)). Where controllers are mounted by version 1, a unified hierarchy beside them has none. The
// first mount is the host's own; others may be somebody's who goes away.
func parseMounts(text string) host {
	h := host{controllers: map[string]mounted{}}
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		where, what := strings.Fields(before), strings.Fields(after)
		if !ok || len(where) < 5 || len(what) < 3 {
			continue
		}
		m := mounted{dir: where[4], root: where[3]}
		switch what[0] {
		case "cgroup2":
			if h.unified == nil {
				h.unified = &m
			}
		case "cgroup":
			for option := range strings.SplitSeq(what[2], ",") {
				switch option {
				case "cpuacct", "cpu", "memory", "pids", "blkio":
					if _, known := h.controllers[option]; !known {
						h.controllers[option] = m
					}
				}
			}
		}
	}
	if len(h.controllers) > 0 {
		h.unified = nil
	}
	return h
}

// cgroup is a directory for each controller; of version 2 all are in the one under "".
type cgroup struct{ dirs map[string]string }

func (h *host) find(pid int) (*Cgroup, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		err = fmt.Errorf("there is no process %d: %w", pid, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	c := &Cgroup{cgroup{h.locate(string(data))}}
	if len(c.dirs) == 0 {
		return nil, fmt.Errorf("process %d is in no cgroup that is mounted here: %w", pid, errdefs.ErrNotFound)
	}
	return c, nil
}

// locate reads /proc/PID/cgroup (cgroups(7)): HIERARCHY:CONTROLLERS:PATH.
func (h *host) locate(text string) map[string]string {
	dirs := map[string]string{}
	for line := range strings.Lines(text) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 || !path.IsAbs(part[2]) {
			continue
		}
		if part[1] == "" && h.unified != nil {
			if dir, ok := h.unified.below(part[2]); ok {
				dirs[""] = dir
			}
		}
		for name := range strings.SplitSeq(part[1], ",") {
			if m, known := h.controllers[name]; known {
				if dir, ok := m.below(part[2]); ok {
					dirs[name] = dir
				}
			}
		}
	}
	return dirs
}

// below is the directory of a path of the hierarchy.
func (m mounted) below(p string) (string, bool) {
	rel, err := filepath.Rel(m.root, path.Clean(p))
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", false
	}
	return filepath.Join(m.dir, rel), true
}

func (c *cgroup) parent(name string) *Cgroup {
	up := &Cgroup{cgroup{map[string]string{}}}
	for k, dir := range c.dirs {
		if filepath.Base(filepath.Dir(dir)) != name {
			return nil
		}
		up.dirs[k] = filepath.Dir(dir)
	}
	return up
}

func (c *cgroup) read() (Usage, error) {
	var f files
	u := Usage{At: time.Now()}
	if dir, ok := c.dirs[""]; ok {
		f.unified(dir, &u)
	} else {
		f.v1(c.dirs, &u)
	}
	if u.WorkingSet = u.Memory - min(u.Memory, f.inactive); f.missing == nil {
		return u, nil
	}
	return u, f.missing
}

func (c *cgroup) readAll() (Usage, error) {
	u, err := c.read()
	if err != nil {
		return u, err
	}
	var f files
	u.More = &More{}
	if dir, ok := c.dirs[""]; ok {
		f.unifiedMore(dir, u.More)
	} else {
		f.v1More(c.dirs, u.More)
	}
	return u, nil
}

// files reads small files into one buffer.
type files struct {
	buf      [8 << 10]byte
	inactive uint64 // inactive_file of memory.stat
	missing  error  // the group is gone
}

// text is what is in DIR/NAME; empty when it is not there. It is good until the next call.
func (f *files) text(dir, name string) []byte {
	if dir == "" {
		return nil
	}
	fd, err := unix.Open(dir+"/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, f.buf[:])
	if err != nil || n < 0 {
		return nil
	}
	return f.buf[:n]
}

// number of a file that has but one; "max" is 0, as is what is not there.
func (f *files) number(dir, name string) uint64 {
	return atoi(bytes.TrimSpace(f.text(dir, name)))
}

// must is number of a file that every group has.
func (f *files) must(dir, name string) uint64 {
	text := f.text(dir, name)
	if text == nil {
		f.missing = fmt.Errorf("cgroup %s is gone: %w", dir, errdefs.ErrNotFound)
	}
	return atoi(bytes.TrimSpace(text))
}

// keyed calls fn for each line "KEY NUMBER" of a file.
func (f *files) keyed(dir, name string, fn func(key []byte, value uint64)) {
	for line := range bytes.Lines(f.text(dir, name)) {
		if key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" ")); ok {
			fn(key, atoi(value))
		}
	}
}

// atoi is 0 for what is no number.
func atoi(b []byte) uint64 {
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}
