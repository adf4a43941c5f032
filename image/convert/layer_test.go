package convert

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	lib "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"github.com/slipwayd/slipway/testsuite/ociimage"
)

// BenchmarkLayer converts $SLIPWAY_LAYER, a layer of a real image.
func BenchmarkLayer(b *testing.B) {
	name := os.Getenv("SLIPWAY_LAYER")
	if name == "" {
		b.Skip("SLIPWAY_LAYER names no layer")
	}
	blob, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range formats {
		b.Run(string(f), func(b *testing.B) {
			c := newConverter(b, f)
			for b.Loop() {
				r, err := image.Decompress(bytes.NewReader(blob))
				if err != nil {
					b.Fatal(err)
				}
				made, size := convertTo(b, c, r)
				b.SetBytes(made.size)
				b.ReportMetric(float64(size)/float64(len(blob)), "ratio")
			}
		})
	}
}

// convertTo converts one uncompressed layer and answers what it became.
func convertTo(t testing.TB, c *converter, r io.Reader) (written, int64) {
	t.Helper()
	var out counter
	made, err := tryConvert(c, r, &out)
	if err != nil {
		t.Fatal(err)
	}
	return made, int64(out)
}

func tryConvert(c *converter, r io.Reader, out io.Writer) (written, error) {
	f, err := c.format()
	if err != nil {
		return written{}, err
	}
	w := newWriter(out, f)
	if err = c.leading(context.Background(), &job{}, w); err == nil {
		err = w.archive(r, nil)
	}
	if err != nil {
		w.abandon()
		return written{}, err
	}
	return w.end(out)
}

// TestLibrary has the library of eStargz check a layer of ours, all of its digests too.
func TestLibrary(t *testing.T) {
	plain, err := ociimage.TarBytes(append(large(), everything()...))
	if err != nil {
		t.Fatal(err)
	}
	var blob bytes.Buffer
	made, err := tryConvert(newConverter(t, EStargz), bytes.NewReader(plain), &blob)
	if err != nil {
		t.Fatal(err)
	}
	r, err := lib.Open(io.NewSectionReader(bytes.NewReader(blob.Bytes()), 0, int64(blob.Len())))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := r.VerifyTOC(digest.Digest(made.annotations[tableAnnotation]))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"big", "usr/bin/su"} {
		e, ok := r.Lookup(name)
		if !ok {
			t.Fatalf("no %s", name)
		}
		for offset := int64(0); offset < e.Size; {
			chunk, ok := r.ChunkEntryForOffset(name, offset)
			if !ok {
				t.Fatalf("%s: nothing at %d", name, offset)
			}
			sr, err := r.OpenFile(name)
			if err != nil {
				t.Fatal(err)
			}
			v, err := verifier.Verifier(chunk)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(v, io.NewSectionReader(sr, offset, chunk.ChunkSize)); err != nil || !v.Verified() {
				t.Errorf("%s at %d: %v", name, offset, err)
			}
			offset += chunk.ChunkSize
		}
	}
}

// TestKept leaves layers alone that a table would not describe truly.
func TestKept(t *testing.T) {
	old := ociimage.Regular("old", 0o644, "1")
	latin := ociimage.Regular("latin \xe4", 0o644, "x")
	latin.Format = tar.FormatGNU
	for name, files := range map[string][]ociimage.File{
		"file replaced by directory": {old, ociimage.Dir("old", 0o755)},
		"directory replaced by file": {ociimage.Regular("old/x", 0o644, ""), old},
		"below a link":               {ociimage.Symlink("a", "b"), ociimage.Regular("a/x", 0o644, "")},
		"directory becomes a link":   {ociimage.Regular("a/x", 0o644, ""), ociimage.Symlink("a", "b")},
		"replaced with another name": {old, ociimage.Hardlink("link", "old"), ociimage.Regular("old", 0o644, "2")},
		"hard link to what is later": {ociimage.Hardlink("link", "old"), old},
		"hard link to a directory":   {ociimage.Dir("d", 0o755), ociimage.Hardlink("link", "d")},
		"hard link to itself":        {ociimage.Hardlink("link", "link")},
		"absolute name":              {ociimage.Regular("/abs", 0o644, "")},
		"name that leads out":        {ociimage.Regular("a/../../b", 0o644, "")},
		"name that is not UTF-8":     {latin},
		"root that is a file":        {ociimage.Regular(".", 0o644, "")},
	} {
		t.Run(name, func(t *testing.T) {
			built := build(t, ociimage.Image{Platform: amd64, Format: ociimage.Docker, Layers: []ociimage.Layer{{Files: files}, {Files: []ociimage.File{old}}}})
			for _, f := range formats {
				s := newStore(t, built)
				r, err := Convert(t.Context(), Options{Store: s, Target: built.Root, Format: f})
				if err != nil {
					t.Fatal(err)
				}
				layers, img := s.layersOf(t, r.Target)
				l := layers[0]
				if len(r.Kept) != 1 || r.Kept[l.Digest] == "" || l.Digest != built.Layers[0].Digest || l.MediaType != ocispec.MediaTypeImageLayerGzip || img.RootFS.DiffIDs[0] != built.DiffIDs[0] {
					t.Errorf("%s: kept %v, layer %+v", f, r.Kept, l)
				}
				if layers[1].Digest == built.Layers[1].Digest || len(s.ingests(t)) > 0 {
					t.Errorf("%s: layers %+v, ingests %v", f, layers, s.ingests(t))
				}
			}
		})
	}
	archives, err := filepath.Glob("../../internal/changeset/testdata/sparse-*.tar.gz")
	if err != nil || len(archives) == 0 {
		t.Fatal("no archives with sparse files: ", err)
	}
	for _, name := range archives {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range formats {
			_, err := tryConvert(newConverter(t, f), bytes.NewReader(plainTar(t, data)), io.Discard)
			if !errors.As(err, new(unfit)) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// newConverter can convert layers.
func newConverter(t testing.TB, f Format) *converter {
	t.Helper()
	encoder, err := newEncoder()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = encoder.Close() })
	return &converter{Options: Options{Format: f}, encoder: encoder}
}

// TestDamaged refuses what is no archive, or ends too early, and what has endless headers.
func TestDamaged(t *testing.T) {
	plain, err := ociimage.TarBytes(append(large(), everything()...))
	if err != nil {
		t.Fatal(err)
	}
	var endless bytes.Buffer
	comment := strings.Repeat("x", 900_000)
	for range 6 {
		record := fmt.Sprintf("%d comment=%s\n", len(comment)+16, comment)
		h, err := ociimage.TarBytes([]ociimage.File{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "x"}, Body: []byte(record)}})
		if err != nil {
			t.Fatal(err)
		}
		h[156] = tar.TypeXHeader
		sum := 8 * int(' ')
		for i, c := range h[:block] {
			if i < 148 || i >= 156 {
				sum += int(c)
			}
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		endless.Write(h[:len(h)-2*block])
	}
	for name, data := range map[string][]byte{
		"cut in a file": plain[:100_000], "cut in a header": plain[:700], "no archive": bytes.Repeat([]byte("no archive "), 100), "endless headers": endless.Bytes(),
	} {
		for _, f := range formats {
			if _, err := tryConvert(newConverter(t, f), bytes.NewReader(data), io.Discard); !errdefs.IsInvalidArgument(err) && !errdefs.IsOutOfRange(err) {
				t.Errorf("%s, %s: %v", name, f, err)
			}
		}
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// FuzzLayer converts any archive. What it gives is what index reads, with the tree that index sees in the archive itself.
func FuzzLayer(f *testing.F) {
	small := slices.DeleteFunc(everything(), func(f ociimage.File) bool { return len(f.Body) > 1000 || f.Typeflag == tar.TypeLink })
	for _, files := range [][]ociimage.File{
		small, {ociimage.Regular("a", 0o644, "x"), ociimage.Hardlink("b", "a"), ociimage.Whiteout("c"), ociimage.Regular("a", 0o644, "y")},
		{ociimage.Regular(tableName, 0o644, "{}"), ociimage.Dir("./d/", 0o755), ociimage.Regular(prefetchMark, 0o644, "")},
	} {
		plain, err := ociimage.TarBytes(files)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
	}
	c := newConverter(f, "")
	f.Fuzz(func(t *testing.T, plain []byte) {
		for _, format := range formats {
			var out bytes.Buffer
			made, err := tryConvert(&converter{Options: Options{Format: format}, encoder: c.encoder}, bytes.NewReader(plain), &out)
			if err != nil {
				continue
			}
			if got := digest.FromBytes(plainTar(t, out.Bytes())); got != made.diffID {
				t.Fatalf("%s: diff ID %s, said to be %s", format, got, made.diffID)
			}
			want, err := tryRecord(plain)
			if err != nil {
				continue // what index refuses for itself
			}
			table, err := index.Locate(made.annotations, out.Bytes(), int64(out.Len()))
			if err != nil {
				t.Fatal(err)
			}
			x, err := table.Parse(out.Bytes()[table.Offset:table.Offset+table.Length], int64(out.Len()), index.Limits{})
			if err != nil {
				t.Fatalf("%s: %v", format, err)
			}
			got, tree := withoutMarks(described(t, x, out.Bytes())), withoutMarks(described(t, want, plain))
			slices.Sort(got)
			slices.Sort(tree)
			same(t, string(format), got, tree)
		}
	})
}

// withoutMarks leaves out what eStargz has in a layer for itself: a converter takes the old out, and puts its own in.
func withoutMarks(lines []string) []string {
	return slices.DeleteFunc(lines, func(line string) bool {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "/"), " ")
		return readersOnly(name)
	})
}
