package windowsfilter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/Microsoft/go-winio"
	"github.com/Microsoft/hcsshim"
	"github.com/Microsoft/hcsshim/pkg/ociwclayer"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/windows"
)

// hcsHost is the Host that Windows' own functions for layers make, which hcsshim calls.
type hcsHost struct{ temps *temps }

// NewHost answers the Host of this machine. It gives the process, for good, the privileges that reading and writing of foreign
// files' owners, access lists and contents takes; PermissionDenied when it cannot have them. In the directory notes, which it makes and no
// other process may use, it keeps what the next NewHost has to delete after a crash, and deletes that.
func NewHost(notes string) (Host, error) {
	err := winio.EnableProcessPrivileges([]string{winio.SeBackupPrivilege, winio.SeRestorePrivilege, winio.SeSecurityPrivilege})
	if err != nil {
		return nil, fmt.Errorf("layers need the backup, restore and security privileges, run as administrator: %w: %w", err, errdefs.ErrPermissionDenied)
	}
	t, err := openTemps(notes)
	return hcsHost{t}, err
}

// info and id name a directory for hcsshim's functions, which take it in two parts.
func info(dir string) hcsshim.DriverInfo { return hcsshim.DriverInfo{HomeDir: filepath.Dir(dir)} }
func id(dir string) string               { return filepath.Base(dir) }

func (h hcsHost) Import(ctx context.Context, tar io.Reader, dir string, parents []string) error {
	return kind(h.temps.during(tar, func(tar io.Reader) error {
		_, err := ociwclayer.ImportLayerFromTar(ctx, tar, dir, parents)
		return err
	}))
}

// Export prepares a scratch once, as Windows does not read one that no container has begun with.
func (hcsHost) Export(ctx context.Context, w io.Writer, dir string, parents []string) error {
	if exists(filepath.Join(dir, scratchDisk)) {
		return kind(ociwclayer.ExportLayerToTar(ctx, w, dir, parents))
	}
	return kind(exportReadOnly(ctx, w, dir, parents))
}

func (hcsHost) MakeScratch(_ context.Context, dir string, parents []string) error {
	return kind(hcsshim.CreateScratchLayer(info(dir), id(dir), filepath.Base(parents[0]), parents))
}

func (hcsHost) Expand(_ context.Context, dir string, size uint64) error {
	return kind(hcsshim.ExpandScratchSize(info(dir), id(dir), size))
}

// Detach undoes what preparing and activating did. Which of both a crash left is not known, so what cannot be undone is no error as long as
// something could.
func (hcsHost) Detach(dir string) error {
	unprepared := hcsshim.UnprepareLayer(info(dir), id(dir))
	deactivated := hcsshim.DeactivateLayer(info(dir), id(dir))
	if unprepared != nil && deactivated != nil {
		return kind(deactivated)
	}
	return nil
}

func (hcsHost) Destroy(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return kind(hcsshim.DestroyLayer(info(dir), id(dir)))
}

// Sync flushes the whole volume, as syncfs does, because a layer has very many files; where that cannot be, these one by one.
func (hcsHost) Sync(dir string) error {
	if flushVolume(dir) == nil {
		return nil
	}
	return flushFiles(dir)
}

func flushVolume(dir string) error {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return err
	}
	var root [windows.MAX_PATH + 1]uint16
	if err := windows.GetVolumePathName(path, &root[0], uint32(len(root))); err != nil {
		return err
	}
	var name [64]uint16 // \\?\Volume{GUID}\ and a zero
	if err := windows.GetVolumeNameForVolumeMountPoint(&root[0], &name[0], uint32(len(name))); err != nil {
		return err
	}
	volume := strings.TrimSuffix(windows.UTF16ToString(name[:]), `\`) // itself, not its root directory
	at, err := windows.UTF16PtrFromString(volume)
	if err != nil {
		return err
	}
	h, err := windows.CreateFile(at, windows.GENERIC_READ|windows.GENERIC_WRITE, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE, nil, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		return err
	}
	defer windows.CloseHandle(h)
	return windows.FlushFileBuffers(h)
}

// flushFiles makes files durable one by one.
func flushFiles(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := winio.OpenForBackup(path, windows.GENERIC_READ|windows.GENERIC_WRITE, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE, windows.OPEN_EXISTING)
		if err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return errors.Join(fmt.Errorf("cannot flush %s: %w", path, err), f.Close())
		}
		return f.Close()
	})
}

// kind gives errors of Windows the kind that callers look for.
func kind(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), hcsshim.IsNotExist(err):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case errors.Is(err, windows.ERROR_SHARING_VIOLATION), errors.Is(err, windows.ERROR_LOCK_VIOLATION), errors.Is(err, windows.ERROR_BUSY):
		return fmt.Errorf("%w: it is in use: %w", err, errdefs.ErrUnavailable)
	case errors.Is(err, windows.ERROR_DISK_FULL), errors.Is(err, windows.ERROR_HANDLE_DISK_FULL):
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	case hcsshim.IsAccessIsDenied(err):
		return fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	}
	return err
}
