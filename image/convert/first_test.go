package convert

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/testsuite/ociimage"
)

// namesOf are the entries of an archive in order.
func namesOf(t *testing.T, data []byte) []string {
	t.Helper()
	var names []string
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

// TestFirst puts files first and changes nothing else.
func TestFirst(t *testing.T) {
	img := ociimage.Image{Platform: amd64, Layers: []ociimage.Layer{
		{Files: []ociimage.File{
			ociimage.Dir("usr", 0o755), ociimage.Dir("usr/lib", 0o711), ociimage.Regular("usr/lib/other", 0o644, noise(1, 5000)),
			ociimage.Symlink("lib", "usr/lib"), ociimage.Regular("usr/lib/libc.so.6", 0o755, noise(2, 70_000)),
			ociimage.Symlink("usr/lib/libc.so", "/lib/libc.so.6"), ociimage.Hardlink("usr/lib/twin", "usr/lib/other"),
			ociimage.Regular("hidden", 0o644, "below"), ociimage.Symlink("loop", "loop"), ociimage.Regular("etc/config", 0o644, "x"),
		}},
		{Files: []ociimage.File{ociimage.Regular("hidden", 0o644, "above"), ociimage.Dir("usr", 0o700), ociimage.Regular("usr/app", 0o755, noise(3, 10_000))}},
		{Files: []ociimage.File{ociimage.Regular("unneeded", 0o644, "")}},
		{Files: []ociimage.File{ociimage.Regular("twice", 0o644, "a"), ociimage.Regular("twice", 0o644, "b")}},
	}}
	built := build(t, img)
	s := newStore(t, built)
	o := Options{
		Store: s, Target: built.Root, Format: EStargz, TempDir: t.TempDir(),
		First: []string{"/usr/app", "lib/libc.so", "/etc/config", "/hidden", "/none", "/loop", "/usr/lib/twin", "/twice", "/usr/app"},
	}
	r, err := Convert(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	layers, _ := s.layersOf(t, r.Target)
	for i, want := range []string{
		"lib usr/ usr/lib/ usr/lib/libc.so usr/lib/libc.so.6 etc/config loop usr/lib/other usr/lib/twin " + prefetchMark + " hidden " + tableName,
		"usr/ usr/app hidden " + prefetchMark + " " + tableName,
		noPrefetchMark + " unneeded " + tableName,
		noPrefetchMark + " twice twice " + tableName,
	} {
		blob, old := s.blob(t, layers[i]), built.Blobs[built.Layers[i].Digest].Data
		if got := namesOf(t, plainTar(t, blob)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("layer %d: %q", i, got)
		}
		x := located(t, blob, layers[i].Annotations)
		if got := x.PrefetchEnd() > 0; got != (i < 2) {
			t.Errorf("layer %d: prefetch up to %d", i, x.PrefetchEnd())
		}
		a, b := withoutMarks(described(t, x, blob)), described(t, recorded(t, old), old)
		slices.Sort(a)
		slices.Sort(b)
		same(t, "layer", a, b)
		same(t, "unpacked", applied(t, plainTar(t, blob)), applied(t, plainTar(t, old)))
	}
	if left, err := os.ReadDir(o.TempDir); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	s.writes = 0
	if again, err := Convert(t.Context(), o); err != nil || again.Target.Digest != r.Target.Digest || s.writes > 0 {
		t.Errorf("again: %v, %s, %d ingests", err, again.Target.Digest, s.writes)
	}
	o.First = o.First[:1] // another order is another layer
	if other, err := Convert(t.Context(), o); err != nil || other.Target.Digest == r.Target.Digest {
		t.Errorf("with other files first: %v, %s", err, other.Target.Digest)
	}
	// What came first need not any more.
	o.Target, o.First = r.Target, nil
	plain, err := Convert(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	back, _ := s.layersOf(t, plain.Target)
	if names := namesOf(t, plainTar(t, s.blob(t, back[0]))); names[0] != noPrefetchMark || slices.Contains(names, prefetchMark) {
		t.Errorf("names %q", names)
	}
}
