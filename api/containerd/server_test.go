package containerd

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
	db "github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

// noTasks is a host where nothing runs. What tests do not use panics, which one of them relies on.
type noTasks struct{ engine.Tasks }

func (noTasks) Restore(context.Context) error { return nil }
func (noTasks) Close() error                  { return nil }
func (noTasks) State(_ context.Context, _, id, _ string) (shim.State, error) {
	return shim.State{}, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
}

// host is a server over a real metadata file and fakes, and a connection to it.
type host struct {
	*grpc.ClientConn
	eng    *engine.Engine
	server *Server
	driver *testsuite.FakeDriver
}

// newHost makes a host that is not Ready yet.
func newHost(t *testing.T) *host {
	t.Helper()
	dir := t.TempDir()
	records, err := db.Open(filepath.Join(dir, "metadata.db"), db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{driver: testsuite.NewFakeDriver()}
	h.eng, err = engine.New(engine.Parts{
		DB: records, Content: testsuite.NewMemoryContent(), Drivers: map[string]storage.Driver{"fake": h.driver}, DefaultDriver: "fake",
		Tasks: noTasks{}, Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), EventField: EventField,
		GCDelay: time.Hour, // collection when a test asks for it
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.eng.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.server = NewServer(h.eng, Options{Version: "2.3.0", Revision: "test"})
	pipe := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- h.server.Serve(pipe) }()
	h.ClientConn, err = grpc.NewClient("passthrough:///host",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.ClientConn.Close()
		h.server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := h.eng.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func newReadyHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	h.server.Ready()
	return h
}

// in is a context for calls in a namespace, with a lease when one is given.
func in(t *testing.T, ns string, lease ...string) context.Context {
	ctx := metadata.AppendToOutgoingContext(t.Context(), namespaceHeader, ns)
	if len(lease) > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, leaseHeader, lease[0])
	}
	return ctx
}

// wantCode fails the test unless err has the code.
func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Fatalf("got %s (%v), want %s", got, err, want)
	}
}

// must answers v and fails the test on an error.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestNamespaceHeader(t *testing.T) {
	h := newReadyHost(t)
	c := containersapi.NewContainersClient(h)
	for name, test := range map[string]struct {
		ctx  context.Context
		want codes.Code
	}{
		"none":    {t.Context(), codes.FailedPrecondition},
		"good":    {in(t, "moby"), codes.OK},
		"dots":    {in(t, "plugins.moby"), codes.OK},
		"slash":   {in(t, "../etc"), codes.InvalidArgument},
		"long":    {in(t, fmt.Sprintf("%077d", 0)), codes.InvalidArgument},
		"longest": {in(t, fmt.Sprintf("%076d", 0)), codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.List(test.ctx, &containersapi.ListContainersRequest{})
			wantCode(t, err, test.want)
		})
	}
}

func TestNothingIsServedBeforeReady(t *testing.T) {
	h := newHost(t)
	version := versionapi.NewVersionClient(h)
	_, err := version.Version(t.Context(), &emptypb.Empty{})
	wantCode(t, err, codes.Unavailable)
	health := healthpb.NewHealthClient(h)
	if got := must(health.Check(t.Context(), &healthpb.HealthCheckRequest{}))(t).Status; got != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health is %s before Ready", got)
	}
	h.server.Ready()
	if got := must(version.Version(t.Context(), &emptypb.Empty{}))(t); got.Version != "2.3.0" || got.Revision != "test" {
		t.Errorf("version is %v", got)
	}
	if got := must(health.Check(t.Context(), &healthpb.HealthCheckRequest{}))(t).Status; got != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health is %s after Ready", got)
	}
}

func TestPanicIsInternalAndTheServerLives(t *testing.T) {
	h := newReadyHost(t)
	_, err := tasksapi.NewTasksClient(h).ListPids(in(t, "ns"), &tasksapi.ListPidsRequest{ContainerID: "c"})
	wantCode(t, err, codes.Internal)
	_, err = versionapi.NewVersionClient(h).Version(t.Context(), &emptypb.Empty{})
	wantCode(t, err, codes.OK)
}
