package testsuite

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/storage"
)

// TestWindowsDriver checks what of storage.Driver's contract applies to layers of Windows: those know no owners, modes or devices, nothing is
// in a layer twice or below a link, and layers are mounted by Windows alone. The suite's tars are made into such of Windows on the way in, and
// diffs are made into plain ones.
func TestWindowsDriver(t *testing.T, open func(t *testing.T) storage.Driver) {
	plain := func(t *testing.T) storage.Driver { return windowsTars{open(t)} }
	cases := driverCases()
	maps.Copy(cases, windowsCases())
	names := append(slices.Sorted(maps.Keys(windowsCases())), "GlobalHeader", "WhiteoutAsDevice", "TypesChange", "BigFiles")
	if runtime.GOOS != "windows" { // wine has no links of the kind that layers have, and makes a thousand files in seconds
		names = append(names, "HardLinks", "ManyFiles")
	}
	for _, name := range names {
		t.Run("Apply/"+name, func(t *testing.T) {
			var tars [][]byte
			for _, l := range cases[name] {
				tars = append(tars, Tarball(t, l...))
			}
			driverStack(t, plain(t), tars)
		})
	}
	for name, headers := range hostile() {
		if strings.HasPrefix(name, "Opaque") || name == "ReplaceRootWhiteout" || runtime.GOOS == "windows" {
			continue // names of directories outside are of another form there
		}
		t.Run("Hostile/"+name, func(t *testing.T) {
			out := t.TempDir()
			driverHostile(t, plain(t), replaceOut(t, Tarball(t, headers...), out), out)
		})
	}
	for name, test := range map[string]func(*testing.T, storage.Driver){
		"WriteAndCommit":     driverCommit,
		"Lifecycle":          driverLifecycle,
		"Views":              driverViews,
		"Errors":             driverErrors,
		"CutArchives":        driverCut,
		"ReaderFails":        driverReaderFails,
		"Cancelled":          driverCancelled,
		"DiffIsReproducible": driverReproducible,
		"SideBySide":         func(t *testing.T, d storage.Driver) { driverSideBySideOf(t, d, many(20)) },
		"DeepStack":          func(t *testing.T, d storage.Driver) { driverDeepOf(t, d, 12) }, // Windows itself has a limit above a hundred
	} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" && name == "DiffIsReproducible" {
				t.Skip("times of wine's files are those of their last write")
			}
			test(t, plain(t))
		})
	}
}

// windowsCases are about what layers hide: directories with all in them, by the topmost one, in a directory that the layer has.
func windowsCases() map[string][][]*tar.Header {
	return map[string][][]*tar.Header{
		"Whiteouts": {
			{folder("d"), file("d/a", "a"), file("d/b", "b"), folder("e"), file("e/f/g", "g"), file("top", "x")},
			{folder("d"), gone("d/.wh.a"), gone(".wh.e"), gone(".wh.absent")},
			{file("d/a", "again"), folder("e"), file("e/h", "h")},
		},
		"HiddenDirectories": {
			{folder("d"), file("d/a", "a"), folder("d/e"), file("d/e/b", "b"), folder("d/e/f"), file("d/e/f/c", "c"), folder("keep"), file("keep/k", "k")},
			{gone(".wh.d"), file("keep/new", "x")},
			{folder("d"), file("d/n", "again")},
			{gone("keep/.wh.new"), gone("d/.wh.n")},
			{folder("d"), folder("d/e"), file("d/e/b", "deep")},
			{gone("d/.wh.e")},
		},
	}
}

// simplifier is a driver that keeps less of files than the suite's tars say.
type simplifier interface{ simplify(Tree) Tree }

// windowsTars is a driver of Windows layers that takes and gives plain tars.
type windowsTars struct{ storage.Driver }

func (windowsTars) simplify(t Tree) Tree {
	t = t.Clone()
	for _, n := range t {
		n.UID, n.GID, n.Mode, n.Xattrs = 0, 0, 0, nil
		if n.Type == tar.TypeDir || runtime.GOOS == "windows" { // wine changes times with each write
			n.MTime = t["."].MTime
		}
	}
	if runtime.GOOS == "windows" { // what Windows exports of a layer on others has each name as a file of its own
		for p, n := range t {
			alone := *n
			t[p] = &alone
		}
	}
	return t
}

func (d windowsTars) Apply(ctx context.Context, l storage.Layer, diff io.Reader) (u storage.Usage, err error) {
	err = translated(
		func(w io.Writer) error { return toWindows(w, diff, len(l.Parents) == 0) },
		func(r io.Reader) error { u, err = d.Driver.Apply(ctx, l, r); return err })
	return u, err
}

func (d windowsTars) Diff(ctx context.Context, l storage.Layer, w io.Writer) (err error) {
	return translated(
		func(pw io.Writer) error { return d.Driver.Diff(ctx, l, pw) },
		func(r io.Reader) error { return fromWindows(w, r) })
}

// translated runs both, which a pipe connects. The reader's error is the one that counts: it sees the writer's.
func translated(write func(io.Writer) error, read func(io.Reader) error) error {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(write(w))
	}()
	err := read(r)
	r.CloseWithError(errors.New("nobody reads on"))
	<-done
	return err
}

// hives are what Windows cannot do without, in a base layer and in one on it.
var (
	baseHives  = []string{"DEFAULT", "SAM", "SECURITY", "SOFTWARE", "SYSTEM"}
	childHives = []string{"DefaultUser_Delta", "Sam_Delta", "Security_Delta", "Software_Delta", "System_Delta"}
)

const hiveDir = "Files/Windows/System32/config"

func toWindows(w io.Writer, r io.Reader, base bool) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	dirs := map[string]bool{".": true}
	if err := writeHives(out, dirs, base); err != nil {
		return err
	}
	for {
		h, err := in.Next()
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		h.Name = "Files/" + strings.TrimLeft(strings.TrimPrefix(h.Name, "./"), "/")
		if h.Typeflag == tar.TypeLink {
			h.Linkname = "Files/" + strings.TrimLeft(strings.TrimPrefix(h.Linkname, "./"), "/")
		}
		if err := writeDirs(out, dirs, path.Dir(path.Clean(h.Name))); err != nil {
			return err
		}
		if clean := path.Clean(h.Name); h.Typeflag == tar.TypeDir {
			if dirs[clean] {
				continue
			}
			dirs[clean] = true
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}

// writeDirs writes the directories down to dir that are not there yet.
func writeDirs(out *tar.Writer, dirs map[string]bool, dir string) error {
	if dirs[dir] || dir == "/" || strings.HasPrefix(dir, "..") {
		return nil
	}
	if err := writeDirs(out, dirs, path.Dir(dir)); err != nil {
		return err
	}
	dirs[dir] = true
	return out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
}

func writeHives(out *tar.Writer, dirs map[string]bool, base bool) error {
	dir, names := "Hives", childHives
	if base {
		dir, names = hiveDir, baseHives
	}
	for _, d := range []string{"Files", dir} {
		if err := writeDirs(out, dirs, d); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: dir + "/" + name, Size: 4, Mode: 0o644}); err != nil {
			return err
		}
		if _, err := io.WriteString(out, "regf"); err != nil {
			return err
		}
	}
	return nil
}

// fromWindows takes out what toWindows added, and leaves out the directories of Windows itself.
func fromWindows(w io.Writer, r io.Reader) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return err
		}
		parts := strings.Split(h.Name, "/")
		if len(parts) < 2 || parts[0] != "Files" || slices.Contains([]string{"", "Windows"}, parts[1]) {
			continue
		}
		h.Name = strings.TrimPrefix(h.Name, "Files/")
		if h.Typeflag == tar.TypeLink {
			h.Linkname = strings.TrimPrefix(h.Linkname, "Files/")
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}
