package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/storage/lazyfuse/server"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/keeper"
	"github.com/slipwayd/slipway/testsuite/fuselayer"
	"golang.org/x/sys/unix"
)

// mounted is a FUSE mount served in the test's process.
type mounted struct {
	*server.Server
	dir    string
	layers map[string]*fuselayer.Layer // by state directory, for what is attached
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting FUSE with suid and dev needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
}

// mount serves layers, attached under their ids.
func mount(t testing.TB, layers map[string]*fuselayer.Layer, change func(*server.Config)) *mounted {
	t.Helper()
	needRoot(t)
	m := &mounted{dir: filepath.Join(t.TempDir(), "mnt"), layers: layers}
	dev, err := keeper.Mount(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	session, err := server.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	var log io.Writer = io.Discard
	if testing.Verbose() {
		log = os.Stderr
	}
	cfg := server.Config{Mountpoint: m.dir, State: t.TempDir(), Device: dev, Session: session, Cache: t.TempDir(),
		Log: slog.New(slog.NewTextHandler(log, nil)),
		Open: func(_, dir string) (server.Layer, error) {
			if l := layers[dir]; l != nil {
				return l, nil
			}
			return nil, fmt.Errorf("no layer at %s: %w", dir, errdefs.ErrNotFound)
		}}
	if change != nil {
		change(&cfg)
	}
	if m.Server, err = server.New(cfg); err != nil {
		t.Fatal(errors.Join(err, keeper.Unmount(m.dir)))
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Serve(context.Background()) }()
	t.Cleanup(func() {
		if err := keeper.Unmount(m.dir); err != nil {
			t.Error(err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, server.ErrUnmounted) {
				t.Errorf("Serve ended with %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Serve does not end; something keeps the mount busy")
		}
	})
	answerPoll(t, m.dir)
	for id := range layers {
		if err := m.Attach(id, id); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// answerPoll has the kernel learn that files of the mount cannot be polled. Go's runtime would ask when it first opens one, by
// epoll, and wait for this process to answer while no goroutine of it can run.
func answerPoll(t testing.TB, dir string) {
	t.Helper()
	fd, err := unix.Open(filepath.Join(dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil {
		t.Fatal(err)
	}
}

// layerOf makes a layer of files: a name ending in "/" is a directory, all others have the value for content.
func layerOf(t testing.TB, files map[string]string) *fuselayer.Layer {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		p := filepath.Join(dir, name)
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(p, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(p), 0o755); err == nil {
			err = os.WriteFile(p, []byte(data), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return openLayer(t, dir)
}

func openLayer(t testing.TB, dir string) *fuselayer.Layer {
	t.Helper()
	l, err := fuselayer.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// overlay mounts an overlay with lower directories, nearest first, and answers where.
func overlay(t testing.TB, lower ...string) string {
	t.Helper()
	upper, work, target := t.TempDir(), t.TempDir(), t.TempDir()
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lower, ":"), upper, work)
	if err := unix.Mount("overlay", target, "overlay", 0, options); err != nil {
		t.Fatalf("cannot mount an overlay above %v: %v", lower, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, 0); err != nil {
			t.Error(err)
		}
	})
	return target
}
