package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image"
	client "github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// stepped dies with SIGKILL when it comes to its step number last.
type stepped struct{ taken, last atomic.Int64 }

func (s *stepped) step() {
	if s.taken.Add(1) == s.last.Load() {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}

// around is a step before and one after what fn does.
func around[T any](s *stepped, fn func() (T, error)) (T, error) {
	s.step()
	defer s.step()
	return fn()
}

func (s *stepped) around(fn func() error) error {
	_, err := around(s, func() (struct{}, error) { return struct{}{}, fn() })
	return err
}

// mortalDriver has steps around all that changes the disk.
type mortalDriver struct {
	*lazyfuse.Driver
	*stepped
}

func (d mortalDriver) Create(ctx context.Context, l storage.Layer) error {
	return d.around(func() error { return d.Driver.Create(ctx, l) })
}

func (d mortalDriver) Attach(ctx context.Context, l storage.Layer, x storage.LayerIndex, src storage.Source) (storage.Usage, error) {
	return around(d.stepped, func() (storage.Usage, error) { return d.Driver.Attach(ctx, l, x, src) })
}

func (d mortalDriver) Fill(ctx context.Context, l storage.Layer, diff io.Reader) (storage.Usage, error) {
	return around(d.stepped, func() (storage.Usage, error) { return d.Driver.Fill(ctx, l, diff) })
}

func (d mortalDriver) Keep(ctx context.Context, id, file string) error {
	return d.around(func() error { return d.Driver.Keep(ctx, id, file) })
}

func (d mortalDriver) Arrive(ctx context.Context, id string) error {
	return d.around(func() error { return d.Driver.Arrive(ctx, id) })
}

// mortalContent has steps around the beginning and the end of each blob.
type mortalContent struct {
	*content.FS
	*stepped
}

func (c mortalContent) Writer(ctx context.Context, ref string, d ocispec.Descriptor) (content.Writer, error) {
	c.step()
	w, err := c.FS.Writer(ctx, ref, d)
	if err != nil {
		return nil, err
	}
	return mortalWriter{w, c.stepped}, nil
}

type mortalWriter struct {
	content.Writer
	*stepped
}

func (w mortalWriter) Commit(ctx context.Context, size int64, expected digest.Digest) error {
	return w.around(func() error { return w.Writer.Commit(ctx, size, expected) })
}

// mortalEngine begins an engine over what is in dir.
func mortalEngine(ctx context.Context, dir string, s *stepped) (*engine.Engine, *lazyfuse.Driver, error) {
	driver, err := newDriver(dir)
	if err != nil {
		return nil, nil, err
	}
	db, err := metadata.Open(filepath.Join(dir, "metadata.db"), metadata.Options{})
	if err != nil {
		return nil, nil, err
	}
	blobs, err := content.Open(filepath.Join(dir, "content"))
	if err != nil {
		return nil, nil, err
	}
	eng, err := engine.New(engine.Parts{
		DB: db, Content: mortalContent{blobs, s}, Drivers: map[string]storage.Driver{"overlayfs": mortalDriver{driver, s}}, DefaultDriver: "overlayfs",
		Tasks: noTasks{}, Registry: client.New(client.Config{Retries: -1}), Lazy: engine.LazyOptions{Delay: -1, Minimum: 1},
		Root: dir, State: filepath.Join(dir, "run"),
	})
	if err != nil {
		return nil, nil, err
	}
	return eng, driver, eng.Start(ctx)
}

// pullAndWait is what the mortal process does: "pull DIR REF STEP".
func pullAndWait(dir, ref, last string) error {
	n, err := strconv.ParseInt(last, 10, 64)
	if err != nil {
		return err
	}
	if err := os.Setenv("SLIPWAY_FUSE_TEST", "main"); err != nil {
		return err
	}
	ctx, s := context.Background(), &stepped{}
	eng, _, err := mortalEngine(ctx, dir, s)
	if err != nil {
		return err
	}
	s.last.Store(n)
	if err := pullInto(ctx, eng, ref); err != nil {
		return err
	}
	return errors.Join(eng.WaitLazy(ctx, "test", ref), eng.Close())
}

func pullInto(ctx context.Context, eng *engine.Engine, ref string) error {
	_, err := eng.Pull(ctx, inTest, engine.PullOptions{Ref: ref, Unpacks: []engine.Unpack{{}},
		Records: func(r image.Result) ([]metadata.Image, error) {
			return []metadata.Image{{Name: ref, Target: r.Target}}, nil
		}})
	return err
}

// TestKilledAtEachStep kills a daemon at each step of a lazy pull and of the layers' arrival. The next one has the rest done, shows
// the same files, and leaves nothing when the image goes.
func TestKilledAtEachStep(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting FUSE with suid and dev needs root")
	}
	t.Setenv("SLIPWAY_FUSE_TEST", "main")
	dir, r := memoryDir(t), registry.Start(t)
	t.Cleanup(func() { endKeeper(t, filepath.Join(dir, "state")) })
	ref := push(t, r, "test/small:latest", func() (*ociimage.Built, error) {
		return ociimage.Image{Layers: []ociimage.Layer{
			{Compression: ociimage.EStargz, Files: []ociimage.File{ociimage.Dir("d", 0o755), ociimage.Regular("d/a", 0o644, noise(1, 600<<10))}},
			{Compression: ociimage.EStargz, Files: []ociimage.File{ociimage.Regular("d/b", 0o644, noise(2, 600<<10)), ociimage.Whiteout("gone")}},
		}}.Build()
	})
	killed := 0
	for step := 1; ; step++ {
		died := dies(t, dir, ref, step)
		recovers(t, dir, ref, fmt.Sprint("step ", step))
		if !died {
			break
		}
		killed++
	}
	if killed < 20 {
		t.Errorf("only %d steps", killed)
	}
	t.Log(killed, "steps")
}

// dies runs the mortal process and answers whether it came to its step.
func dies(t *testing.T, dir, ref string, step int) bool {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	cmd := exec.CommandContext(t.Context(), self, dir, ref, strconv.Itoa(step))
	cmd.Env = append(os.Environ(), "SLIPWAY_FUSE_TEST=pull")
	var said bytes.Buffer
	cmd.Stderr = &said
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == unix.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("step %d: %v: %s", step, err, said.String())
	}
	return false
}

// recovers is the next daemon, which then removes the image.
func recovers(t *testing.T, dir, ref, when string) {
	t.Helper()
	eng, driver, err := mortalEngine(t.Context(), dir, &stepped{})
	check(t, err)
	defer func() { check(t, eng.Close()) }()
	check(t, pullInto(t.Context(), eng, ref))
	check(t, eng.WaitLazy(t.Context(), "test", ref))
	layers, err := eng.ImageLayers(t.Context(), "test", ref)
	check(t, err)
	n := node{Engine: eng}
	n.mounted(t, layers, func(root string) {
		for i, name := range []string{"d/a", "d/b"} {
			if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != noise(uint64(i+1), 600<<10) {
				t.Errorf("%s: %s: %v", when, name, err)
			}
		}
	})
	leases, err := eng.ListLeases(t.Context(), "test") // a pull's holds for a day what it has made, for the next one
	check(t, err)
	for _, l := range leases {
		check(t, eng.DeleteLease(t.Context(), "test", l.ID, false))
	}
	check(t, eng.DeleteImage(t.Context(), "test", ref, nil, true))
	ids, err := driver.List(t.Context())
	check(t, err)
	lazies, err := driver.Lazies(t.Context(), false)
	check(t, err)
	ingests, err := eng.Content(inTest).Ingests(t.Context())
	check(t, err)
	attached, err := os.ReadDir(filepath.Join(dir, "state/mnt"))
	check(t, err)
	blobs, err := filepath.Glob(filepath.Join(dir, "content/blobs/*/*"))
	check(t, err)
	if len(ids)+len(lazies)+len(ingests)+len(attached)+len(blobs) > 0 {
		t.Errorf("%s: the image is removed and there still are layers %q %v, ingests %v, mounts %v, blobs %q", when, ids, lazies, ingests, attached, blobs)
	}
}

// TestReboot begins over what a reboot leaves: nothing of what is in the state directory.
func TestReboot(t *testing.T) {
	dir, r := memoryDir(t), registry.Start(t)
	t.Cleanup(func() { endKeeper(t, filepath.Join(dir, "state")) })
	ref := push(t, r, "test/stargz:latest", stargzImage)
	first := startNode(t, dir)
	layers := first.pull(t, ref, "")
	want := first.tree(t, layers)
	check(t, first.Close())
	endKeeper(t, filepath.Join(dir, "state"))
	check(t, errors.Join(os.RemoveAll(filepath.Join(dir, "state")), os.RemoveAll(filepath.Join(dir, "run"))))
	n := startNode(t, dir)
	defer func() { check(t, n.Close()) }()
	same(t, "after a reboot", n.tree(t, layers), want)
	check(t, n.WaitLazy(t.Context(), "test", ref))
	same(t, "arrived", n.tree(t, layers), want)
}
