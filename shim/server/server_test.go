package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	runc "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/internal/ipc"
	"github.com/slipwayd/slipway/shim/server"
	"github.com/slipwayd/slipway/testsuite"
)

// recorder is a Publisher that keeps what it is told, as text.
type recorder struct {
	mu   sync.Mutex
	told []string
}

func (r *recorder) Publish(ns, topic string, at time.Time, event proto.Message) {
	text := ns + " " + topic
	switch e := event.(type) {
	case *events.TaskExit:
		text += fmt.Sprintf(" %s %d", e.ID, e.ExitStatus)
	case *events.TaskExecStarted:
		text += " " + e.ExecID
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, text)
}

func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = nil
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

// rig is a server over a fake executor, reached as containerd reaches a shim.
type rig struct {
	t      *testing.T
	state  string
	fake   *testsuite.FakeExecutor
	events *recorder
	client *ttrpc.Client
	ended  chan struct{}
	stop   func()
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, state: t.TempDir(), fake: testsuite.NewFakeExecutor(), events: &recorder{}}
	r.serve()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) serve() {
	r.t.Helper()
	r.ended = make(chan struct{})
	s, err := server.New(r.t.Context(), server.Config{
		Executor: r.fake, State: r.state, Publisher: r.events, Log: slog.New(slog.DiscardHandler), Shutdown: func() { close(r.ended) },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	rpc, err := ttrpc.NewServer()
	if err != nil {
		r.t.Fatal(err)
	}
	s.Register(rpc)
	dir, err := os.MkdirTemp("", "shim") // short: it is the path of a socket
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := ipc.Listen(filepath.Join(dir, "s"))
	if err != nil {
		r.t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = rpc.Serve(context.Background(), l)
	}()
	conn, err := ipc.Dial(r.t.Context(), filepath.Join(dir, "s"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.client = ttrpc.NewClient(conn)
	r.stop = func() {
		r.client.Close()
		rpc.Close()
		<-served
		s.Close()
		os.RemoveAll(dir)
	}
}

// crash replaces the server by another, as after a SIGKILL: the executor's containers live on.
func (r *rig) crash() {
	r.stop()
	r.fake = r.fake.Crash()
	r.serve()
}

func (r *rig) call(method string, req, resp any) error {
	return r.callIn("ns", server.ServiceV3, method, req, resp)
}

func (r *rig) callIn(ns, service, method string, req, resp any) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	if ns != "" {
		ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{server.NamespaceHeader: {ns}})
	}
	return errgrpc.ToNative(r.client.Call(ctx, service, method, req, resp))
}

func (r *rig) must(method string, req, resp any) {
	r.t.Helper()
	if err := r.call(method, req, resp); err != nil {
		r.t.Fatalf("%s: %v", method, err)
	}
}

func (r *rig) bundle(args ...string) string {
	r.t.Helper()
	dir := r.t.TempDir()
	spec, err := json.Marshal(specs.Spec{Version: "1.2.0", Process: &specs.Process{Args: args, Cwd: "/"}})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), spec, 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return dir
}

func (r *rig) create(id string, args ...string) uint32 {
	r.t.Helper()
	var resp task.CreateTaskResponse
	r.must("Create", &task.CreateTaskRequest{ID: id, Bundle: r.bundle(args...)}, &resp)
	return resp.Pid
}

func (r *rig) run(id string, args ...string) {
	r.t.Helper()
	r.create(id, args...)
	r.must("Start", &task.StartRequest{ID: id}, &task.StartResponse{})
}

func (r *rig) exec(id, execID string, args ...string) error {
	spec, err := json.Marshal(specs.Process{Args: args, Cwd: "/"})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.call("Exec", &task.ExecProcessRequest{ID: id, ExecID: execID, Spec: &anypb.Any{Value: spec}}, &emptypb.Empty{})
}

func (r *rig) wait(id, execID string) uint32 {
	r.t.Helper()
	var resp task.WaitResponse
	r.must("Wait", &task.WaitRequest{ID: id, ExecID: execID}, &resp)
	return resp.ExitStatus
}

func (r *rig) status(id, execID string) tasktypes.Status {
	r.t.Helper()
	var resp task.StateResponse
	r.must("State", &task.StateRequest{ID: id, ExecID: execID}, &resp)
	return resp.Status
}

func (r *rig) wantEvents(want ...string) {
	r.t.Helper()
	if got := r.events.all(); !slices.Equal(got, want) {
		r.t.Fatalf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func needFifos(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no fifos on Windows")
	}
}

func TestLifeOfATask(t *testing.T) {
	r := newRig(t)
	waited := make(chan uint32, 1)
	pid := r.create("c", "sleep")
	go func() { waited <- r.wait("c", "") }() // before Start
	var state task.StateResponse
	r.must("State", &task.StateRequest{ID: "c"}, &state)
	if state.Status != tasktypes.Status_CREATED || state.Pid != pid || pid == 0 {
		t.Fatalf("state %v", &state)
	}
	r.must("Start", &task.StartRequest{ID: "c"}, &task.StartResponse{})
	if err := r.exec("c", "e", "sleep"); err != nil {
		t.Fatal(err)
	}
	r.must("Start", &task.StartRequest{ID: "c", ExecID: "e"}, &task.StartResponse{})
	var pids task.PidsResponse
	r.must("Pids", &task.PidsRequest{ID: "c"}, &pids)
	named := 0
	for _, p := range pids.Processes {
		var d runc.ProcessDetails
		if p.Info != nil && typeurl.UnmarshalTo(p.Info, &d) == nil && d.ExecID == "e" {
			named++
		}
	}
	if len(pids.Processes) != 2 || named != 1 {
		t.Fatalf("pids %v", pids.Processes)
	}
	r.must("Kill", &task.KillRequest{ID: "c", Signal: 9}, &emptypb.Empty{})
	if got := <-waited; got != 137 {
		t.Fatalf("exit %d", got)
	}
	if got := r.wait("c", ""); got != 137 { // after the end
		t.Fatalf("exit %d", got)
	}
	var del task.DeleteResponse
	r.must("Delete", &task.DeleteRequest{ID: "c"}, &del)
	if del.ExitStatus != 137 || del.Pid != pid || del.ExitedAt.AsTime().IsZero() {
		t.Fatalf("delete answers %v", &del)
	}
	r.wantEvents("ns /tasks/create", "ns /tasks/start", "ns /tasks/exec-added", "ns /tasks/exec-started e",
		"ns /tasks/exit e 137", "ns /tasks/exit c 137", "ns /tasks/delete")
	if left, _ := os.ReadDir(r.state); len(left) > 0 {
		t.Fatalf("records left: %v", left)
	}
}

func TestErrors(t *testing.T) {
	r := newRig(t)
	r.run("running", "sleep")
	r.run("ended", "true")
	r.wait("ended", "")
	r.create("created", "true")
	if err := r.exec("running", "e", "sleep"); err != nil {
		t.Fatal(err)
	}
	empty := &emptypb.Empty{}
	bundle := r.bundle("true")
	bad, err := anypb.New(&tasktypes.ProcessInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, method string
		req, resp    any
		want         error
	}{
		{"create twice", "Create", &task.CreateTaskRequest{ID: "running", Bundle: bundle}, &task.CreateTaskResponse{}, errdefs.ErrAlreadyExists},
		{"create with a path for an id", "Create", &task.CreateTaskRequest{ID: "../x", Bundle: bundle}, &task.CreateTaskResponse{}, errdefs.ErrInvalidArgument},
		{"create without id", "Create", &task.CreateTaskRequest{Bundle: bundle}, &task.CreateTaskResponse{}, errdefs.ErrInvalidArgument},
		{"create without a spec", "Create", &task.CreateTaskRequest{ID: "x", Bundle: t.TempDir()}, &task.CreateTaskResponse{}, errdefs.ErrNotFound},
		{"create with foreign options", "Create", &task.CreateTaskRequest{ID: "x", Bundle: bundle, Options: bad}, &task.CreateTaskResponse{}, errdefs.ErrInvalidArgument},
		{"create with a bad stream", "Create", &task.CreateTaskRequest{ID: "x", Bundle: bundle, Stdout: "http://x/y"}, &task.CreateTaskResponse{}, errdefs.ErrInvalidArgument},
		{"start twice", "Start", &task.StartRequest{ID: "running"}, &task.StartResponse{}, errdefs.ErrFailedPrecondition},
		{"start nothing", "Start", &task.StartRequest{ID: "nothing"}, &task.StartResponse{}, errdefs.ErrNotFound},
		{"delete running", "Delete", &task.DeleteRequest{ID: "running"}, &task.DeleteResponse{}, errdefs.ErrFailedPrecondition},
		{"kill ended", "Kill", &task.KillRequest{ID: "ended", Signal: 9}, empty, errdefs.ErrNotFound},
		{"kill with a bad signal", "Kill", &task.KillRequest{ID: "running", Signal: 1000}, empty, errdefs.ErrInvalidArgument},
		{"kill an exec before its start", "Kill", &task.KillRequest{ID: "running", ExecID: "e", Signal: 9}, empty, errdefs.ErrFailedPrecondition},
		{"exec twice", "Exec", &task.ExecProcessRequest{ID: "running", ExecID: "e"}, empty, errdefs.ErrAlreadyExists},
		{"exec without id", "Exec", &task.ExecProcessRequest{ID: "running"}, empty, errdefs.ErrInvalidArgument},
		{"exec in an ended task", "Exec", &task.ExecProcessRequest{ID: "ended", ExecID: "f"}, empty, errdefs.ErrFailedPrecondition},
		{"stats of an ended task", "Stats", &task.StatsRequest{ID: "ended"}, &task.StatsResponse{}, errdefs.ErrNotFound},
		{"resize without a terminal", "ResizePty", &task.ResizePtyRequest{ID: "running", Width: 1, Height: 1}, empty, errdefs.ErrFailedPrecondition},
		{"a giant terminal", "ResizePty", &task.ResizePtyRequest{ID: "running", Width: 1 << 20, Height: 1}, empty, errdefs.ErrInvalidArgument},
		{"checkpoint", "Checkpoint", &task.CheckpointTaskRequest{ID: "running"}, empty, errdefs.ErrNotImplemented},
		{"state of an unknown exec", "State", &task.StateRequest{ID: "running", ExecID: "x"}, &task.StateResponse{}, errdefs.ErrNotFound},
	} {
		if err := r.call(c.method, c.req, c.resp); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if err := r.callIn("", server.ServiceV3, "State", &task.StateRequest{ID: "running"}, &task.StateResponse{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("without namespace: %v", err)
	}
	if err := r.callIn("other", server.ServiceV2, "State", &task.StateRequest{ID: "running"}, &task.StateResponse{}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("in another namespace: %v", err)
	}
}

func TestPauseUpdateConnect(t *testing.T) {
	r := newRig(t)
	r.run("c", "sleep")
	r.must("Pause", &task.PauseRequest{ID: "c"}, &emptypb.Empty{})
	if s := r.status("c", ""); s != tasktypes.Status_PAUSED {
		t.Fatal(s)
	}
	r.crash()
	if s := r.status("c", ""); s != tasktypes.Status_PAUSED {
		t.Fatalf("after a crash: %v", s)
	}
	r.must("Resume", &task.ResumeRequest{ID: "c"}, &emptypb.Empty{})
	if s := r.status("c", ""); s != tasktypes.Status_RUNNING {
		t.Fatal(s)
	}
	r.must("Update", &task.UpdateTaskRequest{ID: "c", Resources: &anypb.Any{Value: []byte(`{"pids":{"limit":3}}`)}}, &emptypb.Empty{})
	var stats task.StatsResponse
	r.must("Stats", &task.StatsRequest{ID: "c"}, &stats)
	if !strings.HasSuffix(stats.Stats.GetTypeUrl(), "Metrics") {
		t.Fatalf("stats are %q", stats.Stats.GetTypeUrl())
	}
	var conn task.ConnectResponse
	r.must("Connect", &task.ConnectRequest{ID: "c"}, &conn)
	if conn.ShimPid != uint32(os.Getpid()) || conn.TaskPid == 0 {
		t.Fatalf("connect answers %v", &conn)
	}
}

func TestAdopt(t *testing.T) {
	r := newRig(t)
	r.run("runs", "sleep")
	r.run("ended", "sh", "-c", "exit 7")
	r.wait("ended", "")
	pid := r.create("created", "sleep")
	if err := r.exec("runs", "e", "sleep"); err != nil {
		t.Fatal(err)
	}
	r.must("Start", &task.StartRequest{ID: "runs", ExecID: "e"}, &task.StartResponse{})
	r.crash()
	if got := r.wait("ended", ""); got != 7 {
		t.Fatalf("the exit seen by the dead server: %d", got)
	}
	var state task.StateResponse
	r.must("State", &task.StateRequest{ID: "created"}, &state)
	if state.Status != tasktypes.Status_CREATED || state.Pid != pid {
		t.Fatalf("state %v", &state)
	}
	if s := r.status("runs", "e"); s != tasktypes.Status_RUNNING {
		t.Fatal(s)
	}
	r.must("Kill", &task.KillRequest{ID: "runs", Signal: 9}, &emptypb.Empty{})
	if got := r.wait("runs", ""); got != 137 {
		t.Fatalf("exit %d", got)
	}
	told := r.events.all()
	if e, i := slices.Index(told, "ns /tasks/exit e 137"), slices.Index(told, "ns /tasks/exit runs 137"); e < 0 || i < e {
		t.Fatalf("events %q", told)
	}
	for _, id := range []string{"runs", "ended", "created"} {
		r.must("Delete", &task.DeleteRequest{ID: id}, &task.DeleteResponse{})
	}
	if left, _ := os.ReadDir(r.state); len(left) > 0 {
		t.Fatalf("records left: %v", left)
	}
	if ids, _ := r.fake.List(t.Context()); len(ids) > 0 {
		t.Fatalf("containers left: %v", ids)
	}
}

// A server that dies between starting a process and recording that: its successor tells of the start, once.
func TestUnrecordedStart(t *testing.T) {
	r := newRig(t)
	r.create("c", "sleep")
	path := filepath.Join(r.state, "ns+c.json")
	record, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r.must("Start", &task.StartRequest{ID: "c"}, &task.StartResponse{})
	if err := os.WriteFile(path, record, 0o600); err != nil {
		t.Fatal(err)
	}
	r.events.forget()
	r.crash()
	if s := r.status("c", ""); s != tasktypes.Status_RUNNING {
		t.Fatal(s)
	}
	r.crash()
	r.wantEvents("ns /tasks/start")
	if err := r.call("Start", &task.StartRequest{ID: "c"}, &task.StartResponse{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Fatalf("second start: %v", err)
	}
}

// TestTornRecord has a server killed while it wrote: what was whole before counts.
func TestTornRecord(t *testing.T) {
	r := newRig(t)
	r.run("c", "sleep")
	r.run("new", "sleep")
	path := filepath.Join(r.state, "ns+c.json")
	record, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(record, record[:10]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.state, "ns+new.json"), record[:10], 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r.crash()
		if s := r.status("c", ""); s != tasktypes.Status_RUNNING {
			t.Fatal(s)
		}
		if err := r.call("State", &task.StateRequest{ID: "new"}, &task.StateResponse{}); !errors.Is(err, errdefs.ErrNotFound) {
			t.Fatal(err)
		}
		r.must("Pause", &task.PauseRequest{ID: "c"}, &emptypb.Empty{}) // one more line
		r.must("Resume", &task.ResumeRequest{ID: "c"}, &emptypb.Empty{})
	}
	if err := os.WriteFile(path, []byte("no\nrecord\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.crash()
	if err := r.call("State", &task.StateRequest{ID: "c"}, &task.StateResponse{}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("what is not ours was removed: %v", err)
	}
}

// TestLongRecord has records stay short however much happens.
func TestLongRecord(t *testing.T) {
	r := newRig(t)
	r.run("c", "sleep")
	for range 500 {
		r.must("Pause", &task.PauseRequest{ID: "c"}, &emptypb.Empty{})
		r.must("Resume", &task.ResumeRequest{ID: "c"}, &emptypb.Empty{})
	}
	if st, err := os.Stat(filepath.Join(r.state, "ns+c.json")); err != nil || st.Size() > 64<<10 {
		t.Fatalf("%v, %v", st, err)
	}
	r.crash()
	if s := r.status("c", ""); s != tasktypes.Status_RUNNING {
		t.Fatal(s)
	}
}

// A container whose record is missing was being created when its server died, and nobody was told of it.
func TestUnrecordedIsRemoved(t *testing.T) {
	r := newRig(t)
	r.run("c", "sleep")
	if err := os.Remove(filepath.Join(r.state, "ns+c.json")); err != nil {
		t.Fatal(err)
	}
	r.crash()
	if err := r.call("State", &task.StateRequest{ID: "c"}, &task.StateResponse{}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Fatal(err)
	}
	if ids, _ := r.fake.List(t.Context()); len(ids) > 0 {
		t.Fatalf("containers left: %v", ids)
	}
}

func TestShutdown(t *testing.T) {
	r := newRig(t)
	r.create("c", "true")
	r.must("Shutdown", &task.ShutdownRequest{ID: "c"}, &emptypb.Empty{})
	if err := r.callIn("ns", server.Extras, "Reserve", &task.StateRequest{ID: "d"}, &emptypb.Empty{}); err != nil {
		t.Fatal(err)
	}
	r.must("Delete", &task.DeleteRequest{ID: "c"}, &task.DeleteResponse{})
	r.must("Shutdown", &task.ShutdownRequest{ID: "c"}, &emptypb.Empty{})
	select {
	case <-r.ended:
		t.Fatal("the shim ended before a container that was announced")
	default:
	}
	r.must("Shutdown", &task.ShutdownRequest{ID: "d"}, &emptypb.Empty{})
	<-r.ended
	if err := r.call("Create", &task.CreateTaskRequest{ID: "e", Bundle: r.bundle("true")}, &task.CreateTaskResponse{}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Fatalf("create in an ending shim: %v", err)
	}
}

func TestLogFile(t *testing.T) {
	needFifos(t)
	r := newRig(t)
	log := filepath.Join(t.TempDir(), "dir", "0.log")
	r.must("Create", &task.CreateTaskRequest{
		ID: "c", Bundle: r.bundle("echo", "hello"), Stdout: "file://" + log + "?format=cri", Stderr: "file://" + log + "?format=cri",
	}, &task.CreateTaskResponse{})
	r.must("Start", &task.StartRequest{ID: "c"}, &task.StartResponse{})
	if got := r.wait("c", ""); got != 0 {
		t.Fatalf("exit %d", got)
	}
	data, err := os.ReadFile(log)
	if err != nil || !strings.HasSuffix(string(data), "Z stdout F hello\n") {
		t.Fatalf("log %q, %v", data, err)
	}
}

// One after the other, all together: containers come and go at once without a race or a lost exit.
func TestMany(t *testing.T) {
	r := newRig(t)
	var wait sync.WaitGroup
	for i := range 32 {
		wait.Go(func() {
			id := fmt.Sprintf("c%d", i)
			for _, step := range []struct {
				method    string
				req, resp any
			}{
				{"Create", &task.CreateTaskRequest{ID: id, Bundle: r.bundle("sh", "-c", "exit 3")}, &task.CreateTaskResponse{}},
				{"Start", &task.StartRequest{ID: id}, &task.StartResponse{}},
				{"Wait", &task.WaitRequest{ID: id}, &task.WaitResponse{}},
				{"Delete", &task.DeleteRequest{ID: id}, &task.DeleteResponse{}},
			} {
				if err := r.call(step.method, step.req, step.resp); err != nil {
					t.Errorf("%s %s: %v", step.method, id, err)
				}
			}
		})
	}
	wait.Wait()
	exits := 0
	for _, e := range r.events.all() {
		if strings.HasPrefix(e, "ns /tasks/exit") && strings.HasSuffix(e, " 3") {
			exits++
		}
	}
	if exits != 32 {
		t.Fatalf("%d exits", exits)
	}
}
