package shim

import (
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/typeurl/v2"
	"github.com/slipwayd/slipway/shim/fdstore"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// TestLateEvents has the events of a deleted task arrive when there is another of the same name.
func TestLateEvents(t *testing.T) {
	var told []string
	m := &Manager{kept: &fdstore.Store{}, tasks: map[string]*entry{}, conf: Config{Events: func(e Event) { told = append(told, e.Topic) }}}
	created := time.Now()
	event := func(topic string, at time.Time, v any) {
		t.Helper()
		payload, err := typeurl.MarshalAnyToProto(v)
		if err != nil {
			t.Fatal(err)
		}
		m.receive(&types.Envelope{Timestamp: timestamppb.New(at), Namespace: "ns", Topic: topic, Event: payload})
	}
	exit := func(pid uint32, at time.Time) {
		event("/tasks/exit", at, &events.TaskExit{ContainerID: "c", ID: "c", Pid: pid, ExitStatus: 137})
	}
	before := created.Add(-time.Second)
	exit(1, before) // of no task that is known: told when that was deleted
	e := newEntry("ns", "c", bundle{}, taskRecord{})
	e.procs[""].since = created
	m.tasks[tableKey("ns", "c")] = e
	event("/tasks/start", before, &events.TaskStart{ContainerID: "c", Pid: 1})
	exit(1, before) // while Create has not answered
	e.ready, e.procs[""].state.Pid = true, 2
	exit(1, before)
	if s := e.procs[""].state; s.Status != Created || s.Pid != 2 {
		t.Fatalf("another's events made it %+v", s)
	}
	event("/tasks/start", created.Add(time.Second), &events.TaskStart{ContainerID: "c", Pid: 2})
	exit(2, before) // its own, in spite of a clock that was set back
	exit(2, created.Add(time.Second))
	if s := e.procs[""].state; s.Status != Stopped || s.ExitStatus != 137 {
		t.Fatalf("its own events made it %+v", s)
	}
	if want := []string{"/tasks/start", "/tasks/start", "/tasks/exit"}; !slices.Equal(told, want) {
		t.Fatalf("told %q, want %q", told, want)
	}
}
