package windowsfilter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
)

// Files that Windows makes beside a base layer's when that is imported, and in a scratch.
const (
	templateDisk = "blank.vhdx"   // a disk that differs from the base's in nothing
	scratchDisk  = "sandbox.vhdx" // of one container
)

// Labels of containerd's clients that say how large the disk is to be that a container writes to.
const (
	sizeLabel   = "containerd.io/snapshot/windows/rootfs.sizebytes"
	sizeGBLabel = "containerd.io/snapshot/io.microsoft.container.storage.rootfs.size-gb"
)

// scratchSize answers the size that labels ask for, in bytes, 0 for none. InvalidArgument for what is no size.
func scratchSize(labels map[string]string) (uint64, error) {
	for label, unit := range map[string]uint64{sizeLabel: 1, sizeGBLabel: 1 << 30} {
		text, ok := labels[label]
		if !ok || label == sizeGBLabel && labels[sizeLabel] != "" {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n > math.MaxInt64/unit {
			return 0, fmt.Errorf("label %s is %.100q, which is no size: %w", label, text, errdefs.ErrInvalidArgument)
		}
		return n * unit, nil
	}
	return 0, nil
}

// makeScratch makes the disk of a layer that is written to: a copy of the base's template, which is quick and needs nothing of Windows, or
// what Windows makes where an older one imported the base.
func (d *Driver) makeScratch(ctx context.Context, p paths, size uint64) error {
	if err := os.Mkdir(p.scratch, 0o700); err != nil {
		return err
	}
	template := filepath.Join(p.parents[len(p.parents)-1], templateDisk)
	err := copyFile(ctx, template, filepath.Join(p.scratch, scratchDisk))
	if errors.Is(err, fs.ErrNotExist) {
		err = d.host.MakeScratch(ctx, p.scratch, p.parents)
	}
	if err != nil {
		return fmt.Errorf("cannot make its virtual disk: %w", err)
	}
	if size == 0 {
		return nil
	}
	if err := d.host.Expand(ctx, p.scratch, size); err != nil {
		return fmt.Errorf("cannot make its virtual disk %d bytes large: %w", size, err)
	}
	return nil
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

// copyFile is NotExist when there is no file from.
func copyFile(ctx context.Context, from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, contextReader{ctx, in})
	return errors.Join(err, out.Close())
}
