//go:build !windows

package windowsfilter

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite"
)

// fakeHost does with layers what Windows does, on any system, as far as the driver sees: it unpacks into directories, keeps the tar for Export,
// and its virtual disks are tars of what was written. Of what hcsshim would refuse it refuses what the driver must have seen before.
type fakeHost struct {
	mu    sync.Mutex
	calls []string         // "Import 1", with the last part of the directory
	fail  map[string]error // by method
}

func (h *fakeHost) call(method, dir string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, method+" "+filepath.Base(dir))
	return h.fail[method]
}

const keptTar = "layer.tar"

func (h *fakeHost) Import(ctx context.Context, r io.Reader, dir string, parents []string) (err error) {
	if err := h.call("Import", dir); err != nil {
		return err
	}
	kept, err := os.Create(filepath.Join(dir, keptTar))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, kept.Close()) }()
	in := tar.NewReader(io.TeeReader(r, kept))
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := unpackEntry(in, e, dir, parents); err != nil {
			return fmt.Errorf("the driver let pass %s: %w", e.Name, err)
		}
	}
	if len(parents) > 0 {
		return nil
	}
	for _, hive := range []string{"DEFAULT", "SAM", "SECURITY", "SOFTWARE", "SYSTEM"} {
		if _, err := os.Lstat(filepath.Join(dir, "Files/Windows/System32/config", hive)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, templateDisk), emptyDisk(), 0o600)
}

func unpackEntry(in io.Reader, e *tar.Header, dir string, parents []string) error {
	at := filepath.Join(dir, e.Name)
	if strings.HasPrefix(path.Base(e.Name), whiteout) {
		if len(parents) == 0 {
			return errors.New("base layer cannot have tombstones")
		}
		return nil
	}
	switch e.Typeflag {
	case tar.TypeDir:
		return os.Mkdir(at, 0o700)
	case tar.TypeSymlink:
		return os.Symlink(e.Linkname, at)
	case tar.TypeLink:
		err := os.Link(filepath.Join(dir, e.Linkname), at)
		for _, p := range parents {
			if !errors.Is(err, os.ErrNotExist) {
				break
			}
			err = os.Link(filepath.Join(p, e.Linkname), at)
		}
		return err
	}
	f, err := os.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	return errors.Join(err, f.Close())
}

// emptyDisk is the tar of a disk on which nothing was written.
func emptyDisk() []byte {
	return disk(&tar.Header{Typeflag: tar.TypeDir, Name: "Files"}, &tar.Header{Typeflag: tar.TypeDir, Name: "Hives"}, &tar.Header{Typeflag: tar.TypeReg, Name: "Hives/System_Delta"})
}

func disk(entries ...*tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(e); err != nil {
			panic(err)
		}
	}
	w.Close()
	return b.Bytes()
}

func (h *fakeHost) Export(ctx context.Context, w io.Writer, dir string, parents []string) error {
	if err := errors.Join(h.call("Export", dir), ctx.Err()); err != nil {
		return err
	}
	name := keptTar
	if exists(filepath.Join(dir, scratchDisk)) {
		name = scratchDisk
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

func (h *fakeHost) MakeScratch(_ context.Context, dir string, _ []string) error {
	return errors.Join(h.call("MakeScratch", dir), os.WriteFile(filepath.Join(dir, scratchDisk), emptyDisk(), 0o600))
}

func (h *fakeHost) Expand(_ context.Context, dir string, size uint64) error {
	return h.call(fmt.Sprintf("Expand %d", size), dir)
}

func (h *fakeHost) Detach(dir string) error { return h.call("Detach", dir) }
func (h *fakeHost) Sync(dir string) error   { return h.call("Sync", dir) }

func (h *fakeHost) Destroy(dir string) error {
	if err := h.call("Destroy", dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func openFake(t testing.TB) (*Driver, *fakeHost) {
	t.Helper()
	host := &fakeHost{fail: map[string]error{}}
	d, err := New(t.TempDir(), host)
	if err != nil {
		t.Fatal(err)
	}
	return d, host
}

func TestDriver(t *testing.T) {
	testsuite.TestWindowsDriver(t, func(t *testing.T) storage.Driver {
		d, _ := openFake(t)
		return d
	})
}
