package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// patience bounds waits for things that happen soon; it is long because machines under test are slow.
const patience = 3 * time.Minute

var programs = []string{"slipwayd", "slipway", "slipway-shim", "slipway-fuse"}

var (
	binaries string             // directory of programs
	hub      *registry.Registry // with busybox
	busybox  string             // reference of the image
)

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func runTests(m *testing.M) (int, error) {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		fmt.Println("e2e: skipped: needs Linux and root")
		return 0, nil
	}
	dir, err := os.MkdirTemp("/var/tmp", "slipway-e2e-bin-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if binaries = os.Getenv("SLIPWAY_BIN"); binaries == "" {
		binaries = dir
		if err := build(dir); err != nil {
			return 0, err
		}
	}
	if binaries, err = filepath.Abs(binaries); err != nil {
		return 0, err
	}
	for _, program := range programs {
		if _, err := os.Stat(filepath.Join(binaries, program)); err != nil {
			return 0, fmt.Errorf("%w; run make build, or unset SLIPWAY_BIN", err)
		}
	}
	image, err := ociimage.Busybox()
	if err != nil {
		return 0, err
	}
	hub = registry.New()
	if err := hub.Listen("127.0.0.1:0"); err != nil {
		return 0, err
	}
	defer hub.Close()
	hub.Push("library/busybox:latest", image)
	busybox = hub.Host() + "/library/busybox:latest"
	return m.Run(), nil
}

// build makes the binaries as the Makefile does.
func build(dir string) error {
	for _, program := range programs {
		cmd := exec.Command("go", "build", "-tags", "seccomp", "-o", filepath.Join(dir, program), "./cmd/"+program)
		cmd.Dir = "../.."
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build %s: %w\n%s", program, err, out)
		}
	}
	return nil
}

// daemon is a private slipwayd. Its containers and shims are killed and its directory is removed at the end of the test.
type daemon struct {
	t                *testing.T
	dir, root, state string
	address          string
	environment      []string
	config           string // the text of its configuration file
	exited           chan struct{}

	mu      sync.Mutex // tests kill it from other goroutines
	process *exec.Cmd
}

func startDaemon(t *testing.T) *daemon {
	t.Helper()
	return startDaemonWith(t, func(*daemon) {})
}

// startDaemonWith lets prepare change the daemon, whose directory is there, before it starts.
func startDaemonWith(t *testing.T, prepare func(d *daemon)) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "slipway-e2e-") // not /tmp, which may be a tmpfs
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // containers with user namespaces go through it
		t.Fatal(err)
	}
	d := &daemon{
		t: t, dir: dir, root: filepath.Join(dir, "root"), state: filepath.Join(dir, "state"),
		address: filepath.Join(dir, "state", "slipway.sock"),
	}
	t.Cleanup(d.cleanup)
	prepare(d)
	d.start()
	return d
}

// spawn starts the process without waiting for it to serve.
func (d *daemon) spawn() {
	d.t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	config := filepath.Join(d.dir, "config.toml")
	if err := os.WriteFile(config, []byte(d.config), 0o600); err != nil {
		d.t.Fatal(err)
	}
	process := exec.Command(filepath.Join(binaries, "slipwayd"),
		"--root", d.root, "--state", d.state, "--address", d.address, "--config", config, "--log-level", "debug")
	process.Env = append(os.Environ(), d.environment...)
	process.Stdout, process.Stderr = log, log
	if err := process.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.process = process
	exited := make(chan struct{})
	d.exited = exited
	go func(p *exec.Cmd) {
		_ = p.Wait() // how it ended is what tests look at elsewhere
		close(exited)
	}(d.process)
}

// start returns when the daemon serves.
func (d *daemon) start() {
	d.t.Helper()
	d.spawn()
	conn, err := grpc.NewClient("unix://"+d.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}}))
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-d.exited:
			cancel()
		case <-stop:
		}
	}()
	for {
		r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		if err == nil && r.Status == healthpb.HealthCheckResponse_SERVING {
			return
		}
		if ctx.Err() != nil {
			d.t.Fatalf("slipwayd does not serve: %v\n%s", err, d.logTail())
		}
	}
}

// kill ends the daemon with SIGKILL and waits for its end.
func (d *daemon) kill() { d.end(syscall.SIGKILL) }

// stop ends the daemon as an administrator does.
func (d *daemon) stop() { d.end(syscall.SIGTERM) }

func (d *daemon) end(sig syscall.Signal) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process == nil {
		return
	}
	_ = d.process.Process.Signal(sig) // it may have ended by itself
	select {
	case <-d.exited:
	case <-time.After(patience):
		d.t.Errorf("slipwayd does not end on %s\n%s", sig, d.logTail())
		_ = d.process.Process.Kill()
		<-d.exited
	}
	d.process = nil
}

func (d *daemon) logTail() string {
	data, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		return err.Error()
	}
	if len(data) > 6000 {
		data = data[len(data)-6000:]
	}
	return string(data)
}

// cleanup leaves nothing of the daemon, whatever the test did.
func (d *daemon) cleanup() {
	if d.t.Failed() {
		d.t.Logf("end of the daemon's log:\n%s", d.logTail())
	}
	d.end(syscall.SIGTERM)
	cgroups := d.cgroups()
	for _, pid := range d.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, m := range d.mounts() {
		_ = syscall.Unmount(m, syscall.MNT_DETACH)
	}
	if err := os.RemoveAll(d.dir); err != nil {
		d.t.Errorf("cannot remove the daemon's directory: %v", err)
	}
	removeCgroups(d.t, cgroups)
}

// processes are those whose command line names the daemon's directory (the daemon, its shims) or whose root file system is
// in it (what runs in containers).
func (d *daemon) processes() []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if bytes.Contains(cmdline, []byte(d.dir)) || strings.Contains(rootMount(e.Name()), d.dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// rootMount is the line of a process's mountinfo that tells what its root is.
func rootMount(pid string) string {
	mounts, _ := os.ReadFile(filepath.Join("/proc", pid, "mountinfo"))
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == "/" {
			return line
		}
	}
	return ""
}

// shims are the pids of the executors.
func (d *daemon) shims() []int {
	var pids []int
	for _, pid := range d.processes() {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if strings.HasPrefix(string(comm), "slipway-shim") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// mounts are the mount points below the daemon's directory, the deepest first.
func (d *daemon) mounts() []string {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	var found []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], d.dir) {
			found = append([]string{fields[4]}, found...)
		}
	}
	return found
}

// name makes an id that no other test run uses, so that what is left of it can be found anywhere.
func name(t *testing.T) string {
	t.Helper()
	return "e2e-" + strings.ToLower(rand.Text()[:10])
}

// run runs a command and answers what it wrote to its standard output.
func run(t *testing.T, environment []string, program string, args ...string) string {
	t.Helper()
	out, err := try(t, environment, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v", filepath.Base(program), strings.Join(args, " "), err)
	}
	return out
}

// try is run for commands that may fail; the error holds what they wrote to standard error.
func try(t *testing.T, environment []string, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.WaitDelay = time.Second // what it started may hold its output open
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// exitCode is a command's exit status, -1 when it did not run.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// eventually polls what cannot be waited for otherwise.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come to be within %s", what, patience)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
