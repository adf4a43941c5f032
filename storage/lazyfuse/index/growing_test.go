package index

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/testsuite/ociimage"
)

// known lists which of the paths a growing tree tells of.
func known(g *Growing, paths ...string) (out []string) {
	for _, path := range paths {
		at, ok := 0, true
		for name := range strings.SplitSeq(path, "/") {
			if at, ok = g.Lookup(at, name); !ok {
				break
			}
		}
		if ok {
			out = append(out, path)
		}
	}
	return out
}

func grow(t *testing.T) *Growing {
	t.Helper()
	x, err := Empty(1)
	if err != nil {
		t.Fatal(err)
	}
	return NewGrowing(x, Limits{})
}

// TestGrowingTellsWhatIsCertain: only what no later entry but one of the same name can take away.
func TestGrowingTellsWhatIsCertain(t *testing.T) {
	for name, c := range map[string]struct {
		files []ociimage.File
		ask   []string
		want  []string
	}{
		"files":     {[]ociimage.File{ociimage.Regular("a", 0o644, "x"), ociimage.Symlink("b", "a"), ociimage.Hardlink("c", "a")}, []string{"a", "b", "c", "d"}, []string{"a", "b", "c"}},
		"last":      {[]ociimage.File{ociimage.Dir("a", 0o755), ociimage.Dir("b", 0o755)}, []string{"a", "b"}, []string{"a"}},
		"implied":   {[]ociimage.File{ociimage.Regular("a/b", 0o644, "x")}, []string{"a", "a/b"}, nil},
		"described": {[]ociimage.File{ociimage.Regular("a/b", 0o644, "x"), ociimage.Dir("a", 0o755), ociimage.Regular("c", 0o644, "")}, []string{"a", "a/b"}, []string{"a", "a/b"}},
		"whiteout":  {[]ociimage.File{ociimage.Whiteout("a"), ociimage.Regular("b", 0o644, "")}, []string{"a", ".wh.a", "b"}, []string{"b"}},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := ociimage.TarBytes(c.files)
			if err != nil {
				t.Fatal(err)
			}
			g := grow(t)
			if g.Begun() {
				t.Error("began before the first entry")
			}
			for _, b := range data[:len(data)-2*block] { // the archive's end says nothing more
				_, _ = g.Write([]byte{b})
			}
			if got := known(g, c.ask...); !slices.Equal(got, c.want) || g.Err() != nil || !g.Begun() {
				t.Errorf("knows %v, want %v; %v", got, c.want, g.Err())
			}
		})
	}
}

// TestGrowingOpaque: a directory is opaque when it is first seen, or the layer takes back what it said.
func TestGrowingOpaque(t *testing.T) {
	after := []ociimage.File{ociimage.Regular("b", 0o644, "")}
	for name, c := range map[string]struct {
		files []ociimage.File
		look  bool // before the last of files
		err   error
	}{
		"at once":          {[]ociimage.File{ociimage.Dir("a", 0o755), ociimage.Opaque("a")}, true, nil},
		"late":             {[]ociimage.File{ociimage.Dir("a", 0o755), ociimage.Regular("a/x", 0o644, ""), ociimage.Opaque("a")}, true, ErrTakenBack},
		"late, not seen":   {[]ociimage.File{ociimage.Dir("a", 0o755), ociimage.Regular("a/x", 0o644, ""), ociimage.Opaque("a")}, false, nil},
		"late by whiteout": {[]ociimage.File{ociimage.Dir("a", 0o755), ociimage.Regular("a/x", 0o644, ""), ociimage.Whiteout("a")}, true, ErrTakenBack},
	} {
		t.Run(name, func(t *testing.T) {
			g := grow(t)
			write := func(files []ociimage.File) {
				data, err := ociimage.TarBytes(files)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = g.Write(data[:len(data)-2*block])
			}
			last := len(c.files) - 1
			write(c.files[:last])
			if c.look {
				g.Lookup(0, "a")
			}
			write(c.files[last:])
			write(after)
			if err := g.Err(); !errors.Is(err, c.err) {
				t.Fatalf("%v, want %v", err, c.err)
			}
			if c.err != nil {
				return
			}
			at, ok := g.Lookup(0, "a")
			if !ok || g.Node(at).Xattrs[opaqueXattr] != "y" {
				t.Errorf("it is there: %v, with %v", ok, g.Node(at).Xattrs)
			}
		})
	}
}

// TestGrowingNumbersAlike: the same bytes give the same numbers, in whatever pieces they come, and a name that is replaced gets another.
func TestGrowingNumbersAlike(t *testing.T) {
	data, err := ociimage.TarBytes([]ociimage.File{ociimage.Dir("d", 0o755), ociimage.Regular("d/a", 0o644, "first"), ociimage.Regular("b", 0o600, strings.Repeat("y", 3000)),
		ociimage.Regular("d/a", 0o644, "second")})
	if err != nil {
		t.Fatal(err)
	}
	whole, pieces := grow(t), grow(t)
	_, _ = whole.Write(data)
	first := 0
	for _, b := range data {
		_, _ = pieces.Write([]byte{b})
		if dir, ok := pieces.Lookup(0, "d"); ok && first == 0 {
			first, _ = pieces.Lookup(dir, "a")
		}
	}
	for _, g := range []*Growing{whole, pieces} {
		dir, _ := g.Lookup(0, "d")
		a, ok := g.Lookup(dir, "a")
		if !ok || a == first || string(data[g.Place(a):][:g.Node(a).Size]) != "second" {
			t.Errorf("d/a is node %d, and was %d", a, first)
		}
	}
	if whole.Len() != pieces.Len() {
		t.Errorf("%d nodes, or %d", whole.Len(), pieces.Len())
	}
}

// FuzzGrowing: whatever passes, and in whatever pieces, gives a tree that can be walked, and the same one.
func FuzzGrowing(f *testing.F) {
	for _, files := range [][]ociimage.File{
		{ociimage.Dir("d", 0o755), ociimage.Regular("d/a", 0o644, "first"), ociimage.Opaque("d"), ociimage.Whiteout("d"), ociimage.Regular("d/a", 0o644, "second")},
		{ociimage.Symlink("l", "d"), ociimage.Hardlink("h", "l"), ociimage.Regular("l/x", 0o644, "")},
	} {
		data, err := ociimage.TarBytes(files)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, uint16(100))
	}
	f.Fuzz(func(t *testing.T, data []byte, piece uint16) {
		whole, pieces := grow(t), grow(t)
		_, _ = whole.Write(data)
		for rest := data; len(rest) > 0; {
			n := min(len(rest), int(piece)+1)
			_, _ = pieces.Write(rest[:n])
			rest = rest[n:]
		}
		if whole.Len() != pieces.Len() || (whole.Err() == nil) != (pieces.Err() == nil) {
			t.Fatalf("%d nodes and %v at once, %d and %v in pieces", whole.Len(), whole.Err(), pieces.Len(), pieces.Err())
		}
		for i := range whole.Len() {
			a, b := whole.Node(i), pieces.Node(i)
			if a.Mode != b.Mode || a.Size != b.Size || a.Link != b.Link {
				t.Fatalf("node %d is %+v, or %+v", i, a, b)
			}
			if a.Mode.IsRegular() && a.Size > 0 && (whole.Place(i) < 0 || whole.Place(i) > int64(len(data))) {
				t.Fatalf("file %d begins at %d of %d", i, whole.Place(i), len(data))
			}
			_, _ = whole.Lookup(i, "a")
		}
	})
}
