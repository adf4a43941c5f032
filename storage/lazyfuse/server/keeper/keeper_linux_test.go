package keeper_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/storage/lazyfuse/server"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/keeper"
	"github.com/slipwayd/slipway/testsuite/fuselayer"
	"golang.org/x/sys/unix"
)

// TestMain is also the keeper and the server that the tests run and kill.
func TestMain(m *testing.M) {
	role, dir := os.Getenv("FUSE_TEST_ROLE"), os.Getenv("FUSE_TEST_DIR")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var err error
	switch role {
	case "":
		os.Exit(m.Run())
	case "keeper":
		os.Setenv("FUSE_TEST_ROLE", "server")
		err = keeper.Run(ctx, keeper.Config{Mountpoint: filepath.Join(dir, "mnt"), State: filepath.Join(dir, "state"),
			Command: []string{"/proc/self/exe"}, Log: log})
	case "server":
		err = keeper.Serve(ctx, server.Config{Mountpoint: filepath.Join(dir, "mnt"), State: filepath.Join(dir, "state"),
			Cache: dir, Open: openSlow, Log: log})
	}
	switch {
	case errors.Is(err, server.ErrUnmounted):
		os.Exit(keeper.ExitUnmounted)
	case err != nil:
		log.Error(role+" ends", "error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// openSlow opens a layer that takes its time to read, and of which each third file is complete.
func openSlow(_, dir string) (server.Layer, error) {
	l, err := fuselayer.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	l.Read = func(context.Context, int, int64) error {
		time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
		return nil
	}
	l.Complete = func(node int) bool { return node%3 == 0 }
	return l, nil
}

// host is a directory with a keeper.
type host struct {
	dir string
	control.Client
}

func start(t testing.TB) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting FUSE with suid and dev needs root")
	}
	h := &host{dir: t.TempDir()}
	t.Setenv("FUSE_TEST_ROLE", "keeper")
	t.Setenv("FUSE_TEST_DIR", h.dir)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(h.dir, "state/keeper.log"))
			t.Logf("%s", log[max(0, len(log)-8000):])
		}
	})
	h.ensure(t)
	t.Cleanup(func() {
		if pid := h.keeperPID(t); pid != 0 {
			if err := unix.Kill(pid, unix.SIGTERM); err != nil {
				t.Error(err)
			}
			h.gone(t, pid)
		}
		if err := keeper.Unmount(h.mnt()); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *host) mnt() string { return filepath.Join(h.dir, "mnt") }

func (h *host) ensure(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	if h.Client, err = keeper.Ensure(ctx, filepath.Join(h.dir, "state"), []string{"/proc/self/exe"}); err != nil {
		t.Fatal(err)
	}
}

// keeperPID is 0 when none runs.
func (h *host) keeperPID(t testing.TB) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.dir, "state/keeper.lock"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || unix.Kill(pid, 0) != nil {
		return 0
	}
	return pid
}

func (h *host) serverPID(t testing.TB) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		s, err := h.Stats(ctx)
		if err == nil {
			return s.PID
		}
		if !errors.Is(err, errdefs.ErrUnavailable) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func (h *host) kill(t testing.TB, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("pid is %d", pid)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.gone(t, pid)
}

// gone waits until a process is no more or waits for its parent, with all its threads.
func (h *host) gone(t testing.TB, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n == 0 {
			t.Fatalf("process %d does not end", pid)
		}
		return
	}
}

// hash is that of all names and contents of a tree.
func hash(dir string) (string, error) { return timedHash(dir, new(atomic.Int64)) }

// timedHash also notes how long the slowest file took, with the walk to it.
func timedHash(dir string, longest *atomic.Int64) (string, error) {
	h := sha256.New()
	last := time.Now()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintln(h, strings.TrimPrefix(p, dir), d.Type())
		if !d.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(h, f)
		longest.Store(max(longest.Load(), int64(time.Since(last))))
		last = time.Now()
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// randomTree fills a directory with files of many sizes.
func randomTree(t testing.TB, files int) string {
	t.Helper()
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	for i := range files {
		p := filepath.Join(dir, fmt.Sprintf("d%d/e%d/f%d", i%7, i%13, i))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		from := r.IntN(len(data) / 2)
		if err := os.WriteFile(p, data[from:from+r.IntN(len(data)/2)>>(i%12)], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
