package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/keeper"
	"github.com/slipwayd/slipway/testsuite"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// newStreamer is a node that serves layers while they come.
func newStreamer(t *testing.T) node {
	return newNode(t, streaming)
}

func streaming(p *engine.Parts) { p.Lazy.Stream = true }

// holdBack sends no byte of a blob at or behind from until release is closed.
func holdBack(from int64, release <-chan struct{}) registry.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		body := rec.Body.Bytes()
		early := max(0, min(int64(len(body)), from-rangeBegin(r)))
		if len(body) == 1 {
			early = 1 // asked to see whether there are ranges
		}
		_, _ = w.Write(body[:early])
		if early == int64(len(body)) {
			return // the client sends its next request on this connection
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
			_, _ = w.Write(body[early:])
		case <-r.Context().Done():
		}
	}
}

// TestStreamEqualsPull reads a plain image while it comes for the first time anywhere, and compares it with one pulled in full.
func TestStreamEqualsPull(t *testing.T) {
	r := registry.Start(t)
	ref := push(t, r, "test/plain:latest", plainImage)
	full := newNode(t)
	want := full.tree(t, full.pull(t, ref, engine.LazyNever))
	n := newStreamer(t)
	release := make(chan struct{})
	r.Fault(registry.Match{Method: "GET", Path: "/blobs/"}, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Header.Get("Range") == "" { // the config
			next.ServeHTTP(w, req)
			return
		}
		holdBack(1000, release)(w, req, next)
	})
	layers := n.pull(t, ref, "")
	if got := modes(layers); got != "lazy lazy lazy" {
		t.Fatalf("pulled %s: %v %v %v", got, layers[0].Reason, layers[1].Reason, layers[2].Reason)
	}
	for _, l := range layers {
		if l.Index != "stream" {
			t.Errorf("it has index %q", l.Index)
		}
	}
	close(release)
	n.mounted(t, layers, func(root string) {
		got, err := testsuite.ReadTree(root)
		check(t, err)
		same(t, "while it came", comparable(got), want)
		check(t, n.WaitLazy(t.Context(), "test", ref))
		got, err = testsuite.ReadTree(root)
		check(t, err)
		same(t, "when it had come", comparable(got), want)
	})
	layers, err := n.ImageLayers(t.Context(), "test", ref)
	check(t, err)
	if got := modes(layers); got != "arrived arrived arrived" {
		t.Errorf("after it has arrived: %s", got)
	}
	same(t, "arrived", n.tree(t, layers), want)
	for _, l := range layers {
		if _, err := n.own.Get(l.Desc.Digest); err != nil {
			t.Errorf("the next pull has no index: %v", err)
		}
		if got, want := n.usage(t, l).Size, full.usage(t, l).Size; got != want {
			t.Errorf("it takes %d bytes, want %d", got, want)
		}
	}
}

// usage is what a layer's snapshot is said to take.
func (n node) usage(t *testing.T, l engine.ImageLayer) storage.Usage {
	t.Helper()
	s, err := n.Snapshots(inTest, "overlayfs")
	check(t, err)
	u, err := s.Usage(t.Context(), l.Chain.String())
	check(t, err)
	return u
}

// serverless is an image whose static program comes long before its data.
func serverless(t *testing.T) *ociimage.Built {
	t.Helper()
	busybox, err := ociimage.Busybox()
	if err != nil {
		t.Skip(err)
	}
	var files []ociimage.File
	for _, f := range busybox.Layers[0].Files {
		if f.Typeflag != tar.TypeLink {
			files = append(files, f)
		}
	}
	files = append(files, ociimage.Hardlink("bin/sh", "bin/busybox"), ociimage.Hardlink("bin/cat", "bin/busybox"))
	for i := range 8 {
		files = append(files, ociimage.Regular(fmt.Sprint("var/data", i), 0o644, noise(uint64(i), 1<<18)))
	}
	built, err := ociimage.Image{Layers: []ociimage.Layer{{Files: files}}}.Build()
	check(t, err)
	return built
}

// TestStaticProgramStartsEarly: a program runs while most of its layer is still to come, what it reads that is not there yet waits for it
// alone, and a process that waits can be killed.
func TestStaticProgramStartsEarly(t *testing.T) {
	r, n := registry.Start(t), newStreamer(t)
	built := serverless(t)
	r.PushBuilt("test/static:latest", built)
	ref := r.Host() + "/test/static:latest"
	release := make(chan struct{})
	released := sync.OnceFunc(func() { close(release) })
	defer released()
	r.Fault(registry.Match{Method: "GET", Digest: built.Layers[0].Digest}, holdBack(built.Layers[0].Size-1<<20, release))
	layers := n.pull(t, ref, "")
	n.mounted(t, layers, func(root string) {
		// What a C library asks of /proc, it gets from there in a container.
		check(t, unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""))
		defer func() { check(t, unix.Unmount(filepath.Join(root, "proc"), 0)) }()
		cat := func(file string) *exec.Cmd {
			// Not by this process: while it waits for exec, Go cannot collect garbage, and the registry is here too.
			return exec.Command("chroot", root, "/bin/cat", file)
		}
		out, err := cat("/etc/passwd").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "root:") {
			t.Fatalf("while the layer comes: %q, %v", out, err)
		}
		absent := cat("/nowhere")
		check(t, absent.Start())
		check(t, absent.Process.Kill())
		_ = absent.Wait() // or the test hangs
		late := cat("/var/data7")
		pipe, err := late.StdoutPipe()
		check(t, err)
		check(t, late.Start())
		if got, err := n.ImageLayers(t.Context(), "test", ref); err != nil || modes(got) != "lazy" {
			t.Errorf("it is here by now: %s, %v", modes(got), err)
		}
		released()
		got, err := io.ReadAll(pipe)
		if err != nil || string(got) != noise(7, 1<<18) {
			t.Errorf("reads %d bytes that are not the layer's, %v", len(got), err)
		}
		check(t, late.Wait())
		if out, err := cat("/nowhere").CombinedOutput(); err == nil || !strings.Contains(string(out), "No such file") {
			t.Errorf("what is not there: %q, %v", out, err)
		}
	})
}

// killServer kills the FUSE server of a node; its keeper starts the next one.
func killServer(t *testing.T, dir string) {
	t.Helper()
	stats, err := control.Client{Socket: keeper.Socket(filepath.Join(dir, "state"))}.Stats(t.Context())
	check(t, err)
	check(t, unix.Kill(stats.PID, unix.SIGKILL))
}

// TestStreamSurvives: servers are killed and the daemon starts anew in the middle of a layer, and who reads it notices nothing.
func TestStreamSurvives(t *testing.T) {
	r, dir := registry.Start(t), memoryDir(t)
	t.Cleanup(func() { endKeeper(t, filepath.Join(dir, "state")) })
	built := serverless(t)
	r.PushBuilt("test/static:latest", built)
	ref := r.Host() + "/test/static:latest"
	full := newNode(t)
	want := full.tree(t, full.pull(t, ref, engine.LazyNever))
	release := make(chan struct{})
	released := sync.OnceFunc(func() { close(release) })
	defer released()
	r.Fault(registry.Match{Method: "GET", Digest: built.Layers[0].Digest}, holdBack(built.Layers[0].Size-1<<20, release))
	n := startNode(t, dir, streaming)
	layers := n.pull(t, ref, "")
	s, err := n.Snapshots(inTest, "overlayfs")
	check(t, err)
	mounts, err := s.View(t.Context(), "view", layers[0].Chain.String(), map[string]string{"containerd.io/gc.root": "test"})
	check(t, err)
	check(t, mount.Temp(t.TempDir(), mounts, func(root string) error {
		passwd, err := os.Open(filepath.Join(root, "etc/passwd"))
		check(t, err)
		defer passwd.Close()
		tree := make(chan []string, 1)
		go func() {
			got, err := testsuite.ReadTree(root)
			if err != nil {
				t.Error(err)
			}
			tree <- comparable(got)
		}()
		killServer(t, dir)
		check(t, n.Close())
		n = startNode(t, dir, streaming)
		killServer(t, dir)
		st, err := os.Stat(filepath.Join(root, "bin/busybox"))
		if err != nil || st.Size() < 1<<20 {
			t.Errorf("what had come before: %v", err)
		}
		released()
		same(t, "while everything died", <-tree, want)
		if got, err := io.ReadAll(passwd); err != nil || !strings.HasPrefix(string(got), "root:") {
			t.Errorf("a file that was open is %q, %v", got, err)
		}
		check(t, n.WaitLazy(t.Context(), "test", ref))
		killServer(t, dir)
		got, err := testsuite.ReadTree(root)
		check(t, err)
		same(t, "by a server that saw nothing come", comparable(got), want)
		return nil
	}))
	defer func() { check(t, n.Close()) }()
	s, err = n.Snapshots(inTest, "overlayfs")
	check(t, err)
	check(t, s.Remove(t.Context(), "view"))
	same(t, "arrived", n.tree(t, layers), want)
}

// TestWrongStream: a registry sends wrong bytes. What was mounted fails from then on; when the registry sends the right ones the layer
// arrives, and new mounts have it.
func TestWrongStream(t *testing.T) {
	r, n := registry.Start(t), newStreamer(t)
	built := serverless(t)
	r.PushBuilt("test/static:latest", built)
	ref := r.Host() + "/test/static:latest"
	layer := built.Layers[0]
	var wrong atomic.Bool
	wrong.Store(true)
	r.Fault(registry.Match{Method: "GET", Digest: layer.Digest}, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, req)
		body := rec.Body.Bytes()
		if at := layer.Size/2 - rangeBegin(req); wrong.Load() && at >= 0 && at < int64(len(body)) {
			body[at]++
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(body)
	})
	layers := n.pull(t, ref, "")
	n.mounted(t, layers, func(root string) {
		if _, err := os.Stat(filepath.Join(root, "nowhere")); !errors.Is(err, unix.EIO) {
			t.Errorf("of a name in a wrong layer: %v, want EIO", err)
		}
		if got, err := os.ReadFile(filepath.Join(root, "var/data7")); !errors.Is(err, unix.EIO) {
			t.Errorf("of a file in a wrong layer: %d bytes, %v, want EIO", len(got), err)
		}
		if err := n.WaitLazy(t.Context(), "test", ref); err == nil {
			t.Error("a wrong layer has arrived")
		}
		got, err := n.ImageLayers(t.Context(), "test", ref)
		check(t, err)
		if got[0].Mode != engine.ModeLazy || got[0].Err == nil {
			t.Errorf("it is %s, and why it has not arrived: %v", got[0].Mode, got[0].Err)
		}
		wrong.Store(false)
		check(t, n.WaitLazy(t.Context(), "test", ref))
		if _, err := os.Stat(filepath.Join(root, "bin/busybox")); !errors.Is(err, unix.EIO) {
			t.Errorf("what is mounted since before: %v, want EIO", err)
		}
	})
	n.mounted(t, layers, func(root string) {
		if got, err := os.ReadFile(filepath.Join(root, "var/data7")); err != nil || string(got) != noise(7, 1<<18) {
			t.Errorf("a new mount has %d bytes, %v", len(got), err)
		}
	})
}

// rangeBegin is where the range begins that a request asks for.
func rangeBegin(r *http.Request) (begin int64) {
	if v, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		v, _, _ = strings.Cut(v, "-")
		begin, _ = strconv.ParseInt(v, 10, 64)
	}
	return begin
}
