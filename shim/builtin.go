package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/internal/ipc"
	"github.com/slipwayd/slipway/shim/server"
	"google.golang.org/protobuf/types/known/emptypb"
)

// maxShimLog is the size in bytes at which a shim's log is begun anew, when a shim is started.
const maxShimLog = 1 << 20

// builtin is a shim of ours: for the host, a pod or a container. Its directory STATE/shims/NAME outlives it, so that the
// next one adopts its containers.
type builtin struct {
	m    *Manager
	name string
	dir  string

	mu      sync.Mutex // held while a connection is made, so that all who need it share that
	cur     *conn
	retired bool // ended on purpose
}

// builtin answers the shim of that name, started or not.
func (m *Manager) builtin(name string) *builtin {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.ours[name]
	if b == nil {
		b = &builtin{m: m, name: name, dir: filepath.Join(m.conf.State, "shims", name)}
		m.ours[name] = b
	}
	return b
}

func (b *builtin) socket() string { return filepath.Join(b.dir, "sock") }

func (b *builtin) connection(ctx context.Context) (*conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cur.alive() {
		return b.cur, nil
	}
	if b.m.ctx.Err() != nil || b.retired {
		return nil, fmt.Errorf("the daemon is ending: %w", errdefs.ErrUnavailable)
	}
	c, err := connect(ctx, b.socket(), 3, "", "")
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		// One that goes away while it is asked is being killed just now: the next attempt finds nobody.
		c, err = connect(ctx, b.socket(), 3, "", "")
	}
	found := err == nil
	if ipc.Nobody(err) {
		if err = b.start(); err == nil {
			c, err = connect(ctx, b.socket(), 3, "", "")
		}
		if err != nil {
			err = fmt.Errorf("cannot start shim %q (its log is %s): %w", b.name, filepath.Join(b.dir, "log"), err)
		}
	}
	if err != nil {
		return nil, err
	}
	b.cur = c
	if found {
		b.collect(ctx, c)
	}
	b.m.wait.Go(func() { b.guard(c) })
	return c, nil
}

// collect has a shim that was running already hand in its terminals: what it had handed in went with an earlier daemon.
func (b *builtin) collect(ctx context.Context, c *conn) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := c.callService(ctx, server.Extras, "", "KeepAll", &task.StateRequest{}, &emptypb.Empty{}); err != nil {
		b.m.conf.Log.Warn("a shim did not hand in its terminals; they end with it", "shim", b.name, "error", err)
	}
}

// start runs slipway-shim. When it returns, connections can be made; they are answered once the shim has adopted what its predecessor left.
func (b *builtin) start() error {
	path, err := b.m.binary()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.dir, 0o711); err != nil {
		return fmt.Errorf("cannot make directory of the shim: %w", err)
	}
	log, err := openLog(filepath.Join(b.dir, "log"))
	if err != nil {
		return fmt.Errorf("cannot open log of the shim: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(path, "serve", "--state", b.dir, "--events", b.m.events.path, "--keeper", filepath.Join(b.m.conf.State, keeperSocket))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = filepath.VolumeName(b.dir) + string(filepath.Separator)
	return ipc.Start(cmd, b.socket())
}

// openLog appends; a log that has grown beyond its bound is begun anew.
func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxShimLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
}

// guard waits for the shim's death and sees to it that another takes over, for as long as it takes.
func (b *builtin) guard(c *conn) {
	select {
	case <-c.closed:
	case <-b.m.ctx.Done():
		return
	}
	b.mu.Lock()
	retired := b.retired
	b.mu.Unlock()
	if b.m.ctx.Err() != nil || retired {
		return
	}
	b.m.conf.Log.Warn("a shim has died; starting another", "shim", b.name, "pid", c.pid)
	b.m.recover(b)
}

// retire ends the shim of a pod or container when nothing is left in it.
func (b *builtin) retire(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.m.mu.Lock()
	others := 0
	for _, e := range b.m.tasks {
		if e.shim == b {
			others++
		}
	}
	if others <= 1 && b.m.ours[b.name] == b {
		delete(b.m.ours, b.name)
		b.retired = true
	}
	b.m.mu.Unlock()
	if !b.retired {
		return
	}
	if b.cur.alive() {
		_ = b.cur.call(ctx, "", "Shutdown", &task.ShutdownRequest{}, &emptypb.Empty{})
	}
	if err := os.RemoveAll(b.dir); err != nil {
		b.m.conf.Log.Error("cannot remove the directory of a shim", "shim", b.name, "error", err)
	}
}

// close lets go of the shim. One that serves no container ends: it has nothing to outlive the daemon for.
func (b *builtin) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cur == nil {
		return
	}
	if b.cur.alive() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = b.cur.call(ctx, "", "Shutdown", &task.ShutdownRequest{}, &emptypb.Empty{})
	}
	b.cur.client.Close()
}

// Binary is the path of slipway-shim. NotFound when it is nowhere.
func (m *Manager) Binary() (string, error) { return m.binary() }

// binary finds slipway-shim.
func (m *Manager) binary() (string, error) {
	if m.conf.Binary != "" {
		return m.conf.Binary, nil
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "slipway-shim"+filepath.Ext(self))
		if st, err := os.Stat(beside); err == nil && st.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath("slipway-shim")
	if err != nil {
		return "", fmt.Errorf("cannot find slipway-shim beside slipwayd or on PATH; install it or name it in the configuration: %w: %w", err, errdefs.ErrNotFound)
	}
	return path, nil
}
