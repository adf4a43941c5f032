package pods

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/slipwayd/slipway/spec"
)

// injectDevices adds to a document what vendors describe of the devices that a container names, in its fields or in annotations
// cdi.k8s.io/* (CNCF's Container Device Interface). Descriptions are read anew each time: few containers have such devices.
func (m *Manager) injectDevices(doc *specs.Spec, s *spec.PodContainer) error {
	_, names, err := cdi.ParseAnnotations(s.Annotations)
	if err != nil {
		return fmt.Errorf("cannot read the devices in the annotations of container %s: %w: %w", s.Name, err, errdefs.ErrInvalidArgument)
	}
	for _, name := range s.CDIDevices {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if err := InjectDevices(m.conf.CDISpecDirs, doc, names); err != nil {
		return fmt.Errorf("cannot give container %s its devices: %w", s.Name, err)
	}
	return nil
}

// InjectDevices adds to a document what the files in dirs describe of devices. InvalidArgument for one that none describes.
func InjectDevices(dirs []string, doc *specs.Spec, names []string) error {
	cache, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(dirs...))
	if err != nil {
		return fmt.Errorf("cannot read the descriptions of devices in %v: %w", dirs, err)
	}
	if missing, err := cache.InjectDevices(doc, names...); err != nil {
		if len(missing) > 0 {
			err = fmt.Errorf("no file in %v describes %v: %w", dirs, missing, err)
		}
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}
