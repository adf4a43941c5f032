package windowsfilter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/Microsoft/go-winio/vhd"
	"github.com/Microsoft/hcsshim/computestorage"
	"github.com/Microsoft/hcsshim/pkg/cimfs"
	"github.com/Microsoft/hcsshim/pkg/ociwclayer/cim"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/windows"
)

// Of the disk that a container on a CIM writes to. Windows' own templates, of layers that are directories, are the same.
const (
	cimDiskSize  = 20 << 30 // bytes
	cimDiskBlock = 1 << 20
)

// NewCim opens the driver in dir with layers in composite images (CimFS): files ROOT/cims/layerID.cim and, beside them, what they share.
// Containers mount them without a copy of each file. notes is as for NewHost. NotImplemented on builds of Windows without CimFS. Such
// layers can be neither exported nor made of what a container wrote: hcsshim has no way to.
func NewCim(dir, notes string) (*Driver, error) {
	if !cimfs.IsCimFSSupported() {
		return nil, fmt.Errorf("this build of Windows has no CimFS: %w", errdefs.ErrNotImplemented)
	}
	host, err := NewHost(notes)
	if err != nil {
		return nil, err
	}
	cims := filepath.Join(dir, "cims")
	if err := os.MkdirAll(cims, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make a directory for layers: %w", err)
	}
	d, err := New(dir, cimHost{host, cims})
	if err != nil {
		return nil, err
	}
	d.cims = cims
	if err := sweepCims(cims); err != nil {
		return nil, fmt.Errorf("cannot look for what a crash left of layers: %w", err)
	}
	return d, nil
}

// cimHost keeps what is read only in CIMs, and disks as another host does.
type cimHost struct {
	Host
	cims string
}

func (h cimHost) Import(ctx context.Context, tar io.Reader, dir string, parents []string) error {
	_, err := cim.ImportCimLayerFromTar(ctx, tar, dir, cimPath(h.cims, dir), parents, cimPaths(h.cims, parents))
	return kind(err)
}

func (cimHost) Export(context.Context, io.Writer, string, []string) error {
	return fmt.Errorf("layers in CimFS cannot be exported; use the snapshotter \"windows\": %w", errdefs.ErrNotImplemented)
}

// MakeScratch makes an empty disk: what it differs from is mounted beside it.
func (cimHost) MakeScratch(ctx context.Context, dir string, _ []string) error {
	disk, err := vhd.CreateVirtualDisk(filepath.Join(dir, scratchDisk), vhd.VirtualDiskAccessNone, vhd.CreateVirtualDiskFlagNone,
		&vhd.CreateVirtualDiskParameters{Version: 2, Version2: vhd.CreateVersion2{MaximumSize: cimDiskSize, BlockSizeInBytes: cimDiskBlock}})
	if err != nil {
		return kind(err)
	}
	err = computestorage.FormatWritableLayerVhd(ctx, windows.Handle(disk))
	return kind(errors.Join(err, windows.CloseHandle(windows.Handle(disk))))
}

// Destroy deletes a layer's CIM before its directory, without which nobody would look for it again.
func (h cimHost) Destroy(dir string) error {
	file := cimPath(h.cims, dir)
	if err := cimfs.DestroyCim(context.Background(), file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot delete %s: %w", file, err)
	}
	return h.Host.Destroy(dir)
}

func (h cimHost) Outside(ctx context.Context, dir string) (int64, error) {
	n, err := cimfs.GetCimUsage(ctx, cimPath(h.cims, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return int64(n), err
}
