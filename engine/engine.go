// Package engine holds every verb of the daemon once: create, pull, start, exec, stop, collect, restore. The APIs translate
// to it and nothing else calls drivers, shims or metadata.
//
// It imports no gRPC, no protobuf and no driver: cmd/slipwayd constructs those and hands them in as Parts.
//
// What a crash leaves is what its parts leave; Start reconciles them: layers and blobs without a record are removed, shims
// found again, exits that happened meanwhile published.
package engine

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/slipwayd/slipway/content"
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
	Tasks         Tasks
	Root          string // persistent files
	State         string // files that end with a reboot
	Log           *slog.Logger
}

// Event is one message of the event stream. Payload is a containerd event message; the engine's own are built by the
// constructors in event.go, which api/containerd encodes.
type Event struct {
	At        time.Time
	Namespace string
	Topic     string
	Payload   Payload
}

// Payload is either one of this package's event structs or opaque.Any (from a shim or a client).
type Payload any

var _ = json.RawMessage(nil)
