package stream

import (
	"bytes"
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
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/internal/changeset"
	"github.com/slipwayd/slipway/storage/lazyfuse/fetch"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/testsuite/ociimage"
)

// source is a blob that comes as far as the test lets it.
type source struct {
	data   []byte
	may    chan int64 // how far, from now on
	limit  int64
	errors chan error // for the next read
}

func newSource(data []byte) *source {
	return &source{data: data, may: make(chan int64, 10), errors: make(chan error)}
}

func (s *source) ReadAt(ctx context.Context, _ fetch.Class, p []byte, off int64) error {
	for off+int64(len(p)) > s.limit {
		select {
		case s.limit = <-s.may:
		case err := <-s.errors:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	copy(p, s.data[off:])
	return nil
}

func (s *source) Discard(int64, int64) {}
func (s *source) Close()               {}

// all lets the rest come.
func (s *source) all() { s.may <- int64(len(s.data)) }

// rig is a layer with its directories.
type rig struct {
	*Layer
	src  *source
	dir  string
	desc ocispec.Descriptor
}

// files are a program, and far behind it another.
func files() []ociimage.File {
	return []ociimage.File{
		ociimage.Dir("bin", 0o755), ociimage.Regular("bin/first", 0o4755, "the first"), ociimage.Regular("bin/large", 0o644, strings.Repeat("0123456789", 1<<17)),
		ociimage.Hardlink("bin/again", "bin/first"), ociimage.Symlink("link", "bin/first"), ociimage.Dir("last", 0o700), ociimage.Regular("last/file", 0o600, "last"),
	}
}

func tarOf(t *testing.T, list []ociimage.File) []byte {
	t.Helper()
	data, err := ociimage.TarBytes(list)
	check(t, err)
	return data
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open begins to serve data as a layer that should be desc's; in dir another one may have been.
func open(t *testing.T, dir string, data []byte, dgst digest.Digest) *rig {
	t.Helper()
	x, err := index.Empty(int64(len(data)))
	check(t, err)
	r := &rig{src: newSource(data), dir: dir, desc: ocispec.Descriptor{Digest: dgst, Size: int64(len(data))}}
	r.Layer, err = New(Config{ID: "layer", Root: x, Desc: r.desc, Blob: r.src, Files: filepath.Join(dir, "fs"), Dir: dir, State: dir, Deadline: time.Minute,
		Log: slog.New(slog.DiscardHandler)})
	check(t, err)
	return r
}

// arrives puts the layer's files in place, as slipwayd does.
func (r *rig) arrives(t *testing.T, list []ociimage.File) {
	t.Helper()
	full := filepath.Join(r.dir, "full")
	check(t, os.Mkdir(full, 0o755))
	_, err := changeset.ApplyOverlay(t.Context(), full, bytes.NewReader(tarOf(t, list)), changeset.Options{XattrPrefix: "trusted.overlay."})
	check(t, err)
	check(t, os.Rename(full, filepath.Join(r.dir, "fs")))
}

// find looks a path up, waiting.
func (r *rig) find(ctx context.Context, path string) (node int, ok bool, err error) {
	for name := range strings.SplitSeq(path, "/") {
		if node, ok, err = r.Find(ctx, node, name); err != nil || !ok {
			return node, ok, err
		}
	}
	return node, ok, nil
}

func (r *rig) must(t *testing.T, path string) int {
	t.Helper()
	node, ok, err := r.find(t.Context(), path)
	if err != nil || !ok {
		t.Fatalf("%s: %v, %v", path, ok, err)
	}
	return node
}

func (r *rig) content(t *testing.T, path string) string {
	t.Helper()
	i := r.must(t, path)
	p := make([]byte, r.Node(i).Size)
	n, err := r.ReadAt(t.Context(), i, p, 0)
	if err != nil && err != io.EOF {
		t.Fatalf("%s: %v", path, err)
	}
	return string(p[:n])
}

func needsRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("unpacking needs root")
	}
}

// TestLayerComes asks for a layer's files while it comes, and when it has.
func TestLayerComes(t *testing.T) {
	needsRoot(t)
	data := tarOf(t, files())
	r := open(t, t.TempDir(), data, digest.FromBytes(data))
	defer r.Close()
	type answer struct {
		ok  bool
		err error
	}
	absent := make(chan answer, 1)
	go func() {
		_, ok, err := r.find(t.Context(), "bin/nowhere")
		absent <- answer{ok, err}
	}()
	r.src.may <- readBytes
	first := r.must(t, "bin/first")
	if got := r.content(t, "bin/first"); got != "the first" || r.Node(first).Mode != index.FileMode(0o104755) {
		t.Errorf("the first file is %q, %v", got, r.Node(first).Mode)
	}
	large, p := r.must(t, "bin/large"), make([]byte, 1000)
	if n, err := r.ReadAt(t.Context(), large, p, 5000); n != 1000 || err != nil || string(p[:10]) != "0123456789" {
		t.Errorf("the part that has come is %q, %v", p[:n], err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for what, err := range map[string]error{
		"all":  r.AwaitAll(gone),
		"name": func() error { _, _, err := r.find(gone, "link"); return err }(),
		"byte": func() error { _, err := r.ReadAt(gone, large, p, 1<<20); return err }(),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s that is still to come: %v", what, err)
		}
	}
	if _, ok := r.Backing(first); ok || !r.Grows() {
		t.Error("a file that is not verified is given away")
	}
	r.src.all()
	if got := r.content(t, "bin/large"); got != strings.Repeat("0123456789", 1<<17) {
		t.Error("the large file is wrong")
	}
	select {
	case got := <-absent:
		t.Errorf("said of a name %+v before the layer was here", got)
	default:
	}
	r.arrives(t, files())
	if got := <-absent; got.ok || got.err != nil {
		t.Errorf("a name that is not there: %+v", got)
	}
	check(t, r.AwaitAll(t.Context()))
	if now := r.must(t, "bin/first"); now != first || r.must(t, "bin/again") != first || r.must(t, "bin/large") != large || r.Node(first).Nlink != 2 {
		t.Errorf("bin/first was node %d and is %d with %d links", first, now, r.Node(now).Nlink)
	}
	f, ok := r.Backing(first)
	if !ok {
		t.Fatal("a file that is here cannot be read past the server")
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || string(got) != "the first" {
		t.Errorf("it is %q, %v", got, err)
	}
	if got := r.content(t, "last/file"); got != "last" {
		t.Errorf("the last file is %q", got)
	}
	var names []string
	for name := range r.ReadDir(r.must(t, "bin"), 1) {
		names = append(names, name)
	}
	if got := strings.Join(names, " "); got != "first large" {
		t.Errorf("the directory goes on with %q", got)
	}
}

// TestWrongLayer: of a layer that turns out not to be what it should, nothing more is given, also by the next server.
func TestWrongLayer(t *testing.T) {
	right := tarOf(t, files())
	broken := bytes.Clone(right)
	broken[len(broken)/2]++
	for name, c := range map[string]struct {
		data []byte
		kind error
	}{
		"wrong digest":     {broken, errdefs.ErrDataLoss},
		"broken gzip":      {append([]byte{0x1f, 0x8b, 8, 0}, right...), nil},
		"empty":            {[]byte{0}, errdefs.ErrDataLoss},
		"late opaque":      {tarOf(t, []ociimage.File{ociimage.Dir("bin", 0o755), ociimage.Regular("bin/first", 0o755, strings.Repeat("x", readBytes)), ociimage.Opaque("bin")}), index.ErrTakenBack},
		"takes back a dir": {tarOf(t, []ociimage.File{ociimage.Dir("bin", 0o755), ociimage.Regular("bin/first", 0o755, strings.Repeat("x", readBytes)), ociimage.Whiteout("bin")}), index.ErrTakenBack},
	} {
		t.Run(name, func(t *testing.T) {
			dgst := digest.FromBytes(right)
			if c.kind == index.ErrTakenBack {
				dgst = digest.FromBytes(c.data)
			}
			dir := t.TempDir()
			r := open(t, dir, c.data, dgst)
			if int64(len(c.data)) > readBytes && name != "broken gzip" {
				r.src.may <- readBytes
				r.must(t, "bin/first")
			}
			r.src.all()
			err := r.AwaitAll(t.Context())
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) {
				t.Errorf("%v, want %v", err, c.kind)
			}
			if _, _, err := r.find(t.Context(), "bin/first"); err == nil {
				t.Error("tells of it still")
			}
			// The server dies: nothing is closed.
			r.stop()
			r.work.Wait()
			next := open(t, dir, right, digest.FromBytes(right))
			defer next.Close()
			next.src.all()
			if _, _, err := next.find(t.Context(), "bin/first"); !errors.Is(err, errdefs.ErrDataLoss) {
				t.Errorf("the next server says %v", err)
			}
		})
	}
}

// TestNextServer: it shows nothing before it has seen what the one before has, and refuses other bytes.
func TestNextServer(t *testing.T) {
	data := tarOf(t, files())
	other := bytes.Clone(data)
	other[700]++ // in the first file, perhaps
	for name, c := range map[string]struct {
		data []byte
		want error
	}{"the same": {data, nil}, "others": {other, errdefs.ErrDataLoss}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := open(t, dir, data, digest.FromBytes(data))
			r.src.may <- 2 * readBytes
			first := r.must(t, "bin/first")
			check(t, r.wait(t.Context(), func() bool { return r.came > readBytes }))
			r.stop()
			r.work.Wait()

			next := open(t, dir, c.data, digest.FromBytes(data))
			defer next.Close()
			next.src.may <- readBytes
			check(t, next.wait(t.Context(), func() bool { return next.came > 0 }))
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			if err := next.Await(gone, first); !errors.Is(err, context.Canceled) {
				t.Errorf("before it has seen as much: %v", err)
			}
			next.src.may <- 2 * readBytes
			if err := next.Await(t.Context(), first); !errors.Is(err, c.want) || err == nil != (c.want == nil) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if c.want == nil && next.must(t, "bin/first") != first {
				t.Error("it has another number")
			}
		})
	}
}

// TestTrouble: who waits is told when the registry does not deliver, and who asks afterwards waits for the next attempt.
func TestTrouble(t *testing.T) {
	data := tarOf(t, files())
	r := open(t, t.TempDir(), data, digest.FromBytes(data))
	defer r.Close()
	done := make(chan error, 1)
	go func() {
		_, _, err := r.find(t.Context(), "bin")
		done <- err
	}()
	away := fmt.Errorf("away: %w", errdefs.ErrUnavailable)
	for told := false; !told; { // an attempt that fails before somebody waits is nobody's
		select {
		case r.src.errors <- away:
		case err := <-done:
			if told = true; !errors.Is(err, away) {
				t.Errorf("%v, want that it is away", err)
			}
		}
	}
	r.src.all()
	r.must(t, "bin/first")
}

// TestStrangeLayer: what cannot be told while it passes is there when the layer has arrived.
func TestStrangeLayer(t *testing.T) {
	needsRoot(t)
	list := []ociimage.File{
		ociimage.Dir("real", 0o755), ociimage.Regular("real/a", 0o644, "a"), ociimage.Symlink("alias", "real"), ociimage.Regular("implied/b", 0o644, "b"),
		ociimage.Regular("alias/through", 0o644, "through"), ociimage.Regular("after", 0o644, "after"), ociimage.Whiteout("hidden"), ociimage.Regular("real/a", 0o600, "again"),
	}
	data := tarOf(t, list)
	r := open(t, t.TempDir(), data, digest.FromBytes(data))
	defer r.Close()
	r.src.all()
	first := r.must(t, "real/a")
	r.arrives(t, list)
	check(t, r.AwaitAll(t.Context()))
	for path, want := range map[string]string{"real/a": "again", "implied/b": "b", "real/through": "through", "after": "after"} {
		if got := r.content(t, path); got != want {
			t.Errorf("%s is %q", path, got)
		}
	}
	if n := r.Node(r.must(t, "hidden")); n.Mode != index.FileMode(0o020000) || n.Rdev != 0 {
		t.Errorf("the whiteout is %v", n.Mode)
	}
	// The file that was replaced behind what could be told.
	if now := r.must(t, "real/a"); now == first {
		t.Error("a number has two meanings")
	}
	if err := r.Await(t.Context(), first); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("what was replaced: %v", err)
	}
}
