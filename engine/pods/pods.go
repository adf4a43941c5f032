// Package pods holds the verbs of Kubernetes' pods and their containers: run, create, start, exec, stop, remove. They are built from the
// engine's verbs of containers and tasks, so that whatever is run here is seen through containerd's API too.
//
// It owns the records of pods (metadata.Sandbox) and of what CRI knows of a container, a table of both in memory which lists are
// answered from, and the directories STATE/pods/ID with what a pod has on the host (package internal/sandbox). It imports no gRPC, no protobuf, no
// driver; package api/cri translates to it.
//
// A pod has no process of its own. On Linux its namespaces are pinned by bind mounts, which outlive daemon and shims; only where a
// PID namespace is shared, or the configuration asks for it, a small init holds the pod. On Windows it is a network namespace. What differs between the two
// is behind the interface system.
//
// What a crash leaves is put right by Restore: a directory without a record belonged to a pod whose making was cut off, and goes with
// its namespaces, addresses and processes; a container without a pod goes too; what ended meanwhile is recorded with its status.
package pods

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/layerdir"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/network"
	"github.com/slipwayd/slipway/spec"
)

// Namespace is where containers of pods are in containerd's API, as its own CRI has it.
const Namespace = "k8s.io"

var scope = engine.Scope{Namespace: Namespace}

// Config is what a Manager needs to know.
type Config struct {
	Root           string // the daemon's, where files stay
	State          string // the daemon's, below /run
	DefaultRuntime string // of Runtimes
	Runtimes       map[string]Runtime
	Pause          bool   // a process of PauseImage holds each pod
	PauseImage     string // unpacked when Pause is set
	Holder         string // slipway-shim: "pause" as its argument makes it an init that does nothing
	SystemdCgroup  bool
	SELinux        bool     // labels are honoured; without, they are ignored
	CDISpecDirs    []string // where vendors describe devices
	Network        Network
	CollectNetwork bool            // Restore frees what networks hold for pods that are not here
	ParallelPulls  int             // images pulled side by side; 0 for any number
	Patience       engine.Patience // with pulls
	Plugins        Plugins         // nil for none
	Windows        *Windows        // what pods are made with on Windows; nil on Linux
	Log            *slog.Logger
}

// Runtime is one runtime class.
type Runtime struct {
	Name                         string // such as io.containerd.slipway.v1
	Options                      *opaque.Any
	Snapshotter                  string // "" for the engine's default
	Pause                        bool   // it wants a process for each pod, as runtimes of virtual machines do
	Foreign                      bool   // its shim is not ours: it writes no logs
	PodAnnotations               []string
	ContainerAnnotations         []string
	PrivilegedWithoutHostDevices bool
	HyperV                       bool // on Windows: a virtual machine around each container
	NetworkConfigDir             string
}

// Network gives pods their addresses; *network.CNI in the daemon, whose comments say what each verb does.
type Network interface {
	Attach(ctx context.Context, p network.Pod) (network.Attachment, error)
	Detach(ctx context.Context, p network.Pod) error
	Collect(ctx context.Context, live []string) error
	Status(ctx context.Context) error
}

// Manager is the pods of one daemon. Exported methods are safe for concurrent use.
type Manager struct {
	e    *engine.Engine
	conf Config
	sys  system
	host spec.Host // of Linux; empty elsewhere

	makings  makings
	images   imageCache
	watchers watchers // event.go
	pulling  pulls    // images.go

	declaredDirs *layerdir.Root // declared.go

	mu         sync.Mutex
	pods       map[string]*pod
	containers map[string]*container
	names      map[string]string // of pods and containers → id

	life context.Context // of background work; verbs that outlive their callers use it too
	stop context.CancelFunc
	wait sync.WaitGroup
}

// New makes a manager over an engine that has not started; Restore follows the engine's.
func New(e *engine.Engine, c Config) (*Manager, error) {
	if _, ok := c.Runtimes[c.DefaultRuntime]; !ok {
		return nil, fmt.Errorf("default runtime class %q is not among the runtimes: %w", c.DefaultRuntime, errdefs.ErrInvalidArgument)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Plugins == nil {
		c.Plugins = noPlugins{}
	}
	declared, err := layerdir.Open(filepath.Join(c.Root, "volumes"))
	if err != nil {
		return nil, fmt.Errorf("cannot open the volumes that images declare: %w", err)
	}
	m := &Manager{
		e: e, conf: c, declaredDirs: declared,
		pods: map[string]*pod{}, containers: map[string]*container{}, names: map[string]string{},
	}
	if c.Windows != nil {
		m.sys = &onWindows{m: m, Windows: *c.Windows}
	} else if m.sys, err = newLinux(m); err != nil {
		return nil, err
	}
	if c.ParallelPulls > 0 {
		m.pulling.slots = make(chan struct{}, c.ParallelPulls)
	}
	m.life, m.stop = context.WithCancel(context.Background())
	if err := os.MkdirAll(m.dir(""), 0o711); err != nil {
		return nil, fmt.Errorf("cannot make the directory of pods: %w", err)
	}
	e.WatchTasks(Namespace, m.taskEvent)
	return m, nil
}

// Close waits for what is under way. Pods go on running.
func (m *Manager) Close() error {
	m.stop()
	m.wait.Wait()
	return nil
}

// Host is what pods can be given here.
func (m *Manager) Host() spec.Host { return m.host }

// Config is what the manager was made with.
func (m *Manager) Config() Config { return m.conf }

// NetworkStatus is nil when pods can have a network of their own.
func (m *Manager) NetworkStatus(ctx context.Context) error {
	if m.conf.Network == nil {
		return errNoNetwork()
	}
	return m.conf.Network.Status(ctx)
}

func errNoNetwork() error {
	return fmt.Errorf("there is no network for pods: configure CNI, or give them the host's: %w", errdefs.ErrFailedPrecondition)
}

// dir is where a pod's things are.
func (m *Manager) dir(id string) string { return filepath.Join(m.conf.State, "pods", id) }

// idLength is that of containerd's and docker's ids: tools that read cgroups know containers by it.
const idLength = 64

func newID() string {
	var b [idLength / 2]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// background runs fn, unless Close has begun: then it is the next daemon's to find out.
func (m *Manager) background(fn func(ctx context.Context)) {
	if m.life.Err() != nil {
		return
	}
	m.wait.Go(func() { fn(m.life) })
}

// runtime is the class a pod asks for.
func (m *Manager) runtime(handler string) (Runtime, error) {
	if handler == "" {
		handler = m.conf.DefaultRuntime
	}
	r, ok := m.conf.Runtimes[handler]
	if !ok {
		return r, fmt.Errorf("runtime class %.100q is not configured: add [cri.runtimes.%[1]s] to the daemon's configuration: %w", handler, errdefs.ErrNotFound)
	}
	if r.Snapshotter == "" {
		r.Snapshotter = m.e.DefaultDriver()
	}
	return r, nil
}

// undoTimeout is how long cleaning up after something that failed may take.
const undoTimeout = time.Minute

// undoing is a context for that: what ended ctx must not keep what was made.
func undoing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
}
