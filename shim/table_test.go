package shim

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/slipwayd/slipway/shim/fdstore"
	"github.com/slipwayd/slipway/shim/server"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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

// TestExecDuringReconcile has a shim's successor be asked for a process whose Exec it has not been asked for yet.
func TestExecDuringReconcile(t *testing.T) {
	m := &Manager{kept: &fdstore.Store{}, conf: Config{Log: slog.New(slog.DiscardHandler)}}
	e := newEntry("ns", "c", bundle{t.TempDir()}, taskRecord{})
	e.ready = true
	p := e.add("exec", Streams{})
	p.asked = true
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go serveUnknown(theirs)
	c := &conn{client: ttrpc.NewClient(ours), service: server.ServiceV3, closed: make(chan struct{})}
	defer c.client.Close()
	if known, err := m.refresh(t.Context(), c, e, "exec"); err != nil || !known || e.procs["exec"] != p {
		t.Fatalf("while its Exec is under way: %v, %v, %v", known, err, e.procs)
	}
	p.asked = false
	if known, err := m.refresh(t.Context(), c, e, "exec"); err != nil || known || e.procs["exec"] != nil {
		t.Fatalf("when the shim has forgotten it: %v, %v, %v", known, err, e.procs)
	}
}

// serveUnknown answers State with NotFound, until the connection ends.
func serveUnknown(conn net.Conn) {
	s, err := ttrpc.NewServer()
	if err != nil {
		panic(err)
	}
	s.RegisterService(server.ServiceV3, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"State": func(context.Context, func(any) error) (any, error) {
			return nil, status.Error(codes.NotFound, "no such process")
		},
	}})
	_ = s.Serve(context.Background(), &oneListener{conn: conn})
}

// oneListener has one connection.
type oneListener struct{ conn net.Conn }

func (l *oneListener) Accept() (net.Conn, error) {
	c := l.conn
	if l.conn = nil; c == nil {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (*oneListener) Close() error   { return nil }
func (*oneListener) Addr() net.Addr { return &net.UnixAddr{} }
