package server

import (
	"fmt"

	"github.com/Microsoft/hcsshim/cmd/containerd-shim-runhcs-v1/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// checkOtherOptions lets those of runhcs pass, which containerd's clients always send on Windows, unless they ask for a virtual machine: that is for
// the document to say here. How that shim logs is its own matter.
func checkOtherOptions(a *anypb.Any) error {
	var o options.Options
	if !typeurl.Is(a, &o) {
		return fmt.Errorf("cannot use options of type %q: only containerd.runhcs.v1.Options: %w", a.TypeUrl, errdefs.ErrInvalidArgument)
	}
	if err := typeurl.UnmarshalTo(a, &o); err != nil {
		return fmt.Errorf("cannot read options: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	if o.SandboxIsolation != options.Options_PROCESS {
		return fmt.Errorf("isolation by a virtual machine cannot be had by runtime options: set windows.hyperv in the document, or install containerd-shim-runhcs-v1: %w", errdefs.ErrNotImplemented)
	}
	return nil
}
