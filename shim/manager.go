package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/shim/fdstore"
	"golang.org/x/sync/errgroup"
)

// Groups of containers that share a shim of ours.
const (
	GroupHost      = "host"
	GroupPod       = "pod"
	GroupContainer = "container"
)

// Config is what a Manager needs to know.
type Config struct {
	State string // directory below /run that ends with a reboot; keep it short, sockets are in it
	// Binary is slipway-shim; "" for the one beside the daemon's own executable, or else on PATH.
	Binary string
	Group  string // GroupHost if empty
	// Runtimes maps names clients use to shim binaries. A name that is not here is built in, or found on PATH by containerd's rule.
	Runtimes map[string]RuntimeConfig
	Address  string      // the daemon's gRPC socket, told to third parties' shims
	Events   func(Event) // called for every event, one at a time for each shim; it must not call the Manager's verbs
	Log      *slog.Logger
}

// RuntimeConfig is one runtime of the daemon's configuration.
type RuntimeConfig struct {
	Path    string      // of the shim binary; "" for the built-in
	Options *opaque.Any // for clients that send none
}

// Manager is the daemon's hold on its shims. Make it with New; Close lets go and leaves containers running.
type Manager struct {
	conf   Config
	events *eventServer
	kept   *fdstore.Store // terminals of shims of ours

	mu     sync.Mutex
	tasks  map[string]*entry
	ours   map[string]*builtin // by name
	infos  map[string]Info
	legacy map[string]bool // shim binaries that do not know containerd 2.3's parameters

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wait   sync.WaitGroup
}

// keeperSocket is where shims of ours hand in terminals, in the state directory.
const keeperSocket = "keeper.sock"

// endpoint is where the calls for a task go.
type endpoint interface {
	// connection answers a living connection, and starts a dead shim again if that can be done.
	connection(ctx context.Context) (*conn, error)
}

// New makes the state directory and begins to listen for events; call Restore before anything else.
func New(c Config) (*Manager, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Group == "" {
		c.Group = GroupHost
	}
	if c.Group != GroupHost && c.Group != GroupPod && c.Group != GroupContainer {
		return nil, fmt.Errorf("cannot group shims by %q: choose host, pod or container: %w", c.Group, errdefs.ErrInvalidArgument)
	}
	for _, dir := range []string{"tasks", "shims"} {
		if err := os.MkdirAll(filepath.Join(c.State, dir), 0o711); err != nil {
			return nil, fmt.Errorf("cannot make state directory: %w", err)
		}
	}
	m := &Manager{conf: c, tasks: map[string]*entry{}, ours: map[string]*builtin{}, infos: map[string]Info{}, legacy: map[string]bool{}}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	var err error
	if m.kept, err = fdstore.Listen(filepath.Join(c.State, keeperSocket), c.Log); err == nil {
		m.events, err = listenEvents(filepath.Join(c.State, "events.sock"), m.receive)
	}
	if err != nil {
		m.cancel()
		if m.kept != nil {
			m.kept.Close()
		}
		return nil, err
	}
	return m, nil
}

// Close lets go of all shims, asks those without a container to end, and waits for what this Manager does in the background.
func (m *Manager) Close() error {
	m.mu.Lock()
	m.cancel()
	ours, tasks := maps.Clone(m.ours), maps.Clone(m.tasks) // what runs in the background changes them until it has ended
	m.mu.Unlock()
	for _, b := range ours {
		b.close()
	}
	for _, e := range tasks {
		if b, ok := e.shim.(*foreign); ok {
			b.close()
		}
	}
	err := m.events.Close()
	m.wait.Wait()
	return errors.Join(err, m.kept.Close())
}

// Restore finds the tasks that outlived the last daemon. Shims of ours that died are started again; the tasks of third parties'
// dead shims are cleaned up and told as exited with 255. All shims are asked side by side and none for longer than its time-out.
func (m *Manager) Restore(ctx context.Context) error {
	namespaces, err := os.ReadDir(filepath.Join(m.conf.State, "tasks"))
	if err != nil {
		return fmt.Errorf("cannot read bundles: %w", err)
	}
	byShim := map[endpoint][]*entry{}
	for _, ns := range namespaces {
		ids, err := os.ReadDir(filepath.Join(m.conf.State, "tasks", ns.Name()))
		if err != nil {
			return fmt.Errorf("cannot read bundles: %w", err)
		}
		if len(ids) == 0 {
			_ = os.Remove(filepath.Join(m.conf.State, "tasks", ns.Name()))
		}
		for _, id := range ids {
			if e := m.restoreEntry(ns.Name(), id.Name()); e != nil {
				byShim[e.shim] = append(byShim[e.shim], e)
			}
		}
	}
	if err := m.restoreShims(); err != nil {
		return err
	}
	var wait sync.WaitGroup
	for s, entries := range byShim {
		wait.Go(func() {
			if err := m.reconcile(ctx, s, entries); err != nil {
				m.conf.Log.Error("cannot reach a shim; its tasks wait for it", "tasks", len(entries), "error", err)
				m.wait.Go(func() { m.recover(s) })
			}
		})
	}
	wait.Wait()
	return nil
}

// restoreEntry puts a task into the table from its bundle; nil, with the bundle removed, when it was never handed to a shim.
func (m *Manager) restoreEntry(ns, id string) *entry {
	b := m.bundle(ns, id)
	r, err := b.read()
	if err != nil {
		if err := b.remove(); err != nil {
			m.conf.Log.Error("cannot remove what is left of a task", "namespace", ns, "id", id, "error", err)
		}
		return nil
	}
	e := newEntry(ns, id, b, r)
	for _, execID := range b.execs() {
		e.add(execID, Streams{})
	}
	e.ready = true
	if r.Binary != "" {
		e.shim = m.foreignShim(e)
	} else {
		e.shim = m.builtin(r.Shim)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tasks[tableKey(ns, id)] = e
	return e
}

// restoreShims connects to shims of ours that serve no task as well: containers whose creation the last daemon did not see
// the end of may be in them. That of the host is started in any case, so that the first container need not wait.
func (m *Manager) restoreShims() error {
	dirs, err := os.ReadDir(filepath.Join(m.conf.State, "shims"))
	if err != nil {
		return fmt.Errorf("cannot read directories of shims: %w", err)
	}
	names := map[string]bool{}
	for _, d := range dirs {
		names[d.Name()] = true
	}
	if m.conf.Group == GroupHost {
		names[GroupHost] = true
	}
	for name := range names {
		b := m.builtin(name)
		m.wait.Go(func() {
			if _, err := b.connection(m.ctx); err != nil && m.ctx.Err() == nil {
				m.conf.Log.Error("cannot start shim", "shim", name, "error", err)
			}
		})
	}
	return nil
}

// reconcile brings the table up to what a shim says of its tasks, and removes those it does not know.
func (m *Manager) reconcile(ctx context.Context, s endpoint, entries []*entry) error {
	c, err := s.connection(ctx)
	if err != nil {
		var gone *goneError
		if !errors.As(err, &gone) {
			return err
		}
		for _, e := range entries {
			m.lost(e)
		}
		return nil
	}
	var group errgroup.Group
	group.SetLimit(16)
	for _, e := range entries {
		group.Go(func() error { return m.reconcileEntry(ctx, c, e) })
	}
	return group.Wait()
}

// recover reconciles with a shim, which connects to it or starts it anew, for as many attempts as that takes.
func (m *Manager) recover(s endpoint) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := m.reconcile(m.ctx, s, m.tasksOf(s))
		if err == nil || m.ctx.Err() != nil {
			return
		}
		m.conf.Log.Error("cannot reach or replace a shim; trying again", "error", err)
		select {
		case <-time.After(pause):
		case <-m.ctx.Done():
			return
		}
	}
}

// tasksOf are the tasks in the table that a shim serves.
func (m *Manager) tasksOf(s endpoint) []*entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*entry
	for _, e := range m.tasks {
		if e.shim == s {
			all = append(all, e)
		}
	}
	return all
}

// reconcileEntry asks for init and every executed process.
func (m *Manager) reconcileEntry(ctx context.Context, c *conn, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	e.mu.Lock()
	var ids []string
	ready := e.ready
	for execID := range e.procs {
		if execID != "" {
			ids = append(ids, execID)
		}
	}
	e.mu.Unlock()
	if !ready {
		return nil // its Create is under way and will say how that ended
	}
	for _, execID := range append(ids, "") { // init last: its exit is told after theirs
		known, err := m.refresh(ctx, c, e, execID)
		if err != nil {
			return err
		}
		if !known && execID == "" {
			m.conf.Log.Warn("no shim knows a task; what is left of it is removed", "namespace", e.ns, "id", e.id)
			m.vanished(e)
		}
		if f, ok := e.shim.(*foreign); ok && known {
			f.follow(execID) // the one that was begun before has ended with its connection, or its daemon
		}
	}
	return nil
}

// vanished tells the end of a task that its shim has forgotten, for those who wait, and removes it.
func (m *Manager) vanished(e *entry) {
	m.endAll(e, Exit{Status: 255, At: time.Now()})
	if err := e.bundle.remove(); err != nil {
		m.conf.Log.Error("cannot remove what is left of a task", "namespace", e.ns, "id", e.id, "error", err)
		return
	}
	m.forget(e)
}
