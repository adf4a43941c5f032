package slipway

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/metadata"

	slipwayv1 "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/engine"
	records "github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

// noTasks is a host where nothing runs.
type noTasks struct{ engine.Tasks }

func (noTasks) Restore(context.Context) error { return nil }
func (noTasks) Close() error                  { return nil }
func (noTasks) Delete(_ context.Context, _, id, _ string) (shim.Exit, error) {
	return shim.Exit{}, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
}

func TestContainers(t *testing.T) {
	dir := t.TempDir()
	db, err := records.Open(filepath.Join(dir, "metadata.db"), records.Options{})
	if err != nil {
		t.Fatal(err)
	}
	eng, err := engine.New(engine.Parts{
		DB: db, Content: testsuite.NewMemoryContent(), Drivers: map[string]storage.Driver{"fake": testsuite.NewFakeDriver()}, DefaultDriver: "fake",
		Tasks: noTasks{}, Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), GCDelay: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := eng.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer eng.Close()
	snapshots, err := eng.Snapshots(engine.Scope{Namespace: "default"}, "fake")
	if err != nil {
		t.Fatal(err)
	}
	_, perr := snapshots.Prepare(t.Context(), "extract", "", nil)
	if err := errors.Join(perr, snapshots.Commit(t.Context(), "base", "extract", nil, "")); err != nil {
		t.Fatal(err)
	}

	service := &containers{engine: eng}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("containerd-namespace", "default"))
	good := func(change func(*slipwayv1.CreateContainerRequest)) *slipwayv1.CreateContainerRequest {
		r := &slipwayv1.CreateContainerRequest{Id: "a", Image: "busybox", Parent: "base", Runtime: "r", Spec: []byte("{}"), Labels: map[string]string{"k": "v"}}
		change(r)
		return r
	}
	for _, test := range []struct {
		name   string
		ctx    context.Context
		change func(*slipwayv1.CreateContainerRequest)
		want   error
	}{
		{"without a namespace", t.Context(), func(*slipwayv1.CreateContainerRequest) {}, errdefs.ErrFailedPrecondition},
		{"without a spec", ctx, func(r *slipwayv1.CreateContainerRequest) { r.Spec = nil }, errdefs.ErrInvalidArgument},
		{"without a runtime", ctx, func(r *slipwayv1.CreateContainerRequest) { r.Runtime = "" }, errdefs.ErrInvalidArgument},
		{"without a parent", ctx, func(r *slipwayv1.CreateContainerRequest) { r.Parent = "" }, errdefs.ErrInvalidArgument},
		{"with a bad id", ctx, func(r *slipwayv1.CreateContainerRequest) { r.Id = "../a" }, errdefs.ErrInvalidArgument},
		{"on a missing parent", ctx, func(r *slipwayv1.CreateContainerRequest) { r.Parent = "nothing" }, errdefs.ErrNotFound},
		{"with a missing snapshotter", ctx, func(r *slipwayv1.CreateContainerRequest) { r.Snapshotter = "nothing" }, errdefs.ErrInvalidArgument},
		{"", ctx, func(*slipwayv1.CreateContainerRequest) {}, nil},
		{"twice", ctx, func(*slipwayv1.CreateContainerRequest) {}, errdefs.ErrAlreadyExists},
	} {
		made, err := service.Create(test.ctx, good(test.change))
		if test.want == nil && (err != nil || made.Snapshotter != "fake" || made.CreatedAt == 0) || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("Create %s: %v, %v, want %v", test.name, made, err, test.want)
		}
	}
	record, err := eng.GetContainer(t.Context(), "default", "a")
	if err != nil || record.SnapshotKey != "a" || record.Labels["k"] != "v" || record.Spec.TypeURL != specURL {
		t.Errorf("record: %+v, %v", record, err)
	}
	if s, err := snapshots.Stat(t.Context(), "a"); err != nil || s.Parent != "base" {
		t.Errorf("snapshot: %+v, %v", s, err)
	}
	if _, err := service.Remove(ctx, &slipwayv1.RemoveContainerRequest{Id: "a"}); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if _, err := snapshots.Stat(t.Context(), "a"); !errdefs.IsNotFound(err) {
		t.Errorf("snapshot after Remove: %v", err)
	}
	if _, err := service.Remove(ctx, &slipwayv1.RemoveContainerRequest{Id: "a"}); !errdefs.IsNotFound(err) {
		t.Errorf("Remove again: %v", err)
	}
}

// someTasks is a host where these run or ran.
type someTasks struct {
	noTasks
	states []shim.State
}

func (s someTasks) State(_ context.Context, ns, id, _ string) (shim.State, error) {
	for _, st := range s.states {
		if st.Namespace == ns && st.ID == id {
			return st, nil
		}
	}
	return shim.State{}, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
}

func (s someTasks) List(_ context.Context, ns string) (in []shim.State, _ error) {
	for _, st := range s.states {
		if st.Namespace == ns {
			in = append(in, st)
		}
	}
	return in, nil
}

func TestStates(t *testing.T) {
	dir := t.TempDir()
	db, err := records.Open(filepath.Join(dir, "metadata.db"), records.Options{})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(7, 9)
	eng, err := engine.New(engine.Parts{
		DB: db, Content: testsuite.NewMemoryContent(), Drivers: map[string]storage.Driver{"fake": testsuite.NewFakeDriver()}, DefaultDriver: "fake",
		Tasks: someTasks{states: []shim.State{
			{Namespace: "default", ID: "a", Pid: 3, Status: shim.Running},
			{Namespace: "default", ID: "b", Pid: 4, Status: shim.Stopped, ExitStatus: 137, ExitedAt: at, OOMKilled: true},
			{Namespace: "other", ID: "c", Status: shim.Created},
		}},
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), GCDelay: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer eng.Close()
	service := &containers{engine: eng}
	in := func(ns string) context.Context {
		return metadata.NewIncomingContext(t.Context(), metadata.Pairs("containerd-namespace", ns))
	}
	const a, b = "a running 3 0 false ", "b stopped 4 137 true "
	for _, test := range []struct {
		ns   string
		ids  []string
		want string
		err  error
	}{
		{"default", nil, a + b, nil},
		{"default", []string{"b", "none", "c"}, b, nil},
		{"other", nil, "c created 0 0 false ", nil},
		{"default", make([]string, maxAsked+1), "", errdefs.ErrInvalidArgument},
		{"", nil, "", errdefs.ErrFailedPrecondition},
	} {
		r, err := service.States(in(test.ns), &slipwayv1.ContainerStatesRequest{Ids: test.ids})
		got := ""
		for _, s := range r.GetStates() {
			got += fmt.Sprintln(s.Id, s.State, s.Pid, s.ExitCode, s.OomKilled)
			if s.State == "stopped" && s.ExitedAt != at.UnixNano() {
				t.Errorf("%s exited at %d", s.Id, s.ExitedAt)
			}
		}
		if strings.ReplaceAll(got, "\n", " ") != test.want || !errors.Is(err, test.err) {
			t.Errorf("states in %q of %d ids: %q, %v; want %q, %v", test.ns, len(test.ids), got, err, test.want, test.err)
		}
	}
}
