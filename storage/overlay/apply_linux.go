package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/slipwayd/slipway/internal/changeset"
	"github.com/slipwayd/slipway/storage"
)

// pendingFile is beside a layer's files as long as the layer does not know what is below it.
const pendingFile = "pending"

// Rebases says that a layer which was unpacked without parents may be committed on some: layers of one image can be
// unpacked side by side, in any order.
func (d *Driver) Rebases() bool { return true }

// Apply implements storage.Driver. Of a layer without parents it does not know whether it will be the base; what that
// leaves open is settled by Seal or when the first layer on it is made.
func (d *Driver) Apply(ctx context.Context, l storage.Layer, diff io.Reader) (storage.Usage, error) {
	u, err := d.apply(ctx, l, diff)
	if err != nil {
		err = fmt.Errorf("cannot unpack into layer %s: %w", l.ID, err)
	}
	return u, err
}

func (d *Driver) apply(ctx context.Context, l storage.Layer, diff io.Reader) (u storage.Usage, err error) {
	own, lower, err := d.dirs(l)
	if err != nil {
		return u, err
	}
	if err := empty(own); err != nil {
		return u, err
	}
	o := d.changes(l, lower)
	pending, err := changeset.ApplyOverlay(ctx, own, diff, o)
	switch {
	case err != nil:
	case pending.Empty():
	case len(lower) > 0:
		err = changeset.Settle(own, pending, o)
	default:
		err = writePending(own, pending)
	}
	if err == nil {
		err = changeset.Sync(own)
	}
	if err != nil {
		return u, err
	}
	return changeset.Usage(ctx, own)
}

func writePending(own string, p changeset.Pending) error {
	text, err := p.MarshalText()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(filepath.Dir(own), pendingFile), text, 0o600)
}

// settle finishes those of the layers ids, nearest first and all there is, that were unpacked before the ones below them
// were known. A crash in the middle leaves the file, and the next caller does it again.
func (d *Driver) settle(ids, dirs []string) error {
	for i := len(ids) - 1; i >= 0; i-- {
		if err := d.settleOne(dirs[i], dirs[i+1:]); err != nil {
			return fmt.Errorf("cannot settle layer %s on its parents: %w", ids[i], err)
		}
	}
	return nil
}

func (d *Driver) settleOne(own string, lower []string) error {
	name := filepath.Join(filepath.Dir(own), pendingFile)
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	d.settling.Lock()
	defer d.settling.Unlock()
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var p changeset.Pending
	if err := p.UnmarshalText(text); err != nil {
		return err
	}
	if err := changeset.Settle(own, p, changeset.Options{XattrPrefix: d.xattrPrefix, Lower: lower}); err != nil {
		return err
	}
	if err := changeset.Sync(own); err != nil {
		return err
	}
	return os.Remove(name)
}
