package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/internal/changeset"
	"github.com/slipwayd/slipway/storage"
)

// This file is for a driver that serves some layers from elsewhere: ID/fs is a symbolic link then, to where their files are
// mounted, so that mounts of a stack name the same paths whether a layer is here or not.

// fullDir is where the files of a served layer are unpacked before they take the link's place, and the link afterwards.
const fullDir = "full"

// Dir answers the directory of a layer, in which another driver may keep what it needs beside fs, work and full.
func (d *Driver) Dir(id string) (string, error) { return d.root.Path(id) }

// Files answers where Mounts says that a layer's files are, whether there is such a layer or not.
func (d *Driver) Files(id string) string { return filepath.Join(d.root.Dir(), id, "fs") }

// Serve puts a link to target in the place of the layer's files, of which there must be none, or of another link.
func (d *Driver) Serve(id, target string) error {
	files, err := d.files(id)
	if err != nil {
		return err
	}
	if at, ok := d.Served(id); ok && at == target {
		return nil
	} else if !ok {
		if err := empty(files); err != nil {
			return fmt.Errorf("cannot serve layer %s: %w", id, err)
		}
		// Nobody mounts a layer that is being made, so it may be without files for a moment.
		if err := os.Remove(files); err != nil {
			return err
		}
	}
	link := filepath.Join(filepath.Dir(files), "link")
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, link); err != nil {
		return err
	}
	return os.Rename(link, files)
}

// Served answers where the layer's link leads; false when its files are here.
func (d *Driver) Served(id string) (string, bool) {
	files, err := d.files(id)
	if err != nil {
		return "", false
	}
	target, err := os.Readlink(files)
	return target, err == nil
}

// Fill unpacks diff beside a served layer, durably. Exchange then makes it the layer, DropFilled removes it. below, if it is not nil, is
// called when diff has been read: it waits until those below have their files, which are not looked at before.
func (d *Driver) Fill(ctx context.Context, l storage.Layer, diff io.Reader, below func(context.Context) error) (u storage.Usage, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot unpack served layer %s: %w", l.ID, err)
		}
	}()
	dir, err := d.Dir(l.ID)
	if err != nil {
		return u, err
	}
	lower, err := d.lower(l.Parents)
	if err != nil {
		return u, err
	}
	if err := d.DropFilled(l.ID); err != nil {
		return u, err
	}
	full := filepath.Join(dir, fullDir)
	o := changeset.Options{XattrPrefix: d.xattrPrefix, Lower: lower}
	early := o
	if below != nil {
		early.Lower = nil // as of a layer that is pulled in full, beside those below it
	}
	if err := changeset.NewRoot(full, early); err != nil {
		return u, err
	}
	pending, err := changeset.ApplyOverlay(ctx, full, diff, early)
	if err == nil && below != nil {
		err = below(ctx)
	}
	if err == nil {
		err = changeset.Settle(full, pending, o)
	}
	if err == nil {
		err = changeset.Sync(full)
	}
	if err != nil {
		return u, errors.Join(err, d.DropFilled(l.ID))
	}
	return changeset.Usage(ctx, full)
}

// Exchange puts what Fill has unpacked in the place of the link, in one step and durably. Mounts that were made before do not
// notice.
func (d *Driver) Exchange(id string) error {
	dir, err := d.Dir(id)
	if err != nil {
		return err
	}
	if _, served := d.Served(id); !served {
		return fmt.Errorf("cannot exchange the files of layer %s: they are here: %w", id, errdefs.ErrFailedPrecondition)
	}
	full := filepath.Join(dir, fullDir)
	if err := unix.Renameat2(unix.AT_FDCWD, full, unix.AT_FDCWD, filepath.Join(dir, "fs"), unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("cannot exchange the files of layer %s: %w", id, err)
	}
	return errors.Join(syncDir(dir), os.Remove(full))
}

// DropFilled removes what Fill has unpacked, or what a crash left of Exchange.
func (d *Driver) DropFilled(id string) error {
	dir, err := d.Dir(id)
	if err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(dir, fullDir))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Pending says whether layer id was unpacked and not settled yet.
func (d *Driver) Pending(id string) (bool, error) {
	own, err := d.files(id)
	if err != nil {
		return false, err
	}
	_, err = os.Lstat(filepath.Join(filepath.Dir(own), pendingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Settle finishes layer id, as far as it was unpacked before those below it were known; they must be settled.
func (d *Driver) Settle(id string, parents []string) error {
	own, err := d.files(id)
	if err != nil {
		return err
	}
	lower, err := d.lower(parents)
	if err != nil {
		return err
	}
	return d.settleOne(own, lower)
}

// Sync makes what is in a layer's directory durable.
func (d *Driver) Sync(id string) error {
	dir, err := d.Dir(id)
	if err != nil {
		return err
	}
	return changeset.Sync(dir)
}

// Below answers what the layers parents, nearest first, show at a path.
func (d *Driver) Below(parents []string, path string) (*changeset.Attributes, bool, error) {
	lower, err := d.lower(parents)
	if err != nil {
		return nil, false, err
	}
	return changeset.Look(path, changeset.Options{XattrPrefix: d.xattrPrefix, Lower: lower})
}
