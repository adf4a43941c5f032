package engine

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

// taskTable is an engine's Tasks without processes: what was created is running until it is told to end.
type taskTable struct {
	Tasks // panics for what no test uses

	mu      sync.Mutex
	tasks   map[string]shim.State
	created []shim.CreateOptions

	deletedExecs chan string
	closing      func() // called by Close; nil for nothing

	images  map[string]string // files that Checkpoint writes
	restore map[string]string // files that the last Create found in its checkpoint
}

func newTaskTable() *taskTable {
	return &taskTable{tasks: map[string]shim.State{}, deletedExecs: make(chan string, 8)}
}

func (f *taskTable) Restore(context.Context) error { return nil }

func (f *taskTable) Close() error {
	if f.closing != nil {
		f.closing()
	}
	return nil
}

func (f *taskTable) Create(_ context.Context, o shim.CreateOptions) (uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = append(f.created, o)
	f.tasks[o.Namespace+"/"+o.ID] = shim.State{Namespace: o.Namespace, ID: o.ID, Pid: 7, Status: shim.Running}
	if o.Checkpoint != "" {
		f.restore = map[string]string{}
		root := os.DirFS(o.Checkpoint)
		for name := range f.images {
			data, err := fs.ReadFile(root, name)
			if err != nil {
				return 0, err
			}
			f.restore[name] = string(data)
		}
	}
	return 7, nil
}

func (f *taskTable) State(_ context.Context, ns, id, _ string) (shim.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st, ok := f.tasks[ns+"/"+id]
	if !ok {
		return st, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
	}
	return st, nil
}

func (f *taskTable) Delete(ctx context.Context, ns, id, exec string) (shim.Exit, error) {
	if exec != "" {
		f.deletedExecs <- ns + "/" + id + "/" + exec
		return shim.Exit{}, nil
	}
	st, err := f.State(ctx, ns, id, "")
	if err != nil {
		return shim.Exit{}, err
	}
	if st.Status != shim.Stopped {
		return shim.Exit{}, fmt.Errorf("task %s runs: %w", id, errdefs.ErrFailedPrecondition)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.tasks, ns+"/"+id)
	return shim.Exit{}, nil
}

func (f *taskTable) List(_ context.Context, ns string) ([]shim.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []shim.State
	for _, st := range f.tasks {
		if st.Namespace == ns {
			all = append(all, st)
		}
	}
	return all, nil
}

func (f *taskTable) Stats(_ context.Context, _, id string) (opaque.Any, error) {
	return opaque.Any{TypeURL: "stats", Value: []byte(id)}, nil
}

func (f *taskTable) Checkpoint(_ context.Context, _, _, path string, _ *opaque.Any) error {
	for name, data := range f.images {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(path, name)), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(path, name), []byte(data), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *taskTable) Start(context.Context, string, string, string) (uint32, error) { return 7, nil }

func (f *taskTable) Kill(_ context.Context, ns, id, _ string, _ uint32, _ bool) error {
	f.end(ns, id)
	return nil
}

// end makes a task's init end.
func (f *taskTable) end(ns, id string) { f.endWith(ns, id, 0) }

func (f *taskTable) endWith(ns, id string, status uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.tasks[ns+"/"+id]
	st.Status, st.ExitStatus = shim.Stopped, status
	f.tasks[ns+"/"+id] = st
}

// exitPayload is an exit event as tests encode it.
type exitPayload map[string]string

func exitField(p Payload, path []string) (string, bool) {
	fields, ok := p.(exitPayload)
	if !ok || len(path) != 1 {
		return "", false
	}
	v, ok := fields[path[0]]
	return v, ok
}

// bench is an engine on fakes, with a real metadata file.
type bench struct {
	*Engine
	tasks  *taskTable
	driver *testsuite.FakeDriver
}

// rebasing is a fake driver whose layers can be filled before their parents are there.
type rebasing struct{ *testsuite.FakeDriver }

func (rebasing) Rebases() bool { return true }

const benchNS = "test"

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{tasks: newTaskTable(), driver: testsuite.NewFakeDriver()}
	dir := t.TempDir()
	db, err := metadata.Open(filepath.Join(dir, "metadata.db"), metadata.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b.Engine, err = New(Parts{
		DB: db, Content: testsuite.NewMemoryContent(), Drivers: map[string]storage.Driver{"fake": rebasing{b.driver}},
		DefaultDriver: "fake", Tasks: b.tasks, Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"),
		EventField: exitField,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// container records a container on a snapshot of its own.
func (b *bench) container(t *testing.T, id string, labels map[string]string) {
	t.Helper()
	s, err := b.Snapshots(Scope{Namespace: benchNS}, "fake")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(t.Context(), id+"-rw", "", nil); err != nil {
		t.Fatal(err)
	}
	_, err = b.CreateContainer(t.Context(), benchNS, metadata.Container{
		ID: id, Labels: labels, Snapshotter: "fake", SnapshotKey: id + "-rw",
		Runtime: metadata.Runtime{Name: "runtime", Options: &opaque.Any{TypeURL: "container's", Value: []byte("o")}},
		Spec:    &opaque.Any{TypeURL: "spec", Value: []byte(`{"ociVersion":"1"}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) task(t *testing.T, id string) {
	t.Helper()
	if _, err := b.CreateTask(t.Context(), Scope{Namespace: benchNS}, TaskOptions{ContainerID: id}); err != nil {
		t.Fatal(err)
	}
}
