// Package engine holds every verb of the daemon once: create, pull, start, exec, stop, collect, restore. The APIs translate
// to it and nothing else calls drivers, shims or metadata.
//
// It imports no gRPC, no protobuf and no driver: cmd/slipwayd constructs those and hands them in as Parts.
//
// What a crash leaves is what its parts leave; Start reconciles them: layers and blobs without a record are removed, shims
// found again, exits that happened meanwhile published.
package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/image/lazyindex"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/image/startprofile"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
)

// Tasks is what the engine needs of the shims; *shim.Manager in the daemon. An execID of "" is init. All methods fail with
// NotFound for a task or process that is not there.
type Tasks interface {
	// Restore finds the tasks that outlived the last daemon, replaces dead shims, and reports exits that happened meanwhile.
	Restore(ctx context.Context) error
	Create(ctx context.Context, o shim.CreateOptions) (pid uint32, err error)
	Start(ctx context.Context, ns, id, execID string) (pid uint32, err error)
	Delete(ctx context.Context, ns, id, execID string) (shim.Exit, error)
	Exec(ctx context.Context, ns, id string, o shim.ExecOptions) error
	Kill(ctx context.Context, ns, id, execID string, signal uint32, all bool) error
	Pause(ctx context.Context, ns, id string) error
	Resume(ctx context.Context, ns, id string) error
	ResizePty(ctx context.Context, ns, id, execID string, width, height uint32) error
	CloseIO(ctx context.Context, ns, id, execID string) error
	Update(ctx context.Context, ns, id string, resources opaque.Any, annotations map[string]string) error
	Checkpoint(ctx context.Context, ns, id, path string, options *opaque.Any) error
	Pids(ctx context.Context, ns, id string) ([]shim.ProcessInfo, error)
	Stats(ctx context.Context, ns, id string) (opaque.Any, error)
	State(ctx context.Context, ns, id, execID string) (shim.State, error)
	Wait(ctx context.Context, ns, id, execID string) (shim.Exit, error)
	// List answers the init states of all tasks of a namespace; "" for all namespaces.
	List(ctx context.Context, ns string) ([]shim.State, error)
	Info(ctx context.Context, runtime string, options *opaque.Any) (shim.Info, error)
	Close() error
}

// Parts is what an Engine is made of. The caller keeps ownership of nothing: Engine.Close closes them.
type Parts struct {
	DB            *metadata.DB
	Content       content.Store
	Drivers       map[string]storage.Driver // by snapshotter name
	DefaultDriver string
	Aliases       map[string]string // further names of drivers
	Tasks         Tasks
	Registry      *registry.Client  // nil for one with defaults
	Indexes       *lazyindex.Finder // nil: only layers with a table of contents of their own are pulled lazily
	Lazy          LazyOptions
	Profiles      *startprofile.Store // nil: what starts read is not recorded
	Root          string              // persistent files
	State         string              // files that end with a reboot
	Log           *slog.Logger
	GCDelay       time.Duration // from the last deletion to collection, 0 for a second
	GCInterval    time.Duration // between looks for what has expired, 0 for an hour
	// EventField answers a field of an event's payload for filters such as event.container_id==x; nil when there is no such
	// thing as a field. Payloads are protobuf, so package api/containerd supplies it.
	EventField func(p Payload, path []string) (string, bool)
	// Leave gives back what a container has outside of the daemon, such as an address that its client asked for, by the container's labels. It is called
	// before the record goes, and again after a failure or a crash; nil: containers have nothing there.
	Leave func(ctx context.Context, labels map[string]string) error
}

// Scope says on whose behalf a verb runs: the namespace it sees, and the lease (empty for none) that holds what it makes.
type Scope struct {
	Namespace, Lease string
}

// Engine is the daemon without its wire. Every exported method is safe for concurrent use.
//
// Files of this package share the fields; those that verbs of any file may use are db, tasks, log, events (Publish, through
// e.Publish), Snapshots(scope, driver) and Content(scope). The rest belongs to the file named beside it.
type Engine struct {
	db            *metadata.DB
	blobs         content.Store // the whole store; verbs use Content(scope), which sees one namespace
	drivers       map[string]storage.Driver
	defaultDriver string
	aliases       map[string]string // alias.go
	tasks         Tasks
	registry      *registry.Client    // transfer.go
	indexes       *lazyindex.Finder   // lazy.go
	lazy          LazyOptions         // lazy.go
	profiles      *startprofile.Store // lazy_profile.go
	root, state   string
	log           *slog.Logger

	events      *broker                // event.go
	watchers    map[string]func(Event) // task_remove.go: by namespace
	locks       keyLocks               // lock.go: "snapshot/…", "blob/…"
	trash       *trash                 // trash.go: layers and blobs without a record, being removed
	gc          *gcRunner              // gc.go
	pulls       pullCounts             // metrics.go
	memory      *breather              // memory.go
	restoringMu sync.Mutex             // task_unpacked.go
	restoring   map[string]bool        // keys of tasks that have an unpacked checkpoint
	filler      *filler                // lazy_fill.go: lazily pulled layers, being brought here
	restarts    *restarter             // restart.go

	uuidMu sync.Mutex // introspect.go

	leave func(ctx context.Context, labels map[string]string) error // task_remove.go

	recordedMu sync.Mutex      // lazy_record.go
	recorded   map[string]bool // layers whose use is being noted: whether the background waits for that
	starts     startCounts     // metrics.go
	observed   observedStarts  // lazy_observe.go

	stop context.CancelFunc // ends background work
	bg   sync.WaitGroup     // background work, begun with e.background
	life context.Context    // of background work; verbs never use it
}

// New makes an engine of its parts and touches nothing yet; Start does.
func New(p Parts) (*Engine, error) {
	if p.DB == nil || p.Content == nil || p.Tasks == nil {
		return nil, fmt.Errorf("engine needs metadata, content and tasks: %w", errdefs.ErrInvalidArgument)
	}
	if _, ok := p.Drivers[p.DefaultDriver]; !ok {
		return nil, fmt.Errorf("default snapshotter %q is not among the drivers: %w", p.DefaultDriver, errdefs.ErrInvalidArgument)
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	if err := p.Lazy.check(); err != nil {
		return nil, err
	}
	for _, dir := range []string{p.Root, p.State} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("cannot make the daemon's directory: %w", err)
		}
	}
	e := &Engine{
		db: p.DB, blobs: p.Content, drivers: p.Drivers, defaultDriver: p.DefaultDriver, aliases: p.Aliases, tasks: p.Tasks,
		indexes: p.Indexes, lazy: p.Lazy.withDefaults(), profiles: p.Profiles, recorded: map[string]bool{}, restoring: map[string]bool{}, root: p.Root, state: p.State, log: p.Log,
		events: newBroker(p.EventField), watchers: map[string]func(Event){},
	}
	if e.registry = p.Registry; e.registry == nil {
		e.registry = registry.New(registry.Config{})
	}
	if e.leave = p.Leave; e.leave == nil {
		e.leave = func(context.Context, map[string]string) error { return nil }
	}
	e.life, e.stop = context.WithCancel(context.Background())
	e.trash = newTrash(e)
	e.memory = newBreather()
	e.filler = newFiller(e)
	e.restarts = newRestarter(e)
	e.gc = newGC(e, cmp.Or(p.GCDelay, time.Second), cmp.Or(p.GCInterval, time.Hour))
	return e, nil
}

// Start reconciles what a crash left and then begins background work. After it returns the engine serves.
func (e *Engine) Start(ctx context.Context) error {
	if err := e.restore(ctx); err != nil {
		return err
	}
	e.background(e.trash.run)
	e.background(e.gc.run)
	e.background(e.memory.run)
	e.background(e.filler.run)
	e.background(e.filler.streams)
	e.restoreAutoRemove(ctx) // before anybody can create a container that has no task yet
	e.restarts.begin(ctx)    // likewise
	e.background(e.restarts.run)
	return nil
}

// Close ends background work and subscriptions, then closes the parts. Tasks go on running.
func (e *Engine) Close() error {
	e.stop()
	e.events.close()
	errs := []error{e.tasks.Close()} // first: until then shims tell of ends, each of which may begin background work
	e.bg.Wait()
	for _, d := range e.drivers {
		if c, ok := d.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(append(errs, e.registry.Close(), e.db.Close())...)
}

// background runs fn until Close; fn returns soon after its ctx ends.
func (e *Engine) background(fn func(context.Context)) {
	e.bg.Go(func() { fn(e.life) })
}
