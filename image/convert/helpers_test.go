package convert

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/testsuite"
	"github.com/slipwayd/slipway/testsuite/ociimage"
)

// store is a content store with labels.
type store struct {
	content.Store
	mu     sync.Mutex
	labels map[digest.Digest]map[string]string
	writes int // ingests begun
}

func newStore(t testing.TB, b *ociimage.Built) *store {
	t.Helper()
	s := &store{Store: testsuite.NewMemoryContent(), labels: map[digest.Digest]map[string]string{}}
	for d, blob := range b.Blobs {
		if err := image.WriteBlob(t.Context(), s, ocispec.Descriptor{MediaType: blob.MediaType, Digest: d, Size: int64(len(blob.Data))}, blob.Data, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.writes = 0
	return s
}

func (s *store) Writer(ctx context.Context, ref string, desc ocispec.Descriptor, labels map[string]string) (content.Writer, error) {
	s.mu.Lock()
	s.writes++
	s.mu.Unlock()
	w, err := s.Store.Writer(ctx, ref, desc)
	return labelled{w, s, labels}, err
}

type labelled struct {
	content.Writer
	store  *store
	labels map[string]string
}

func (w labelled) Commit(ctx context.Context, size int64, expected digest.Digest) error {
	if err := w.Writer.Commit(ctx, size, expected); err != nil {
		return err
	}
	return w.store.SetLabels(ctx, expected, w.labels)
}

func (s *store) Abort(ctx context.Context, ref string) error {
	if err := s.Store.Abort(ctx, ref); !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

func (s *store) Labels(ctx context.Context, dgst digest.Digest) (map[string]string, error) {
	if _, err := s.Info(ctx, dgst); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.labels[dgst]), nil
}

func (s *store) SetLabels(ctx context.Context, dgst digest.Digest, labels map[string]string) error {
	if _, err := s.Info(ctx, dgst); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.labels[dgst] == nil {
		s.labels[dgst] = map[string]string{}
	}
	maps.Copy(s.labels[dgst], labels)
	return nil
}

func (s *store) blob(t testing.TB, d ocispec.Descriptor) []byte {
	t.Helper()
	ra, err := s.ReaderAt(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	data := make([]byte, ra.Size())
	if _, err := ra.ReadAt(data, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if ra.Size() != d.Size || digest.FromBytes(data) != d.Digest {
		t.Fatalf("blob of %d bytes, %s", ra.Size(), digest.FromBytes(data))
	}
	return data
}

// ingests are those that are open or left.
func (s *store) ingests(t testing.TB) []content.Ingest {
	t.Helper()
	in, err := s.Ingests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func build(t testing.TB, img interface {
	Build() (*ociimage.Built, error)
}) *ociimage.Built {
	t.Helper()
	b, err := img.Build()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// layersOf answers the only manifest of an image, its layers and its config.
func (s *store) layersOf(t testing.TB, target ocispec.Descriptor) ([]ocispec.Descriptor, ocispec.Image) {
	t.Helper()
	_, m, err := image.Manifest(t.Context(), s, target, &amd64)
	if err != nil {
		t.Fatal(err)
	}
	_, img, err := image.ReadConfig(t.Context(), s, m.Config)
	if err != nil {
		t.Fatal(err)
	}
	return m.Layers, img
}

// noise can be compressed, by less and less.
func noise(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 7))
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(r.IntN(1 + i>>9&63))
	}
	return string(out)
}

func file(typ byte, h tar.Header) ociimage.File {
	h.Typeflag = typ
	return ociimage.File{Header: h}
}

// large is a file of several pieces. Compressing it is most of the time of a test.
func large() []ociimage.File {
	return []ociimage.File{ociimage.Regular("big", 0o644, noise(2, chunkSize+5))}
}

// everything is a layer with all that layers may have, but large files.
func everything() []ociimage.File {
	when := time.Unix(1_600_000_000, 123_456_789)
	su := ociimage.Regular("usr/bin/su", 0o4755, noise(1, 7000))
	su.Uid, su.Gid, su.ModTime, su.Format = 7, 70_000, when, tar.FormatPAX
	su.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00"}
	noted := ociimage.Dir("etc", 0o1777)
	noted.PAXRecords, noted.Format = map[string]string{"SCHILY.xattr.user.note": "a\x00b"}, tar.FormatPAX
	return []ociimage.File{
		ociimage.Dir("./", 0o755), ociimage.Dir("usr", 0o755), ociimage.Dir("usr/bin", 0o711), noted,
		ociimage.Regular("etc/empty", 0o600, ""), ociimage.Regular("etc/<hosts> & \u2028", 0o644, "127.0.0.1 localhost\n"), su,
		ociimage.Symlink("bin", "usr/bin"), ociimage.Hardlink("usr/bin/sudo", "usr/bin/su"), ociimage.Hardlink("usr/bin/third", "usr/bin/sudo"),
		file(tar.TypeChar, tar.Header{Name: "dev/tty", Mode: 0o620, Devmajor: 5, Gid: 5}), file(tar.TypeBlock, tar.Header{Name: "dev/sda", Mode: 0o660, Devmajor: 8, Devminor: 300}),
		file(tar.TypeFifo, tar.Header{Name: "run/pipe", Mode: 0o600}), ociimage.Whiteout("gone/file"), ociimage.Dir("opaque", 0o750),
		ociimage.Opaque("opaque"), ociimage.Regular("opaque/new", 0o644, "x"),
		ociimage.Regular(strings.Repeat("long/", 30)+strings.Repeat("n", 200), 0o644, "deep"), ociimage.Symlink("far", strings.Repeat("t/", 200)),
		ociimage.Hardlink("bin2", "bin"), ociimage.Regular("last", 0o644, noise(3, 10_000)), ociimage.Dir("sticky", 0o3775),
	}
}

// described is a layer's tree, with content, as an index of it has it: a line for each name.
func described(t testing.TB, x *index.Index, blob []byte) []string {
	t.Helper()
	units := map[int][]byte{}
	content := func(i int) (out []byte) {
		for _, e := range x.Extents(i) {
			if units[e.Unit] == nil {
				u := x.Unit(e.Unit)
				data, err := x.Decode(e.Unit, bytes.NewReader(blob[u.Offset:u.Offset+u.Length]))
				if err != nil {
					t.Fatal(err)
				}
				units[e.Unit] = data
			}
			out = append(out, units[e.Unit][e.From:e.From+e.Size]...)
		}
		return out
	}
	var lines []string
	var walk func(i int, name string)
	walk = func(i int, name string) {
		n := x.Node(i)
		line := fmt.Sprintf("%s %v %d:%d %v nlink=%d rdev=%d link=%q %q", name, n.Mode, n.UID, n.GID, n.ModTime.UTC(), n.Nlink, n.Rdev, n.Link, n.Xattrs)
		if n.Mode.IsRegular() {
			data := content(i)
			if got := digest.FromBytes(data); int64(len(data)) != n.Size || n.Content != "" && got != n.Content {
				t.Errorf("%s: %d of %d bytes, digest %s, want %s", name, len(data), n.Size, got, n.Content)
			}
			line += digest.FromBytes(data).String()
		}
		lines = append(lines, line)
		for base, child := range x.ReadDir(i, 0) {
			walk(child, name+"/"+base)
		}
	}
	walk(0, "")
	return lines
}

// recorded is the index of a plain layer.
func recorded(t testing.TB, blob []byte) *index.Index {
	t.Helper()
	x, err := tryRecord(blob)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func tryRecord(blob []byte) (*index.Index, error) {
	r, err := index.NewRecorder(bytes.NewReader(blob), index.Limits{})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if _, err := io.Copy(r, r); err != nil {
		return nil, err
	}
	return r.Finish()
}

// located is the index that a converted layer brings.
func located(t testing.TB, blob []byte, annotations map[string]string) *index.Index {
	t.Helper()
	table, err := index.Locate(annotations, blob[max(0, len(blob)-index.TailSize):], int64(len(blob)))
	if err != nil {
		t.Fatal(err)
	}
	x, err := table.Parse(blob[table.Offset:table.Offset+table.Length], int64(len(blob)), index.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%s: line %d\n got %s\nwant %s", what, i, g, w)
		}
	}
}

// plainTar is a layer without its compression.
func plainTar(t testing.TB, blob []byte) []byte {
	t.Helper()
	r, err := image.Decompress(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// applied is the tree that unpacking tars one after another gives, without what is for lazy readers only.
func applied(t testing.TB, tars ...[]byte) []string {
	t.Helper()
	tree := testsuite.NewTree()
	for _, data := range tars {
		if err := tree.Apply(bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	maps.DeleteFunc(tree, func(name string, _ *testsuite.Node) bool { return readersOnly(name) })
	return slices.Clone(tree.Lines())
}
