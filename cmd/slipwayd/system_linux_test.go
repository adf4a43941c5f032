package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// TestMain is the daemon itself when a test starts this binary again.
func TestMain(m *testing.M) {
	if os.Getenv("SLIPWAYD_TEST_DAEMON") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestSocketsArePrivateAndOnce(t *testing.T) {
	dir, err := os.MkdirTemp("", "slipwayd") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "run", "s.sock")
	s, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + ttrpcSuffix} {
		if fi, err := os.Stat(p); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", p, fi, err)
		}
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil || fi.Mode().Perm() != 0o711 {
		t.Errorf("directory of the socket: %v, %v", fi, err)
	}
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) || !strings.Contains(err.Error(), path) {
		t.Errorf("a busy socket gives %v, want who answers where", err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	// What a killed daemon leaves is replaced.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	if s, err = listen(path); err != nil {
		t.Fatalf("a stale socket gives %v", err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	// What is no socket is not touched.
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in the way gives %v", err)
	}
	if _, err := listen("/" + strings.Repeat("x", 120)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a long address gives %v", err)
	}
}

func TestRootIsForOneDaemon(t *testing.T) {
	root := t.TempDir()
	unlock, err := lockDir("root", root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir("root", root); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d) uses the root %s; stop it or choose another --root", os.Getpid(), root)) {
		t.Errorf("a second daemon gets %v", err)
	}
	unlock()
	unlock, err = lockDir("root", root)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// A state directory is one daemon's too: its shims and fifos are there.
func TestStateIsForOneDaemon(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDir("state", filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	c := defaultConfig()
	c.Root, c.State, c.Address = filepath.Join(dir, "root"), filepath.Join(dir, "state"), filepath.Join(dir, "sock")
	if err := run(t.Context(), c, supervisor{log: newLog, notify: notify}, nil); err == nil || !strings.Contains(err.Error(), "uses the state "+c.State) {
		t.Errorf("a daemon of another root gets %v", err)
	}
	if _, err := os.Lstat(c.Address); err == nil {
		t.Error("it has taken its socket")
	}
}

// testDaemon is slipwayd as a process of its own.
type testDaemon struct {
	cmd  *exec.Cmd
	conn *grpc.ClientConn
	log  *strings.Builder
	read chan struct{} // closed when the log ends
}

// startDaemon starts a daemon on dir and waits until it serves.
func startDaemon(t *testing.T, dir string) *testDaemon {
	t.Helper()
	d := &testDaemon{log: &strings.Builder{}, read: make(chan struct{})}
	address := filepath.Join(dir, "s")
	d.cmd = exec.Command(os.Args[0], "--config", os.DevNull, "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"), "--address", address)
	d.cmd.Env = append(os.Environ(), "SLIPWAYD_TEST_DAEMON=1")
	stderr, err := d.cmd.StderrPipe()
	if err == nil {
		err = d.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		defer close(d.read)
		lines := bufio.NewScanner(stderr)
		for told := false; lines.Scan(); {
			fmt.Fprintln(d.log, lines.Text())
			if !told && strings.Contains(lines.Text(), "msg=ready") {
				told = true
				close(ready)
			}
		}
	}()
	select {
	case <-ready:
	case <-d.read:
		t.Fatalf("the daemon did not start:\n%s", d.log)
	}
	d.conn, err = grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// end sends a signal and waits for the end.
func (d *testDaemon) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	_ = d.conn.Close()
	if err := d.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	<-d.read
	if err := d.cmd.Wait(); sig != syscall.SIGKILL && err != nil {
		t.Errorf("after %s: %v\n%s", sig, err, d.log)
	}
}

func needRoot(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the daemon needs root")
	}
	dir, err := os.MkdirTemp("", "slipwayd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestDaemonLivesThroughSIGHUPAndEndsOnSIGTERM(t *testing.T) {
	d := startDaemon(t, needRoot(t))
	for range 3 {
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	got, err := healthpb.NewHealthClient(d.conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health is %v, %v", got, err)
	}
	d.end(t, syscall.SIGTERM)
	if !strings.Contains(d.log.String(), "configuration is read again") {
		t.Errorf("SIGHUP is not told of:\n%s", d.log)
	}
}

// Clients make, commit and remove snapshots while the daemon is killed again and again: what the last one finds must fit.
func TestDaemonKilledInTheMiddleOfSnapshots(t *testing.T) {
	dir := needRoot(t)
	for round := range 4 {
		d := startDaemon(t, dir)
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), "containerd-namespace", "ns"))
		enough := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			churn(ctx, d.conn, round, enough)
		}()
		select {
		case <-enough:
		case <-ended:
			t.Fatal("a call failed before the daemon was killed")
		}
		d.end(t, syscall.SIGKILL)
		cancel()
		<-ended
	}
	d := startDaemon(t, dir)
	snaps := snapshotsapi.NewSnapshotsClient(d.conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "containerd-namespace", "ns")
	if _, err := snaps.Cleanup(ctx, &snapshotsapi.CleanupRequest{Snapshotter: "overlayfs"}); err != nil {
		t.Fatal(err)
	}
	keys := map[string]snapshotsapi.Kind{}
	list, err := snaps.List(ctx, &snapshotsapi.ListSnapshotsRequest{Snapshotter: "overlayfs"})
	for err == nil {
		var page *snapshotsapi.ListSnapshotsResponse
		if page, err = list.Recv(); err == nil {
			for _, info := range page.Info {
				keys[info.Name] = info.Kind
			}
		}
	}
	if err != io.EOF {
		t.Fatal(err)
	}
	for key, kind := range keys {
		if kind != snapshotsapi.Kind_COMMITTED {
			if _, err := snaps.Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: "overlayfs", Key: key}); err != nil {
				t.Errorf("snapshot %s cannot be mounted: %v", key, err)
			}
		}
	}
	layers, err := filepath.Glob(filepath.Join(dir, "root/overlay/[a-z0-9]*"))
	if err != nil || len(layers) != len(keys) {
		t.Errorf("%d layers on disk, %d snapshots: %v", len(layers), len(keys), err)
	}
	if _, err := containersapi.NewContainersClient(d.conn).List(ctx, &containersapi.ListContainersRequest{}); err != nil {
		t.Error(err)
	}
	d.end(t, syscall.SIGTERM)
}

// churn makes snapshots until the daemon is gone; it closes enough after a while.
func churn(ctx context.Context, conn *grpc.ClientConn, round int, enough chan struct{}) {
	snaps := snapshotsapi.NewSnapshotsClient(conn)
	root := map[string]string{"containerd.io/gc.root": "test"}
	for i := 0; ctx.Err() == nil; i++ {
		if i == 20+7*round {
			close(enough)
		}
		key := fmt.Sprintf("%d-%d", round, i)
		_, err := snaps.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "overlayfs", Key: key, Labels: root})
		if err == nil && i%3 != 0 {
			_, err = snaps.Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: "overlayfs", Key: key, Name: key + "c", Labels: root})
			key += "c"
		}
		if err == nil && i%2 == 0 {
			_, err = snaps.Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: "overlayfs", Key: key})
		}
		if err != nil {
			return
		}
	}
}
