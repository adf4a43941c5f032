package engine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
)

func TestCreateTask(t *testing.T) {
	b := newBench(t)
	b.container(t, "c", nil)
	sc := Scope{Namespace: benchNS}
	pid, err := b.CreateTask(t.Context(), sc, TaskOptions{ContainerID: "c", Streams: shim.Streams{Stdout: "/fifo"}})
	if err != nil || pid != 7 {
		t.Fatalf("pid %d, %v", pid, err)
	}
	got := b.tasks.created[0]
	if len(got.Rootfs) != 1 || got.Rootfs[0].Type != "fake" {
		t.Errorf("root file system %+v, want that of the snapshot", got.Rootfs)
	}
	got.Rootfs = nil
	want := shim.CreateOptions{
		Namespace: benchNS, ID: "c", Runtime: "runtime", Options: &opaque.Any{TypeURL: "container's", Value: []byte("o")},
		Spec: json.RawMessage(`{"ociVersion":"1"}`), Streams: shim.Streams{Stdout: "/fifo"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("shim was told %+v, want %+v", got, want)
	}

	mounts := []storage.Mount{{Type: "bind", Source: "/x"}}
	_, err = b.CreateTask(t.Context(), sc, TaskOptions{
		ContainerID: "c", Rootfs: mounts, Runtime: "other", Options: &opaque.Any{TypeURL: "task's"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got = b.tasks.created[1]
	if !reflect.DeepEqual(got.Rootfs, mounts) || got.Runtime != "other" || got.Options.TypeURL != "task's" {
		t.Errorf("what the client says does not win: %+v", got)
	}
	if _, err := b.CreateTask(t.Context(), sc, TaskOptions{ContainerID: "none"}); !errdefs.IsNotFound(err) {
		t.Errorf("task of no container: %v, want NotFound", err)
	}
	if err := b.DeleteContainer(t.Context(), benchNS, "c"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of a container with a task: %v, want FailedPrecondition", err)
	}
}

// TestLeave: what a container has elsewhere is given back before its record goes, by whichever verb, and the record stays when it cannot be.
func TestLeave(t *testing.T) {
	b := newBench(t)
	broken := errors.New("broken")
	var failing error
	var left []string
	b.leave = func(_ context.Context, labels map[string]string) error {
		left = append(left, labels["address"])
		return failing
	}
	for name, remove := range map[string]func(id string) error{
		"DeleteContainer": func(id string) error { return b.DeleteContainer(t.Context(), benchNS, id) },
		"RemoveContainer": func(id string) error {
			c, err := b.GetContainer(t.Context(), benchNS, id)
			if err != nil {
				return err
			}
			return b.RemoveContainer(t.Context(), benchNS, c)
		},
	} {
		b.container(t, name, map[string]string{"address": name})
		failing, left = broken, nil
		if err := remove(name); !errors.Is(err, broken) {
			t.Errorf("%s: %v, want %v", name, err, broken)
		}
		failing = nil
		if err := remove(name); err != nil {
			t.Errorf("%s again: %v", name, err)
		}
		if want := []string{name, name}; !reflect.DeepEqual(left, want) {
			t.Errorf("%s gave back %q, want %q", name, left, want)
		}
		if _, err := b.GetContainer(t.Context(), benchNS, name); !errdefs.IsNotFound(err) {
			t.Errorf("%s: the record is there: %v", name, err)
		}
	}
}

func TestEnded(t *testing.T) {
	b := newBench(t)
	for _, tt := range []struct {
		ev                 Event
		container, process string
	}{
		{Event{Topic: "/tasks/exit", Payload: exitPayload{"container_id": "a", "id": "a"}}, "a", "a"},
		{Event{Topic: "/tasks/exit", Payload: exitPayload{"container_id": "b"}}, "b", ""},
		{Event{Topic: "/tasks/exit", Payload: exitPayload{"container_id": "a", "id": "exec"}}, "a", "exec"},
		{Event{Topic: "/tasks/start", Payload: exitPayload{"container_id": "a", "id": "a"}}, "", ""},
		{Event{Topic: "/tasks/exit", Payload: opaque.Any{TypeURL: "unknown"}}, "", ""},
	} {
		if c, p := b.ended(tt.ev); c != tt.container || p != tt.process {
			t.Errorf("%v: got %q, %q", tt.ev, c, p)
		}
	}
}

func TestAutoRemove(t *testing.T) {
	for name, tt := range map[string]struct {
		label string
		ended bool
		gone  bool
	}{
		"asked for":              {"true", true, true},
		"not asked for":          {"", true, false},
		"not true":               {"1", true, false},
		"it has been made again": {"true", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.container(t, "c", map[string]string{LabelAutoRemove: tt.label})
			b.task(t, "c")
			log := b.LogFile(benchNS, "c")
			if err := errors.Join(os.MkdirAll(filepath.Dir(log), 0o700), os.WriteFile(log, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			if tt.ended {
				b.tasks.end(benchNS, "c")
			}
			b.autoRemove(t.Context(), benchNS, "c")
			b.checkContainer(t, "c", !tt.gone)
			if _, err := os.Stat(log); errors.Is(err, os.ErrNotExist) != tt.gone {
				t.Errorf("log: %v", err)
			}
		})
	}
}

func TestExitEventRemoves(t *testing.T) {
	b := newBench(t)
	b.container(t, "c", map[string]string{LabelAutoRemove: "true"})
	b.task(t, "c")
	b.tasks.end(benchNS, "c")
	events, err := b.Subscribe(t.Context(), `topic=="/containers/delete"`)
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	exit := Event{Namespace: benchNS, Topic: "/tasks/exit", Payload: exitPayload{"container_id": "c", "id": "c"}}
	if err := b.TaskEvent(t.Context(), exit); err != nil {
		t.Fatal(err)
	}
	if _, err := events.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.checkContainer(t, "c", false)
}

// checkContainer fails unless container, snapshot and task are all there, or none of them.
func (b *bench) checkContainer(t *testing.T, id string, there bool) {
	t.Helper()
	_, err := b.GetContainer(t.Context(), benchNS, id)
	if errdefs.IsNotFound(err) == there {
		t.Errorf("container: %v", err)
	}
	s, err := b.Snapshots(Scope{Namespace: benchNS}, "fake")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), id+"-rw"); errdefs.IsNotFound(err) == there {
		t.Errorf("snapshot: %v", err)
	}
	if _, err := b.tasks.State(t.Context(), benchNS, id, ""); errdefs.IsNotFound(err) == there {
		t.Errorf("task: %v", err)
	}
	if !there {
		if err := s.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left, _ := b.driver.List(t.Context()); len(left) > 0 {
			t.Errorf("layers are left: %q", left)
		}
	}
}

// Only the processes that nobody waits for are deleted.
func TestDetachedProcessesAreDeleted(t *testing.T) {
	b := newBench(t)
	for _, process := range []string{"mine", DetachedExec + "1"} {
		ev := Event{Namespace: benchNS, Topic: "/tasks/exit", Payload: exitPayload{"container_id": "c", "id": process}}
		if err := b.TaskEvent(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := <-b.tasks.deletedExecs, benchNS+"/c/"+DetachedExec+"1"; got != want {
		t.Errorf("deleted %s, want %s", got, want)
	}
	if len(b.tasks.deletedExecs) > 0 {
		t.Errorf("deleted %s too", <-b.tasks.deletedExecs)
	}
}

// What a shim tells while the engine closes is acted on before the parts are closed, or not at all.
func TestEndsDuringClose(t *testing.T) {
	b := newBench(t)
	told := make(chan error, 1)
	b.tasks.closing = sync.OnceFunc(func() { // the bench closes it again
		ev := Event{Namespace: benchNS, Topic: "/tasks/exit", Payload: exitPayload{"container_id": "c", "id": DetachedExec + "1"}}
		told <- b.TaskEvent(t.Context(), ev)
	})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-told; err != nil {
		t.Fatal(err)
	}
	if len(b.tasks.deletedExecs) != 1 {
		t.Error("Close did not wait for what an event began")
	}
}

func TestAutoRemoveAfterARestart(t *testing.T) {
	b := newBench(t)
	marked := map[string]string{LabelAutoRemove: "true"}
	for _, id := range []string{"ended", "running", "lost"} {
		b.container(t, id, marked)
	}
	b.container(t, "unmarked", nil)
	b.task(t, "ended")
	b.task(t, "running")
	b.tasks.end(benchNS, "ended")
	b.restoreAutoRemove(t.Context())
	left, err := b.ListContainers(t.Context(), benchNS)
	if err != nil || len(left) != 2 || left[0].ID != "running" || left[1].ID != "unmarked" {
		t.Errorf("containers left: %+v, %v", left, err)
	}
}

func TestTaskMetrics(t *testing.T) {
	b := newBench(t)
	for _, id := range []string{"a", "b"} {
		b.container(t, id, nil)
		b.task(t, id)
	}
	for _, tt := range []struct {
		filters []string
		want    int
	}{{nil, 2}, {[]string{"id==a"}, 1}, {[]string{"id==a", "id==b"}, 2}, {[]string{"namespace==other"}, 0}} {
		got, err := b.TaskMetrics(t.Context(), Scope{Namespace: benchNS}, tt.filters)
		if err != nil || len(got) != tt.want {
			t.Errorf("filters %q: %+v, %v; want %d", tt.filters, got, err, tt.want)
		}
		for _, m := range got {
			if string(m.Data.Value) != m.ContainerID {
				t.Errorf("metrics of %s are those of %s", m.ContainerID, m.Data.Value)
			}
		}
	}
	if _, err := b.TaskMetrics(t.Context(), Scope{Namespace: benchNS}, []string{"=="}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad filter: %v, want InvalidArgument", err)
	}
}
