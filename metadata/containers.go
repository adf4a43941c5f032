package metadata

import (
	"errors"

	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/metadata/filter"
)

// Containers are the containers of one namespace.
type Containers struct {
	rows rows[Container]
}

var containers = table[Container]{
	bucket: bucketContainers, noun: "container", pin: "id", maxSize: maxBigRecord,
	encode: encodeContainer,
	decode: decodeContainer,
	adapt: func(c Container) filter.Adaptor {
		return adaptor(map[string]string{"id": c.ID, "image": c.Image, "runtime.name": c.Runtime.Name, "sandboxid": c.SandboxID}, c.Labels)
	},
}

func (tx *Tx) Containers(ns string) Containers {
	return Containers{namespaced(tx, &containers, ns)}
}

func (c Containers) Get(id string) (Container, error) {
	return c.rows.get(id)
}

func (c Containers) List(filters ...string) ([]Container, error) {
	return c.rows.page("", 0, filters)
}

// Page lists at most limit containers (0: all) whose ids come after after.
func (c Containers) Page(after string, limit int, filters ...string) ([]Container, error) {
	return c.rows.page(after, limit, filters)
}

// Create sets the times. A container is a root of collection and needs no lease.
func (c Containers) Create(container Container) (Container, error) {
	if err := checkContainer(&container); err != nil {
		return Container{}, err
	}
	container.CreatedAt = c.rows.tx.now
	container.UpdatedAt = container.CreatedAt
	return container, c.rows.create(container.ID, "", container)
}

// Update sets what fieldpaths name: "labels", "labels.<key>", "spec", "extensions", "extensions.<key>", "image", "snapshotkey";
// none means all of these, and InvalidArgument when runtime or snapshotter differ, which cannot be changed.
func (c Containers) Update(container Container, fieldpaths ...string) (Container, error) {
	next, err := c.rows.get(container.ID)
	if err != nil {
		return Container{}, err
	}
	if len(fieldpaths) == 0 {
		fieldpaths = []string{"labels", "spec", "extensions", "image", "snapshotkey"}
		if next.Snapshotter != container.Snapshotter || next.Runtime.Name != container.Runtime.Name {
			return Container{}, c.rows.cannot("update", container.ID, invalid("its runtime and snapshotter cannot be changed"))
		}
	}
	for _, path := range fieldpaths {
		switch {
		case path == "spec":
			next.Spec = container.Spec
		case path == "image":
			next.Image = container.Image
		case path == "snapshotkey":
			next.SnapshotKey = container.SnapshotKey
		case merge(&next.Labels, container.Labels, "labels", path):
		case merge(&next.Extensions, container.Extensions, "extensions", path):
		default:
			return Container{}, c.rows.cannot("update", container.ID, invalid("there is no field %q to change", shorten(path)))
		}
	}
	if err := checkContainer(&next); err != nil {
		return Container{}, err
	}
	next.UpdatedAt = c.rows.tx.now
	return next, c.rows.put(container.ID, next)
}

func (c Containers) Delete(id string) error {
	return c.rows.delete(id)
}

func checkContainer(c *Container) error {
	c.Labels = nonEmpty(c.Labels)
	switch {
	case c.Runtime.Name == "":
		return invalid("container %q has no runtime", shorten(c.ID))
	case c.Spec == nil:
		return invalid("container %q has no spec", shorten(c.ID))
	case c.SnapshotKey != "" && c.Snapshotter == "":
		return invalid("container %q has a snapshot key and no snapshotter", shorten(c.ID))
	}
	return errors.Join(ValidateIdentifier("container id", c.ID), ValidateLabels(c.Labels), checkExtensions(c.Extensions))
}

func checkExtensions(extensions map[string]opaque.Any) error {
	if _, ok := extensions[""]; ok {
		return invalid("an extension has no name")
	}
	return nil
}
