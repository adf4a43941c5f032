package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/storage/lazyfuse/layer"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/keeper"
	"github.com/slipwayd/slipway/storage/lazyfuse/state"
	"github.com/slipwayd/slipway/testsuite"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestMain is also the binary that the tests run.
func TestMain(m *testing.M) {
	switch os.Getenv("SLIPWAY_FUSE_TEST") {
	case "main":
		main()
	case "pull":
		if err := pullAndWait(os.Args[1], os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// A program with a race detector sleeps a second when it ends, and the tests end hundreds of keepers and servers.
	if err := os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0")); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// host is a keeper with its directories.
type host struct {
	dir string
	control.Client
}

func startHost(t testing.TB) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting FUSE with suid and dev needs root")
	}
	h := &host{dir: t.TempDir()}
	t.Setenv("SLIPWAY_FUSE_TEST", "main")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	self, err := os.Executable()
	check(t, err)
	command := []string{self, "keeper", "--mount", h.path("mnt"), "--state", h.path("state"), "--cache", h.path("cache")}
	h.Client, err = keeper.Ensure(ctx, h.path("state"), command)
	if err != nil {
		log, _ := os.ReadFile(h.path("state/keeper.log"))
		t.Fatalf("%v\n%s", err, log)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(h.path("state/keeper.log"))
			t.Logf("%s", log)
		}
		endKeeper(t, h.path("state"))
	})
	return h
}

// endKeeper ends the keeper of a state directory, if there ever was one, and waits for it.
func endKeeper(t testing.TB, state string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(state, "keeper.lock"))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	check(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	check(t, err)
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	check(t, err)
	defer unix.Close(fd)
	check(t, unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0))
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30000); n != 1 {
		t.Errorf("the keeper does not end: %v", err)
	}
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testFiles is a layer with one of everything, and enough data for several spans.
func testFiles() []ociimage.File { return sizedFiles(6 << 20) }

// sizedFiles has a file of that many bytes, which take three quarters of it when compressed.
func sizedFiles(size int) []ociimage.File {
	data := make([]byte, size)
	x := uint32(1)
	for i := range data {
		x = x*1664525 + 1013904223
		data[i] = byte(x >> 26)
	}
	files := []ociimage.File{
		ociimage.Dir("bin", 0o755), ociimage.Regular("bin/su", 0o4755, "#!/bin/sh\n"), ociimage.Symlink("bin/sh", "/bin/busybox"),
		ociimage.Dir("data", 0o700), ociimage.Regular("data/big", 0o644, string(data)), ociimage.Regular("data/empty", 0o600, ""),
		ociimage.Hardlink("data/again", "data/big"),
		{Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600}},
		{Header: tar.Header{Name: "owned", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 1000, Gid: 2000,
			PAXRecords: map[string]string{"SCHILY.xattr.user.key": "value"}}, Body: []byte("owned")},
	}
	for i := range 200 {
		files = append(files, ociimage.Regular("data/small"+strconv.Itoa(i), 0o644, string(data[i*1000:i*1000+i*17])))
	}
	return files
}

// state writes what the server needs to serve a layer of the registry.
func (h *host) state(t testing.TB, r *registry.Registry, files []ociimage.File) (id, dir string) {
	t.Helper()
	built := r.Push("test/lazy:latest", ociimage.Image{Layers: []ociimage.Layer{{Files: files}}})
	desc := built.Layers[0]
	rec, err := index.NewRecorder(bytes.NewReader(r.Blob(desc.Digest)), index.Limits{})
	check(t, err)
	defer rec.Close()
	_, err = io.Copy(rec, rec)
	check(t, err)
	x, err := rec.Finish()
	check(t, err)
	id = desc.Digest.Encoded()[:12]
	dir = h.path("layers/" + id)
	check(t, os.MkdirAll(filepath.Dir(dir), 0o700))
	l := state.Layer{Source: storage.Source{Ref: r.Host() + "/test/lazy:latest", Descriptor: desc}, Own: true, Kind: x.Kind(), Document: digest.FromBytes(x.Marshal())}
	check(t, state.Write(dir, l, x.Marshal()))
	check(t, state.Settle(dir, l, func(string) (index.Node, bool, error) { return index.Node{}, false, nil }))
	return id, dir
}

// expect compares what is mounted with a model of the layer.
func expect(t *testing.T, root string, files []ociimage.File) {
	t.Helper()
	archive, err := ociimage.TarBytes(files)
	check(t, err)
	want := testsuite.NewTree()
	check(t, want.Apply(bytes.NewReader(archive)))
	got, err := testsuite.ReadTree(root)
	check(t, err)
	// The archive says nothing of the root.
	delete(want, ".")
	delete(got, ".")
	if g, w := got.Lines(), want.Lines(); !slices.Equal(g, w) {
		for i := range min(len(g), len(w)) {
			if g[i] != w[i] {
				t.Fatalf("got  %s\nwant %s", g[i], w[i])
			}
		}
		t.Fatalf("%d names, want %d", len(g), len(w))
	}
}

func TestLazyLayer(t *testing.T) {
	h, r := startHost(t), registry.Start(t)
	files := testFiles()
	id, dir := h.state(t, r, files)
	desc := registry.Match{Method: "GET", Path: "/blobs/"}
	r.Forget()
	ctx := context.Background()
	check(t, h.Attach(ctx, id, dir))
	if n := r.Count(desc); n != 0 {
		t.Errorf("attaching asked the registry %d times", n)
	}
	r.Fault(registry.Match{Method: "GET", Path: "/blobs/", Times: 2}, registry.Then(registry.Status(503), registry.Cut(1000)))
	expect(t, filepath.Join(h.path("mnt"), id), files)
	r.Heal()
	if n := r.Count(desc); n == 0 || n > 12 {
		t.Errorf("%d GETs for a layer of %d files", n, len(files))
	}

	// All is here: it is read past the server, and without the registry.
	r.Fault(desc, registry.Status(500))
	expect(t, filepath.Join(h.path("mnt"), id), files)
	layers, err := h.Layers(ctx)
	check(t, err)
	if l := layers[0]; l.PassedOpens == 0 || l.ReadErrors != 0 {
		t.Errorf("after all was read: %+v", l)
	}
	// The next server knows the layer by itself. What came in the last second the cache may have forgotten.
	r.Heal()
	stats, err := h.Stats(ctx)
	check(t, err)
	check(t, unix.Kill(stats.PID, unix.SIGKILL))
	expect(t, filepath.Join(h.path("mnt"), id), files)
	if err := h.Detach(ctx, id); err != nil {
		t.Error(err)
	}
}

// TestCorruptLayer is criterion 12 from the registry to the reader: wrong bytes are EIO, never seen or kept, and fetched again.
func TestCorruptLayer(t *testing.T) {
	h, r := startHost(t), registry.Start(t)
	files := testFiles()
	id, dir := h.state(t, r, files)
	check(t, h.Attach(context.Background(), id, dir))
	p := filepath.Join(h.path("mnt"), id, "owned")
	r.Fault(registry.Match{Method: "GET", Path: "/blobs/"}, corruptAll)
	if data, err := os.ReadFile(p); !errors.Is(err, unix.EIO) {
		t.Errorf("read %q, %v; want EIO", data, err)
	}
	r.Heal()
	if data, err := os.ReadFile(p); err != nil || string(data) != "owned" {
		t.Errorf("after recovery: %q, %v", data, err)
	}
	expect(t, filepath.Join(h.path("mnt"), id), files)
}

// corruptAll turns every byte of a body.
func corruptAll(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(corruptWriter{w}, r)
}

type corruptWriter struct{ http.ResponseWriter }

func (w corruptWriter) Write(p []byte) (int, error) {
	bad := make([]byte, len(p))
	for i := range p {
		bad[i] = ^p[i]
	}
	return w.ResponseWriter.Write(bad)
}

// TestReplay replays what a first container opened in a second one, before that one asks.
func TestReplay(t *testing.T) {
	h, r := startHost(t), registry.Start(t)
	id, dir := h.state(t, r, testFiles())
	ctx := context.Background()
	check(t, h.Attach(ctx, id, dir))
	for _, name := range []string{"owned", "data/small7", "bin/su", "owned"} {
		_, err := os.ReadFile(filepath.Join(h.path("mnt"), id, name))
		check(t, err)
	}
	touched, err := h.Touched(ctx, id)
	check(t, err)
	if len(touched) != 3 {
		t.Fatalf("touched %+v", touched)
	}
	second := startHost(t)
	id, dir = second.state(t, r, testFiles())
	check(t, second.Attach(ctx, id, dir))
	wanted := []control.Wanted{{ID: id, Path: "no/such"}, {ID: id, Path: "data"}, {ID: id, Path: "data/small7", Ranges: [][2]int64{{-5, 1 << 62}, {7, 3}, {1 << 60, 1 << 61}}}}
	for _, f := range touched {
		wanted = append(wanted, control.Wanted{ID: id, Path: f.Path, Ranges: f.Ranges})
	}
	check(t, second.Replay(ctx, wanted))
	for {
		layers, err := second.Layers(ctx)
		check(t, err)
		var d layer.Detail
		check(t, json.Unmarshal(layers[0].Detail, &d))
		if d.Demand != 0 {
			t.Fatalf("prefetching is counted as demand: %+v", d)
		}
		if f, err := os.Open(filepath.Join(second.path("mnt"), id, "owned")); err != nil {
			t.Fatal(err)
		} else {
			f.Close() // passed through once the file is complete
		}
		if d.Profile > 0 && layers[0].PassedOpens > 0 {
			return
		}
	}
}

func TestStatus(t *testing.T) {
	h, r := startHost(t), registry.Start(t)
	id, dir := h.state(t, r, testFiles()[:4])
	check(t, h.Attach(context.Background(), id, dir))
	var out bytes.Buffer
	if code, err := run([]string{"status", "--state", h.path("state")}, &out); code != 0 || !strings.Contains(out.String(), id) {
		t.Errorf("%d, %v: %s", code, err, &out)
	}
	for _, args := range [][]string{{}, {"nonsense"}, {"keeper"}, {"serve", "--mount", "x"}} {
		if code, err := run(args, io.Discard); code != 2 || err == nil {
			t.Errorf("%v: %d, %v", args, code, err)
		}
	}
}

func TestBadState(t *testing.T) {
	h, r := startHost(t), registry.Start(t)
	_, dir := h.state(t, r, testFiles()[:4])
	whole, err := os.ReadFile(filepath.Join(dir, "index"))
	check(t, err)
	for name, spoil := range map[string]func() error{
		"no index":       func() error { return os.Remove(filepath.Join(dir, "index")) },
		"damaged index":  func() error { return os.WriteFile(filepath.Join(dir, "index"), whole[:len(whole)/2], 0o600) },
		"no layer.json":  func() error { return os.Remove(filepath.Join(dir, "layer.json")) },
		"bad layer.json": func() error { return os.WriteFile(filepath.Join(dir, "layer.json"), []byte("{"), 0o600) },
	} {
		check(t, os.WriteFile(filepath.Join(dir, "index"), whole, 0o600))
		check(t, spoil())
		if err := h.Attach(context.Background(), "bad", dir); err == nil {
			t.Errorf("%s: attached", name)
		}
	}
}
