package linux

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// oomWatcher tells when the kernel ran out of a cgroup's memory. With cgroup v2 it watches every memory.events file by one
// inotify (cgroup-v2.rst, "memory.events"); with v1 each cgroup has an eventfd (cgroup-v1/memory.rst, "OOM Control").
type oomWatcher struct {
	log     *slog.Logger
	readers sync.WaitGroup

	mu      sync.Mutex
	inotify *os.File // v2 only, from the first use
	files   map[int32]func()
}

func newOOMWatcher(log *slog.Logger) *oomWatcher {
	return &oomWatcher{log: log, files: map[int32]func(){}}
}

// close ends everything; v1's eventfds were closed by their containers.
func (w *oomWatcher) close() {
	w.mu.Lock()
	if w.inotify != nil {
		w.inotify.Close()
	}
	w.mu.Unlock()
	w.readers.Wait()
}

// watch calls f whenever something may have been killed in cg, until the answer is called or the cgroup is gone.
func (w *oomWatcher) watch(cg cgroups.Manager, f func()) (cancel func(), err error) {
	if cgroups.IsCgroup2UnifiedMode() {
		return w.watchV2(filepath.Join(cg.Path(""), "memory.events"), f)
	}
	return w.watchV1(cg.Path("memory"), f)
}

func (w *oomWatcher) watchV1(dir string, f func()) (cancel func(), err error) {
	if dir == "" {
		return nil, fmt.Errorf("no memory cgroup is mounted")
	}
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	events := os.NewFile(uintptr(fd), "oom eventfd")
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(line), 0); err != nil {
		events.Close()
		return nil, err
	}
	w.readers.Add(1)
	go func() {
		defer w.readers.Done()
		defer events.Close()
		for buf := make([]byte, 8); ; {
			if _, err := events.Read(buf); err != nil {
				return
			}
			// The kernel also notifies when the cgroup is removed.
			if _, err := os.Stat(dir); err != nil {
				return
			}
			f()
		}
	}()
	return func() { events.Close() }, nil
}

func (w *oomWatcher) watchV2(file string, f func()) (cancel func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inotify == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, err
		}
		w.inotify = os.NewFile(uintptr(fd), "oom inotify")
		w.readers.Add(1)
		go w.read(w.inotify)
	}
	conn, err := w.inotify.SyscallConn()
	if err != nil {
		return nil, err
	}
	wd := -1
	if err := conn.Control(func(fd uintptr) {
		wd, err = unix.InotifyAddWatch(int(fd), file, unix.IN_MODIFY)
	}); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	w.files[int32(wd)] = f
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.files, int32(wd))
		_ = conn.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) })
	}, nil
}

// read dispatches inotify(7) events, whose files have no names.
func (w *oomWatcher) read(inotify *os.File) {
	defer w.readers.Done()
	for buf := make([]byte, 4096); ; {
		n, err := inotify.Read(buf)
		if err != nil {
			return
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(rest))
			mask := binary.NativeEndian.Uint32(rest[4:])
			rest = rest[min(len(rest), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(rest[12:]))):]
			w.mu.Lock()
			f := w.files[wd]
			if mask&unix.IN_IGNORED != 0 {
				delete(w.files, wd)
				f = nil
			}
			w.mu.Unlock()
			if f != nil {
				f()
			}
		}
	}
}

// OnOOM also tells, just before init's exit is known, of what killed it.
func (c *container) OnOOM(f func()) error {
	cg, err := c.cgroups()
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.onOOM = append(c.onOOM, f)
	first := len(c.onOOM) == 1
	c.mu.Unlock()
	if !first || c.init.hasEnded() {
		return nil
	}
	if c.init.adopted {
		if n, err := cg.OOMKillCount(); err == nil {
			c.mu.Lock()
			c.oomKills = n // those before were told by the earlier executor
			c.mu.Unlock()
		}
	}
	notice := c.tellOOM
	if !cgroups.IsCgroup2UnifiedMode() {
		notice = c.tellOOMNow
	}
	cancel, err := c.e.oom.watch(cg, notice)
	if err != nil {
		return fmt.Errorf("cannot watch container %q run out of memory: %w", c.name(), err)
	}
	c.mu.Lock()
	c.oomCancel = cancel
	c.mu.Unlock()
	return nil
}

// tellOOM calls back when the kernel has counted a kill that was not told.
func (c *container) tellOOM() {
	cg, err := c.cgroups()
	if err != nil {
		return
	}
	n, err := cg.OOMKillCount()
	c.mu.Lock()
	grew := err == nil && n > c.oomKills
	if grew {
		c.oomKills = n
	}
	calls := c.onOOM
	c.mu.Unlock()
	if grew {
		for _, f := range calls {
			f()
		}
	}
}

// tellOOMNow is for v1, which notifies before it kills and counts.
func (c *container) tellOOMNow() {
	c.mu.Lock()
	c.oomKills++
	calls := c.onOOM
	c.mu.Unlock()
	for _, f := range calls {
		f()
	}
}

func (c *container) stopOOM() {
	c.mu.Lock()
	cancel := c.oomCancel
	c.oomCancel = nil
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}
