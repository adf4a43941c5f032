package e2ewine

import (
	"errors"
	"strings"
	"testing"

	"github.com/Microsoft/hcsshim"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/spec"
)

// TestRefused: what a container cannot be is said plainly, over the wire, and nothing of it is left.
func TestRefused(t *testing.T) {
	d := newDaemonWith(t, collected)
	img := d.image(hello())
	before := d.kept()
	one, part := uint64(1), uint16(5000)
	for name, test := range map[string]struct {
		change func(*specs.Spec)
		kind   error
		says   string
	}{
		"missing mount": {func(s *specs.Spec) { s.Mounts = []specs.Mount{{Source: `C:\nowhere`, Destination: `C:\x`}} }, errdefs.ErrInvalidArgument, `C:\nowhere`},
		"conflicting limits": {func(s *specs.Spec) {
			s.Windows.Resources = &specs.WindowsResources{CPU: &specs.WindowsCPUResources{Count: &one, Maximum: &part}}
		}, errdefs.ErrInvalidArgument, "exclude each other"},
		"Linux section": {func(s *specs.Spec) { s.Linux = &specs.Linux{} }, errdefs.ErrNotImplemented, "io.containerd.runhcs.v1"},
		"Linux field":   {func(s *specs.Spec) { s.Process.NoNewPrivileges = true }, errdefs.ErrInvalidArgument, "noNewPrivileges"},
		"HostProcess": {func(s *specs.Spec) {
			s.Annotations = map[string]string{"microsoft.com/hostprocess-container": "true"}
		}, errdefs.ErrNotImplemented, "io.containerd.runhcs.v1"},
		"another build": {func(s *specs.Spec) { s.Annotations["org.opencontainers.image.os.version"] = "10.0.17763.1" }, errdefs.ErrInvalidArgument, "17763"},
		"no program":    {func(s *specs.Spec) { s.Process.Args = []string{"no-such-program"} }, errdefs.ErrInvalidArgument, "no-such-program"},
	} {
		change := func(s *specs.Spec) error { test.change(s); return nil }
		ct, err := d.CreateContainer(d.ctx, client.ContainerOptions{ID: "refused", Image: img, Spec: []spec.Opt{change}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		task, err := ct.NewTask(d.ctx, client.Streams{})
		if err == nil {
			err = task.Start(d.ctx)
			_, _ = task.Delete(d.ctx) // that it can be removed is looked at below
		}
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v; want %v with %q", name, err, test.kind, test.says)
		}
		if err := ct.Remove(d.ctx); err != nil {
			t.Errorf("%s: Remove: %v", name, err)
		}
		d.keepsNoMore(before)
	}
	list, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{Owners: []string{"slipway"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		if strings.Contains(c.ID, "refused") {
			t.Errorf("compute system %s is left", c.ID)
		}
	}
}
