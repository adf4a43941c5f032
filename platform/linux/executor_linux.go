package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux/child"
)

// Config is what an Executor needs to know.
type Config struct {
	Root string       // state directory, on a file system that does not survive a reboot; made when missing
	Log  *slog.Logger // where it tells what it could not do but went on without; nil for slog's default
	// Libcontainer has it set up each container, also those that this package can set up faster; for comparison.
	Libcontainer bool
}

// Executor is the built-in executor. One process has at most one, for it reaps the process's orphans.
type Executor struct {
	root         string
	log          *slog.Logger
	privileges   privileges
	libcontainer bool
	starter      *child.Starter // unless libcontainer is true
	reaper       *reaper
	hierarchies  hierarchies
	oom          *oomWatcher
	closed       chan struct{}
	background   sync.WaitGroup // goroutines that wait for processes to end, or for mounts to
	unmounting   chan struct{}  // holds one for each mount that is ending

	tracing sync.RWMutex    // read-locked while a process of ours joins a pid namespace
	traced  map[uint64]bool // numbers of pid namespaces with processes of several containers, or that may trace

	mu         sync.Mutex
	containers map[string]*container // created or adopted here
}

var _ platform.Executor = (*Executor)(nil)

// validID says whether a container or process may be called id, which becomes a file name. (No regexp: every init of a
// container would compile it.)
func validID(id string) bool {
	if id == "" || len(id) > 200 || id[0] == '.' || id[0] == '-' {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '+', c == '-':
		default:
			return false
		}
	}
	return true
}

// maxUnmounting bounds the mounts that end in the background. Each takes a thread.
const maxUnmounting = 16

// New opens the state directory and makes this process the reaper of orphans among its descendants.
func New(cfg Config) (*Executor, error) {
	if err := os.MkdirAll(cfg.Root, 0o711); err != nil {
		return nil, fmt.Errorf("cannot make the state directory of containers: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot become the reaper of containers' orphans: %w", err)
	}
	e := &Executor{
		root: cfg.Root, log: cfg.Log, libcontainer: cfg.Libcontainer, closed: make(chan struct{}), unmounting: make(chan struct{}, maxUnmounting), traced: map[uint64]bool{}, containers: map[string]*container{},
	}
	if e.log == nil {
		e.log = slog.Default()
	}
	if self, err := os.Executable(); err == nil && strings.HasPrefix(cfg.Root, filepath.Dir(self)+"/") {
		// libcontainer then cannot seal the program by an overlay of its folder, and copies it for each process it starts.
		e.log.Warn("the state directory is below the program's own folder: every container starts much slower", "state", cfg.Root, "program", self)
	}
	if !e.libcontainer {
		starter, err := child.NewStarter(e.root)
		if err != nil {
			e.log.Warn("containers start slower", "error", err)
		}
		e.starter, e.libcontainer = starter, err != nil
	}
	e.privileges = ownPrivileges()
	e.oom = newOOMWatcher(e.log)
	e.reaper = startReaper()
	return e, nil
}

// Close stops watching. Containers go on running, and a later Executor on the same directory adopts them; Wait of
// processes that still run answers Unavailable.
func (e *Executor) Close() error {
	e.mu.Lock()
	select {
	case <-e.closed:
		e.mu.Unlock()
		return nil
	default:
	}
	close(e.closed)
	containers := e.containers
	e.containers = map[string]*container{}
	e.mu.Unlock()
	for _, c := range containers {
		c.release()
	}
	e.background.Wait()
	e.oom.close()
	e.reaper.close()
	if e.starter != nil {
		return e.starter.Close()
	}
	return nil
}

func (e *Executor) List(ctx context.Context) ([]string, error) {
	entries, err := os.ReadDir(e.root)
	if err != nil {
		return nil, fmt.Errorf("cannot list containers: %w", err)
	}
	var ids []string
	for _, entry := range entries {
		if entry.IsDir() && validID(entry.Name()) {
			ids = append(ids, entry.Name())
		}
	}
	return ids, nil
}

func (e *Executor) Adopt(ctx context.Context, id string) (platform.Container, error) {
	if !validID(id) {
		return nil, fmt.Errorf("cannot adopt container %q: not a valid id: %w", id, errdefs.ErrInvalidArgument)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[id]; c != nil {
		return c, nil
	}
	dir := filepath.Join(e.root, id)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot adopt container %q: %w", id, errdefs.ErrNotFound)
	}
	c, err := e.adopt(id, dir)
	if err != nil {
		return nil, fmt.Errorf("cannot adopt container %q: %w", id, err)
	}
	e.containers[id] = c
	return c, nil
}

// watch waits in the background for p to end.
func (e *Executor) watch(p *process, pid int, pidfd *os.File) {
	e.reaper.own(pid)
	if p.id == "" && (!p.c.private || p.c.record.Traced) {
		p.c.shares(pid)
	}
	e.background.Go(func() {
		exit, err := waitExit(pidfd, pid)
		e.reaper.disown(pid)
		if err != nil {
			return // the executor was closed
		}
		p.ended(exit)
	})
}
