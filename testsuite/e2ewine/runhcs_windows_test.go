package e2ewine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/Microsoft/go-winio"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/windows"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/spec"
)

const runhcs, runhcsRuntime = "containerd-shim-runhcs-v1.exe", "io.containerd.runhcs.v1"

// madeUpShim speaks containerd's shim protocol as runhcs does: start prints the pipe of a process that serves version 2 of the task API, delete a
// DeleteResponse. Its container is nothing but what it was told, which is kept in the directory SLIPWAY_E2E_TOLD.
func madeUpShim(args []string) error {
	action := args[len(args)-1]
	pipe := ""
	for i, a := range args[:len(args)-1] {
		if a == "-id" {
			pipe = `\\.\pipe\slipway-e2e-runhcs-` + args[i+1]
		}
	}
	switch action {
	case "start":
		self, err := os.Executable()
		if err != nil {
			return err
		}
		ready, tell, err := os.Pipe()
		if err != nil {
			return err
		}
		cmd := exec.Command(self, "serve", pipe)
		cmd.Stdout = tell
		cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP | windows.DETACHED_PROCESS}
		if err := cmd.Start(); err != nil {
			return err
		}
		tell.Close()
		if n, err := ready.Read(make([]byte, 1)); n == 0 {
			return fmt.Errorf("the shim does not serve: %w", err)
		}
		fmt.Print(pipe)
		return nil
	case "delete":
		reply, err := proto.Marshal(&task.DeleteResponse{ExitStatus: 255, ExitedAt: timestamppb.Now()})
		_, werr := os.Stdout.Write(reply)
		return errors.Join(err, werr)
	}
	return serveShim(action)
}

func serveShim(pipe string) error {
	l, err := winio.ListenPipe(pipe, nil)
	if err != nil {
		return err
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	c := &toldContainer{server: s, ended: make(chan struct{})}
	task.RegisterTTRPCTaskService(s, c)
	os.Stdout.WriteString("x")
	os.Stdout.Close()
	return s.Serve(context.Background(), l)
}

// toldContainer is the one task of the made-up shim. It panics for what no test calls.
type toldContainer struct {
	task.TTRPCTaskService
	server *ttrpc.Server
	once   sync.Once
	ended  chan struct{}

	mu     sync.Mutex
	status tasktypes.Status
}

func (c *toldContainer) set(s tasktypes.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = s
}

func (c *toldContainer) Create(_ context.Context, r *task.CreateTaskRequest) (*task.CreateTaskResponse, error) {
	told, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(filepath.Join(os.Getenv("SLIPWAY_E2E_TOLD"), "create.json"), told, 0o600)
	}
	doc, rerr := os.ReadFile(filepath.Join(r.Bundle, "config.json"))
	if err = errors.Join(err, rerr); err == nil {
		err = os.WriteFile(filepath.Join(os.Getenv("SLIPWAY_E2E_TOLD"), "config.json"), doc, 0o600)
	}
	c.set(tasktypes.Status_CREATED)
	return &task.CreateTaskResponse{Pid: 7}, err
}

func (c *toldContainer) Start(context.Context, *task.StartRequest) (*task.StartResponse, error) {
	c.set(tasktypes.Status_RUNNING)
	return &task.StartResponse{Pid: 7}, nil
}

func (c *toldContainer) State(_ context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &task.StateResponse{ID: r.ID, Pid: 7, Status: c.status}
	if c.status == tasktypes.Status_STOPPED {
		s.ExitStatus, s.ExitedAt = 9, timestamppb.Now()
	}
	return s, nil
}

func (c *toldContainer) Kill(context.Context, *task.KillRequest) (*emptypb.Empty, error) {
	c.set(tasktypes.Status_STOPPED)
	c.once.Do(func() { close(c.ended) })
	return &emptypb.Empty{}, nil
}

func (c *toldContainer) Wait(ctx context.Context, _ *task.WaitRequest) (*task.WaitResponse, error) {
	select {
	case <-c.ended:
		return &task.WaitResponse{ExitStatus: 9, ExitedAt: timestamppb.Now()}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *toldContainer) Delete(context.Context, *task.DeleteRequest) (*task.DeleteResponse, error) {
	return &task.DeleteResponse{Pid: 7, ExitStatus: 9, ExitedAt: timestamppb.Now()}, nil
}

func (c *toldContainer) Connect(context.Context, *task.ConnectRequest) (*task.ConnectResponse, error) {
	return &task.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: 7, Version: "2"}, nil
}

func (c *toldContainer) Shutdown(context.Context, *task.ShutdownRequest) (*emptypb.Empty, error) {
	go os.Exit(0)
	return &emptypb.Empty{}, nil
}

// hostProcess asks for what the built-in executor refuses.
func hostProcess(s *specs.Spec) error {
	s.Annotations["microsoft.com/hostprocess-container"] = "true"
	return nil
}

// withRunhcs puts the made-up shim on PATH, and answers the directory in which it keeps what it was told.
func withRunhcs(t *testing.T) (told string) {
	t.Helper()
	dir, told := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, runhcs), program, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+";"+os.Getenv("PATH"))
	t.Setenv("SLIPWAY_E2E_TOLD", told)
	return told
}

// TestRunhcs: what the built-in executor does not run goes to hcsshim's shim as it was asked for, and without that is refused by its name.
func TestRunhcs(t *testing.T) {
	told := withRunhcs(t)
	d := newDaemonWith(t, collected)
	img := d.image(hello())
	ct, err := d.CreateContainer(d.ctx, client.ContainerOptions{ID: "other", Image: img, Runtime: runhcsRuntime, Spec: []spec.Opt{hostProcess}})
	if err != nil {
		t.Fatal(err)
	}
	running, err := ct.NewTask(d.ctx, client.Streams{})
	if err != nil {
		t.Fatal(err)
	}
	if err := running.Start(d.ctx); err != nil {
		t.Fatal(err)
	}
	var request task.CreateTaskRequest
	var doc specs.Spec
	if err := errors.Join(readJSON(filepath.Join(told, "create.json"), &request), readJSON(filepath.Join(told, "config.json"), &doc)); err != nil {
		t.Fatal(err)
	}
	if request.ID != "other" || len(request.Rootfs) != 1 || request.Rootfs[0].Type != "windows-layer" || !strings.Contains(strings.Join(request.Rootfs[0].Options, " "), "parentLayerPaths=") {
		t.Errorf("the shim is told %+v", &request)
	}
	if doc.Annotations["microsoft.com/hostprocess-container"] != "true" {
		t.Errorf("the shim's document has annotations %v", doc.Annotations)
	}
	d.kill()
	d.start() // and finds it again
	again, err := d.Container(d.ctx, "other")
	if err != nil {
		t.Fatal(err)
	}
	found, err := again.Task(d.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Kill(d.ctx, 9, false); err != nil {
		t.Fatal(err)
	}
	if exit, err := found.Wait(d.ctx); err != nil || exit.Code != 9 {
		t.Errorf("it ended with %+v, %v", exit, err)
	}
	if _, err := found.Delete(d.ctx); err != nil {
		t.Error(err)
	}
	if err := again.Remove(d.ctx); err != nil {
		t.Error(err)
	}
}

// TestRunhcsMissing: without a binary the error names what is missing.
func TestRunhcsMissing(t *testing.T) {
	d := newDaemonWith(t, collected)
	img := d.image(hello())
	for runtime, test := range map[string]struct {
		kind error
		says string
	}{
		runhcsRuntime:            {errdefs.ErrNotImplemented, runhcsRuntime}, // the built-in executor takes the name, and says who could
		"io.containerd.other.v1": {errdefs.ErrNotFound, "containerd-shim-other-v1"},
	} {
		ct, err := d.CreateContainer(d.ctx, client.ContainerOptions{ID: "missing", Image: img, Runtime: runtime, Spec: []spec.Opt{hostProcess}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = ct.NewTask(d.ctx, client.Streams{}); !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v; want %v with %q", runtime, err, test.kind, test.says)
		}
		if err := ct.Remove(d.ctx); err != nil {
			t.Error(err)
		}
	}
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
