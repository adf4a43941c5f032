package hcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	winfs "github.com/Microsoft/go-winio/pkg/fs"
	"github.com/Microsoft/hcsshim"
	"github.com/Microsoft/hcsshim/hcn"
	"github.com/Microsoft/hcsshim/osversion"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/windows"
)

// local is this machine's service.
type local struct{ vm *vmcompute }

// Open answers this machine's service. NotImplemented where Windows has none.
func Open() (Host, error) {
	vm, err := openVmcompute()
	if err != nil {
		return nil, fmt.Errorf("cannot find the Host Compute Service; install Windows' feature Containers: %w: %w", err, errdefs.ErrNotImplemented)
	}
	return &local{vm}, nil
}

func (h *local) Machine() Machine {
	const allGroups = 0xffff
	return Machine{Build: osversion.Build(), Processors: int(windows.GetActiveProcessorCount(allGroups))}
}

func (h *local) Resolve(path string) (string, bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil || info.IsDir() {
		return path, err == nil, err
	}
	// The service itself follows no links in the path of a file.
	real, err := winfs.ResolvePath(path)
	return real, false, err
}

func (h *local) LayerID(ctx context.Context, path string) (string, error) {
	id, err := hcsshim.NameToGuid(filepath.Base(path))
	return id.ToString(), classify(err)
}

func (h *local) NamespaceEndpoints(ctx context.Context, namespace string) (ids []string, err error) {
	// hcn panics when a function is missing from the system's library.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the Host Networking Service of this host has no namespaces: %v: %w", r, errdefs.ErrNotImplemented)
		}
	}()
	if err := hcn.V2ApiSupported(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotImplemented)
	}
	ids, err = hcn.GetNamespaceEndpointIds(namespace)
	if hcn.IsNotFoundError(err) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return ids, classify(err)
}

// CreateSystem closes its own handle after hcsshim has one: a system lives without any.
func (h *local) CreateSystem(ctx context.Context, id string, document json.RawMessage) (System, error) {
	handle, err := h.vm.createSystem(ctx, id, string(document))
	if err != nil {
		return nil, fmt.Errorf("the service did not create the container: %w", err)
	}
	defer h.vm.closeSystem(handle)
	s, err := h.OpenSystem(ctx, id)
	if err != nil {
		h.vm.terminateSystem(handle)
		return nil, fmt.Errorf("cannot open what the service has created: %w", err)
	}
	return s, nil
}

func (h *local) OpenSystem(ctx context.Context, id string) (System, error) {
	handle, err := h.vm.openSystem(id)
	if err != nil {
		return nil, err
	}
	c, err := hcsshim.OpenContainer(id)
	if err != nil {
		h.vm.closeSystem(handle)
		return nil, classify(err)
	}
	s := &system{vm: h.vm, handle: handle, c: c, ended: make(chan struct{})}
	go s.watch()
	return s, nil
}
