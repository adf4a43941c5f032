package hcs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/Microsoft/hcsshim"
	"golang.org/x/sys/windows"
)

func driverInfo(path string) (hcsshim.DriverInfo, string) {
	return hcsshim.DriverInfo{HomeDir: filepath.Dir(path)}, filepath.Base(path)
}

func (h *local) Mount(ctx context.Context, l Layers) (string, error) {
	info, id := driverInfo(l.Scratch)
	if l.Size > 0 {
		if err := hcsshim.ExpandSandboxSize(info, id, l.Size); err != nil {
			return "", classify(err)
		}
	}
	err := prepare(info, id, l.Parents)
	// A disk that was just attached is not always there at once (seen by others on Windows Server 2019 under load).
	for range 5 {
		if n := code(err); n != windows.ERROR_NOT_READY && n != errNotConnected {
			break
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		err = prepare(info, id, l.Parents)
	}
	if err != nil {
		return "", classify(err)
	}
	volume, err := hcsshim.GetLayerMountPath(info, id)
	if err != nil {
		return "", classify(errors.Join(err, hcsshim.UnprepareLayer(info, id), hcsshim.DeactivateLayer(info, id)))
	}
	return trimBackslash(volume), nil
}

func trimBackslash(path string) string {
	if n := len(path); n > 0 && path[n-1] == '\\' {
		return path[:n-1]
	}
	return path
}

// prepare attaches the disk of the scratch layer and has the filter show its parents through it.
func prepare(info hcsshim.DriverInfo, id string, parents []string) error {
	if err := hcsshim.ActivateLayer(info, id); err != nil {
		return err
	}
	if err := hcsshim.PrepareLayer(info, id, parents); err != nil {
		return errors.Join(err, hcsshim.DeactivateLayer(info, id))
	}
	return nil
}

func (h *local) Unmount(ctx context.Context, scratch string) error {
	if _, err := os.Stat(scratch); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	info, id := driverInfo(scratch)
	err := errors.Join(hcsshim.UnprepareLayer(info, id), hcsshim.DeactivateLayer(info, id))
	if err == nil {
		return nil
	}
	if volume, gone := hcsshim.GetLayerMountPath(info, id); gone != nil || !strings.HasPrefix(volume, `\\?\Volume{`) {
		return nil // it was not mounted
	}
	return classify(err)
}
