package metadata

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/metadata/filter"
)

// Namespaces are the sets that names and ids are unique in. One comes to be with the first thing that is created in it.
type Namespaces struct {
	rows rows[Namespace]
}

var namespaces = table[Namespace]{
	bucket: bucketNamespaces, noun: "namespace", pin: "name", maxSize: maxRecord,
	encode: encodeJSON[Namespace],
	decode: decodeJSON(func(n *Namespace, key string) { n.Name = key }),
	adapt: func(n Namespace) filter.Adaptor {
		return adaptor(map[string]string{"name": n.Name}, n.Labels)
	},
}

func (tx *Tx) Namespaces() Namespaces {
	return Namespaces{rows[Namespace]{tx: tx, table: &namespaces}}
}

func (n Namespaces) Get(name string) (Namespace, error) {
	return n.rows.get(name)
}

func (n Namespaces) List(filters ...string) ([]Namespace, error) {
	return n.rows.page("", 0, filters)
}

// Create is AlreadyExists also for a namespace that something was created in.
func (n Namespaces) Create(ns Namespace) (Namespace, error) {
	ns.Labels = nonEmpty(ns.Labels)
	if err := errors.Join(validateNamespace(ns.Name), ValidateLabels(ns.Labels)); err != nil {
		return Namespace{}, err
	}
	if err := n.rows.vacant(ns.Name, ""); err != nil {
		return Namespace{}, err
	}
	return ns, n.rows.put(ns.Name, ns)
}

// Update changes labels: fieldpaths are "labels" (also when there are none) or "labels.<key>".
func (n Namespaces) Update(ns Namespace, fieldpaths ...string) (Namespace, error) {
	old, err := n.rows.get(ns.Name)
	if err != nil {
		return Namespace{}, err
	}
	if err := relabel("namespace", &old.Labels, ns.Labels, fieldpaths); err != nil {
		return Namespace{}, err
	}
	return old, n.rows.put(ns.Name, old)
}

// Delete is FailedPrecondition when there is something in it.
func (n Namespaces) Delete(name string) error {
	var left []string
	for _, bucket := range []string{bucketImages, bucketContainers, bucketSandboxes, bucketSnapshots, bucketLeases, bucketBlobs, bucketIngests} {
		if n.rows.tx.holds(bucket, name+separator) {
			left = append(left, bucket)
		}
	}
	if len(left) > 0 && n.rows.exists(name) {
		return fmt.Errorf("cannot delete namespace %q, it still has %s: delete those first: %w", name, strings.Join(left, ", "), errdefs.ErrFailedPrecondition)
	}
	return n.rows.delete(name)
}

// ensureNamespace makes a record of ns when there is none yet.
func (tx *Tx) ensureNamespace(ns string) error {
	if n := tx.Namespaces(); !n.rows.exists(ns) {
		return n.rows.put(ns, Namespace{Name: ns})
	}
	return nil
}
