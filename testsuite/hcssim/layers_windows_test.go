package hcssim

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/Microsoft/go-winio"
	"github.com/Microsoft/hcsshim"
	"github.com/Microsoft/hcsshim/pkg/ociwclayer"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/winimage"
)

// privileged does what needs the rights to back up and to restore files.
func privileged(t *testing.T, f func() error) {
	t.Helper()
	if err := winio.EnableProcessPrivileges([]string{winio.SeBackupPrivilege, winio.SeRestorePrivilege, winio.SeSecurityPrivilege}); err != nil {
		t.Fatal(err)
	}
	if err := f(); err != nil {
		t.Fatal(err)
	}
}

// unpack imports a layer through hcsshim.
func unpack(t *testing.T, l ociimage.Layer, dir string, parents ...string) {
	t.Helper()
	b, err := ociimage.TarBytes(l.Files)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	privileged(t, func() error {
		_, err := ociwclayer.ImportLayerFromTar(context.Background(), bytes.NewReader(b), dir, parents)
		return err
	})
}

// pack exports a layer through hcsshim and lists the names in its tar.
func pack(t *testing.T, dir string, parents ...string) (names []string) {
	t.Helper()
	var b bytes.Buffer
	privileged(t, func() error { return ociwclayer.ExportLayerToTar(context.Background(), &b, dir, parents) })
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			sort.Strings(names)
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeDir && strings.HasPrefix(h.Name, "Files/") {
			names = append(names, strings.TrimPrefix(h.Name, "Files/"))
		}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Layers go in and come out as they were, a container sees them and the mapped directory, and what it wrote is its scratch's.
func TestLayers(t *testing.T) {
	root := t.TempDir()
	base, top, scratch := filepath.Join(root, "base"), filepath.Join(root, "top"), filepath.Join(root, "scratch")
	img := winimage.Image("10.0.20348.2000")
	unpack(t, img.Layers[0], base)
	unpack(t, img.Layers[1], top, base)
	if got := strings.Join(pack(t, top, base), " "); got != ".wh.gone.txt hello.txt new.txt" {
		t.Errorf("the layer came back with %s", got)
	}

	di, parents := hcsshim.DriverInfo{HomeDir: root}, []string{top, base}
	must(t, hcsshim.CreateScratchLayer(di, "scratch", top, parents), hcsshim.ExpandScratchSize(di, "scratch", 30<<30),
		hcsshim.ActivateLayer(di, "scratch"), hcsshim.PrepareLayer(di, "scratch", parents))
	volume, err := hcsshim.GetLayerMountPath(di, "scratch")
	must(t, err)
	if b, err := os.ReadFile(volume + `\hello.txt`); string(b) != "hello from the top\r\n" {
		t.Errorf("through the volume: %q, %v", b, err)
	}
	if hcsshim.DestroyLayer(di, "scratch") == nil {
		t.Fatal("a mounted scratch is destroyed")
	}
	c := config("layers")
	c.VolumePath = volume
	shared := t.TempDir()
	must(t, os.WriteFile(filepath.Join(shared, "given.txt"), []byte("given"), 0o644))
	c.MappedDirectories = []hcsshim.MappedDir{{HostPath: shared, ContainerPath: `C:\shared`}}
	s := start(t, c)
	for line, want := range map[string]string{
		`cmd /c type C:\hello.txt`:                  "hello from the top\r\n",
		`cmd /c type new.txt`:                       "10.0.20348.2000\r\n",
		`cmd /c type "C:\shared\given.txt"`:         "given",
		`cmd /c echo kept>C:\made.txt`:              "",
		`cmd /c if exist C:\gone.txt echo is there`: "",
	} {
		if got, _ := output(t, s, line, ""); got != want {
			t.Errorf("%s says %q, want %q", line, got, want)
		}
	}
	if err := s.Terminate(); err != nil && !hcsshim.IsPending(err) {
		t.Fatal(err)
	}
	must(t, s.Wait(), hcsshim.UnprepareLayer(di, "scratch"), hcsshim.DeactivateLayer(di, "scratch"))
	if got := strings.Join(pack(t, scratch, top, base), " "); got != "made.txt" {
		t.Errorf("the scratch has %s", got)
	}
	must(t, hcsshim.DestroyLayer(di, "scratch"))
	if _, err := os.Stat(volume + `\`); err == nil {
		t.Error("the volume of a destroyed scratch is there")
	}

	c.MappedDirectories[0].HostPath = filepath.Join(root, "none")
	if _, err := hcsshim.CreateContainer("layers", c); err == nil {
		t.Error("a directory that isn't there is mapped")
	}
}

func TestReservedName(t *testing.T) {
	root := t.TempDir()
	base, bad := filepath.Join(root, "base"), filepath.Join(root, "bad")
	unpack(t, winimage.Base(), base)
	b, err := ociimage.TarBytes(winimage.Child(winimage.File("CON", "x")).Files)
	must(t, err, os.MkdirAll(bad, 0o755))
	privileged(t, func() error {
		if _, err := ociwclayer.ImportLayerFromTar(context.Background(), bytes.NewReader(b), bad, []string{base}); err == nil {
			t.Error("a file named CON is imported")
		}
		return nil
	})
}
