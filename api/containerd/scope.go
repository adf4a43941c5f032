package containerd

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/metadata"

	"github.com/slipwayd/slipway/engine"
)

// Headers of a call (containerd's pkg/namespaces and pkg/leases).
const (
	namespaceHeader = "containerd-namespace"
	leaseHeader     = "containerd-lease"
)

// Scope reads on whose behalf a call of any service is made, as scope does.
func Scope(ctx context.Context) (engine.Scope, error) { return scope(ctx) }

// scope reads on whose behalf a call is made. FailedPrecondition when the caller named no namespace.
func scope(ctx context.Context) (engine.Scope, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s := engine.Scope{Namespace: first(md, namespaceHeader), Lease: first(md, leaseHeader)}
	if s.Namespace == "" {
		return s, fmt.Errorf("call names no namespace, send the header %s: %w", namespaceHeader, errdefs.ErrFailedPrecondition)
	}
	if err := engine.CheckNamespace(s.Namespace); err != nil {
		return s, err
	}
	return s, nil
}

// first is the first value of a header, empty when there is none.
func first(md metadata.MD, header string) string {
	if v := md.Get(header); len(v) > 0 {
		return v[0]
	}
	return ""
}
