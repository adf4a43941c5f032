package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/storage/lazyfuse/server"
	"github.com/slipwayd/slipway/testsuite/fuselayer"
	"golang.org/x/sys/unix"
)

// only answers what the server knows of the one layer.
func (m *mounted) only(t testing.TB) (reads, opens, passed int64, cached, passedNow int) {
	t.Helper()
	l := m.Layers()
	if len(l) != 1 {
		t.Fatalf("%d layers", len(l))
	}
	return l[0].Reads, l[0].Opens, l[0].PassedOpens, l[0].OpenCached, l[0].OpenPassed
}

func TestCompleteFileIsReadPastTheServer(t *testing.T) {
	data := strings.Repeat("0123456789abcdef", 1<<18)
	l := layerOf(t, map[string]string{"file": data})
	l.Complete = func(int) bool { return true }
	m := mount(t, map[string]*fuselayer.Layer{"l1": l}, nil)
	for _, p := range []string{filepath.Join(m.dir, "l1/file"), filepath.Join(overlay(t, filepath.Join(m.dir, "l1")), "file")} {
		got, err := os.ReadFile(p)
		if err != nil || string(got) != data {
			t.Fatalf("%s: %d bytes, %v", p, len(got), err)
		}
	}
	if reads, _, passed, _, _ := m.only(t); reads != 0 || passed != 2 || l.Reads.Load() != 0 {
		t.Errorf("%d FUSE reads and %d of the layer, %d opens passed through; %s", reads, l.Reads.Load(), passed, m.Stats().PassthroughReason)
	}
}

// TestCachedThenComplete is criterion 27: descriptors of one inode are all of a kind, so a file that was opened before it
// was complete is cached for all until it is closed.
func TestCachedThenComplete(t *testing.T) {
	l := layerOf(t, map[string]string{"file": strings.Repeat("data", 10000)})
	var complete atomic.Bool
	l.Complete = func(int) bool { return complete.Load() }
	m := mount(t, map[string]*fuselayer.Layer{"l1": l}, nil)
	p := filepath.Join(m.dir, "l1/file")
	open := func(passed int64) *os.File {
		t.Helper()
		f, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(f); err != nil || len(data) != 40000 {
			t.Fatalf("read %d bytes, %v", len(data), err)
		}
		if _, _, got, _, _ := m.only(t); got != passed {
			t.Fatalf("%d opens passed through, want %d", got, passed)
		}
		return f
	}
	first := open(0)
	mapped, err := unix.Mmap(int(first.Fd()), 0, 40000, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	complete.Store(true)
	open(0).Close()
	first.Close()
	open(0).Close() // the mapping holds it open
	if err := unix.Munmap(mapped); err != nil {
		t.Fatal(err)
	}
	m.closed(t)
	held := open(1)
	complete.Store(false) // evicted: those who open it now join the backing file that is there
	open(2).Close()
	held.Close()
	m.closed(t)
	open(2).Close()
}

// closed waits until the kernel has told of all closed files, which it does in its own time.
func (m *mounted) closed(t testing.TB) {
	t.Helper()
	for range 10000 {
		if _, _, _, cached, passed := m.only(t); cached+passed == 0 {
			return
		}
		if err := exec.Command("true").Run(); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("files stay open")
}

func TestFailedReadFailsAlone(t *testing.T) {
	l := layerOf(t, map[string]string{"bad": strings.Repeat("b", 1<<20), "good": "good"})
	var broken atomic.Int32
	broken.Store(1)
	bad := l.Find("bad")
	l.Read = func(_ context.Context, node int, off int64) error {
		switch {
		case node != bad || broken.Load() == 0:
			return nil
		case broken.Load() == 1:
			return errors.New("a chunk whose digest is wrong")
		}
		panic("a layer that panics")
	}
	m := mount(t, map[string]*fuselayer.Layer{"l1": l}, nil)
	p := filepath.Join(m.dir, "l1/bad")
	for state, name := range map[int32]string{1: "error", 2: "panic"} {
		broken.Store(state)
		if data, err := os.ReadFile(p); !errors.Is(err, unix.EIO) {
			t.Errorf("%s: read %d bytes, %v; want EIO", name, len(data), err)
		}
		if data, err := os.ReadFile(filepath.Join(m.dir, "l1/good")); err != nil || string(data) != "good" {
			t.Errorf("%s: the other file: %q, %v", name, data, err)
		}
	}
	if m.Stats().Panics == 0 {
		t.Error("no panic counted")
	}
	broken.Store(0)
	if data, err := os.ReadFile(p); err != nil || len(data) != 1<<20 {
		t.Errorf("after recovery: read %d bytes, %v", len(data), err)
	}
}

// TestShortReadIsAnError: the kernel would fill the rest with zeros.
func TestShortReadIsAnError(t *testing.T) {
	l := layerOf(t, map[string]string{"file": "short"})
	l.Change(l.Find("file"), func(n *index.Node) { n.Size = 9000 })
	m := mount(t, map[string]*fuselayer.Layer{"l1": l}, nil)
	if data, err := os.ReadFile(filepath.Join(m.dir, "l1/file")); !errors.Is(err, unix.EIO) {
		t.Errorf("read %q, %v; want EIO", data, err)
	}
}

func TestHostileSizes(t *testing.T) {
	for _, size := range []int64{-1, math.MinInt64, 1 << 62, math.MaxInt64} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			l := layerOf(t, map[string]string{"file": "data", "fine": "fine"})
			l.Change(l.Find("file"), func(n *index.Node) { n.Size = size })
			l.Complete = func(int) bool { return true }
			m := mount(t, map[string]*fuselayer.Layer{"l1": l}, nil)
			f, err := os.Open(filepath.Join(m.dir, "l1/file"))
			if err == nil {
				defer f.Close()
				for _, off := range []int64{0, 1 << 40, math.MaxInt64 - 1<<20} {
					if n, err := f.ReadAt(make([]byte, 10), off); n != 0 || err == nil {
						t.Errorf("read %d bytes at %d, %v", n, off, err)
					}
				}
			}
			if data, err := os.ReadFile(filepath.Join(m.dir, "l1/fine")); err != nil || string(data) != "fine" {
				t.Errorf("the other file: %q, %v", data, err)
			}
		})
	}
}

// TestSlowReadsDelayNoOthers blocks as many reads as one layer may have and then some, kills the readers, and reads on.
func TestSlowReadsDelayNoOthers(t *testing.T) {
	l := layerOf(t, map[string]string{"slow": strings.Repeat("s", 1<<20), "fast": "fast"})
	blocked := make(chan struct{}, 1000)
	release := make(chan struct{})
	slow := l.Find("slow")
	l.Read = func(ctx context.Context, node int, _ int64) error {
		if node != slow {
			return nil
		}
		blocked <- struct{}{}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-release:
			return nil
		}
	}
	m := mount(t, map[string]*fuselayer.Layer{"l1": l}, nil)
	var readers []*exec.Cmd
	for range 20 {
		cmd := exec.Command("dd", "if="+filepath.Join(m.dir, "l1/slow"), "bs=4k", "count=1", "iflag=direct", "status=none")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		readers = append(readers, cmd)
		<-blocked
	}
	if data, err := os.ReadFile(filepath.Join(m.dir, "l1/fast")); err != nil || string(data) != "fast" {
		t.Errorf("the other file: %q, %v", data, err)
	}
	for i, cmd := range readers[1:] {
		sig := []os.Signal{syscall.SIGKILL, syscall.SIGTERM}[i%2]
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // ends only if the interrupt reached the layer
	}
	close(release)
	if err := readers[0].Wait(); err != nil {
		t.Errorf("the reader that was patient: %v", err)
	}
}

func TestDetachInterruptsReads(t *testing.T) {
	l := layerOf(t, map[string]string{"file": strings.Repeat("s", 1<<20)})
	blocked := make(chan struct{}, 1000)
	l.Read = func(ctx context.Context, _ int, _ int64) error {
		blocked <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	m := mount(t, map[string]*fuselayer.Layer{"l1": l}, nil)
	failed := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(filepath.Join(m.dir, "l1/file"))
		failed <- err
	}()
	<-blocked
	if err := m.Detach("l1"); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("the read succeeded")
	}
	if !l.Closed.Load() {
		t.Error("the layer is open still")
	}
}

// TestNestedOverlay is criterion 28: with passthrough the kernel lets one overlay be stacked above the mount, without it two.
func TestNestedOverlay(t *testing.T) {
	for name, off := range map[string]bool{"passthrough": false, "no passthrough": true} {
		t.Run(name, func(t *testing.T) {
			l := layerOf(t, map[string]string{"dir/file": "deep"})
			l.Complete = func(int) bool { return true }
			m := mount(t, map[string]*fuselayer.Layer{"l1": l}, func(c *server.Config) { c.NoPassthrough = off })
			top := overlay(t, filepath.Join(m.dir, "l1"))
			if off {
				top = overlay(t, filepath.Join(top, "dir"))
			} else {
				top = filepath.Join(top, "dir")
			}
			if data, err := os.ReadFile(filepath.Join(top, "file")); err != nil || string(data) != "deep" {
				t.Errorf("%q, %v", data, err)
			}
			if s := m.Stats(); s.Passthrough == off || (s.PassthroughReason == "") == off {
				t.Errorf("passthrough is %v: %s", s.Passthrough, s.PassthroughReason)
			}
		})
	}
}

// TestCacheOnOverlay is the rest of criterion 28: the kernel takes no backing file from overlayfs.
func TestCacheOnOverlay(t *testing.T) {
	cache := overlay(t, t.TempDir())
	dir := filepath.Join(cache, "layer")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, told := range map[string]string{"known": cache, "found out": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			l := openLayer(t, dir)
			l.Complete = func(int) bool { return true }
			m := mount(t, map[string]*fuselayer.Layer{"l1": l}, func(c *server.Config) { c.Cache = told })
			if data, err := os.ReadFile(filepath.Join(m.dir, "l1/file")); err != nil || !bytes.Equal(data, []byte("data")) {
				t.Errorf("%q, %v", data, err)
			}
			if s := m.Stats(); s.Passthrough || s.PassthroughReason == "" {
				t.Errorf("passthrough is %v: %q", s.Passthrough, s.PassthroughReason)
			}
		})
	}
}
