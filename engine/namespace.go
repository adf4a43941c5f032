package engine

import (
	"context"
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/metadata"
)

// maxIdentifier is the longest identifier that clients may use, in bytes (containerd's pkg/identifiers).
const maxIdentifier = 76

var identifier = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)

// CheckIdentifier is InvalidArgument for a name that no container, lease, task, process or namespace may have. What it
// passes is safe as a path component.
func CheckIdentifier(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("identifier must not be empty: %w", errdefs.ErrInvalidArgument)
	case len(id) > maxIdentifier:
		return fmt.Errorf("identifier %.20q… has %d bytes, at most %d are allowed: %w", id, len(id), maxIdentifier, errdefs.ErrInvalidArgument)
	case !identifier.MatchString(id):
		return fmt.Errorf("identifier %q must be letters and digits, with single '.', '_' or '-' between them: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// CheckNamespace is InvalidArgument for a name that no namespace may have.
func CheckNamespace(name string) error {
	if err := CheckIdentifier(name); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	return nil
}

// GetNamespace is NotFound when there is none of that name.
func (e *Engine) GetNamespace(ctx context.Context, name string) (metadata.Namespace, error) {
	return view(ctx, e, func(tx *metadata.Tx) (metadata.Namespace, error) { return tx.Namespaces().Get(name) })
}

// ListNamespaces answers all namespaces in order of their names.
func (e *Engine) ListNamespaces(ctx context.Context, filters ...string) ([]metadata.Namespace, error) {
	return view(ctx, e, func(tx *metadata.Tx) ([]metadata.Namespace, error) { return tx.Namespaces().List(filters...) })
}

// CreateNamespace is AlreadyExists when there is one of that name.
func (e *Engine) CreateNamespace(ctx context.Context, ns metadata.Namespace) (metadata.Namespace, error) {
	made, err := update(ctx, e, func(tx *metadata.Tx) (metadata.Namespace, error) { return tx.Namespaces().Create(ns) })
	if err != nil {
		return made, err
	}
	e.publish(ns.Name, "/namespaces/create", NamespaceCreate{Name: made.Name, Labels: made.Labels})
	return made, nil
}

// UpdateNamespace changes the fields that fieldpaths name (labels, labels.KEY), all when there are none.
func (e *Engine) UpdateNamespace(ctx context.Context, ns metadata.Namespace, fieldpaths ...string) (metadata.Namespace, error) {
	made, err := update(ctx, e, func(tx *metadata.Tx) (metadata.Namespace, error) {
		return tx.Namespaces().Update(ns, fieldpaths...)
	})
	if err != nil {
		return made, err
	}
	e.publish(ns.Name, "/namespaces/update", NamespaceUpdate{Name: made.Name, Labels: made.Labels})
	return made, nil
}

// DeleteNamespace is FailedPrecondition while anything is in it.
func (e *Engine) DeleteNamespace(ctx context.Context, name string) error {
	err := e.db.Update(ctx, func(tx *metadata.Tx) error { return tx.Namespaces().Delete(name) })
	if err != nil {
		return err
	}
	e.publish(name, "/namespaces/delete", NamespaceDelete{Name: name})
	return nil
}
