package metadata

import (
	"errors"

	"github.com/slipwayd/slipway/metadata/filter"
)

// Sandboxes are the pods of one namespace.
type Sandboxes struct {
	rows rows[Sandbox]
}

var sandboxes = table[Sandbox]{
	bucket: bucketSandboxes, noun: "sandbox", pin: "id", maxSize: maxBigRecord,
	encode: encodeSandbox,
	decode: decodeSandbox,
	adapt: func(s Sandbox) filter.Adaptor {
		return adaptor(map[string]string{"id": s.ID, "sandboxer": s.Sandboxer, "runtime.name": s.Runtime.Name}, s.Labels)
	},
}

func (tx *Tx) Sandboxes(ns string) Sandboxes {
	return Sandboxes{namespaced(tx, &sandboxes, ns)}
}

func (s Sandboxes) Get(id string) (Sandbox, error) {
	return s.rows.get(id)
}

func (s Sandboxes) List(filters ...string) ([]Sandbox, error) {
	return s.rows.page("", 0, filters)
}

// Page lists at most limit sandboxes (0: all) whose ids come after after.
func (s Sandboxes) Page(after string, limit int, filters ...string) ([]Sandbox, error) {
	return s.rows.page(after, limit, filters)
}

// Create sets the times.
func (s Sandboxes) Create(sandbox Sandbox) (Sandbox, error) {
	if err := checkSandbox(&sandbox); err != nil {
		return Sandbox{}, err
	}
	sandbox.CreatedAt = s.rows.tx.now
	sandbox.UpdatedAt = sandbox.CreatedAt
	return sandbox, s.rows.create(sandbox.ID, "", sandbox)
}

// Update sets what fieldpaths name: "labels", "labels.<key>", "extensions", "extensions.<key>", "spec", "runtime"; none means
// all of these, and InvalidArgument when the runtime's name differs.
func (s Sandboxes) Update(sandbox Sandbox, fieldpaths ...string) (Sandbox, error) {
	next, err := s.rows.get(sandbox.ID)
	if err != nil {
		return Sandbox{}, err
	}
	if len(fieldpaths) == 0 {
		fieldpaths = []string{"labels", "extensions", "spec", "runtime"}
		if next.Runtime.Name != sandbox.Runtime.Name {
			return Sandbox{}, s.rows.cannot("update", sandbox.ID, invalid("its runtime cannot be changed"))
		}
	}
	for _, path := range fieldpaths {
		switch {
		case path == "spec":
			next.Spec = sandbox.Spec
		case path == "runtime":
			next.Runtime = sandbox.Runtime
		case merge(&next.Labels, sandbox.Labels, "labels", path):
		case merge(&next.Extensions, sandbox.Extensions, "extensions", path):
		default:
			return Sandbox{}, s.rows.cannot("update", sandbox.ID, invalid("there is no field %q to change", shorten(path)))
		}
	}
	if err := checkSandbox(&next); err != nil {
		return Sandbox{}, err
	}
	next.UpdatedAt = s.rows.tx.now
	return next, s.rows.put(sandbox.ID, next)
}

func (s Sandboxes) Delete(id string) error {
	return s.rows.delete(id)
}

func checkSandbox(s *Sandbox) error {
	s.Labels = nonEmpty(s.Labels)
	return errors.Join(ValidateIdentifier("sandbox id", s.ID), ValidateLabels(s.Labels), checkExtensions(s.Extensions))
}
