package metadata

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/metadata/filter"
)

// Images are the names of one namespace for descriptors.
type Images struct {
	rows rows[Image]
}

var images = table[Image]{
	bucket: bucketImages, noun: "image", pin: "name", maxSize: maxRecord,
	encode: encodeJSON[Image],
	decode: decodeJSON(func(i *Image, key string) { i.Name = key }),
	adapt: func(i Image) filter.Adaptor {
		return func(path []string) (string, bool) {
			return field(path, map[string]string{
				"name": i.Name, "target.digest": string(i.Target.Digest), "target.mediatype": i.Target.MediaType,
			}, map[string]map[string]string{"labels": i.Labels, "annotations": i.Target.Annotations})
		}
	},
}

func (tx *Tx) Images(ns string) Images {
	return Images{namespaced(tx, &images, ns)}
}

func (i Images) Get(name string) (Image, error) {
	return i.rows.get(name)
}

func (i Images) List(filters ...string) ([]Image, error) {
	return i.rows.page("", 0, filters)
}

// Page lists at most limit images (0: all) whose names come after after.
func (i Images) Page(after string, limit int, filters ...string) ([]Image, error) {
	return i.rows.page(after, limit, filters)
}

// Create sets the times. An image that can expire (label containerd.io/gc.expire) joins the lease of the transaction; any other
// is kept anyway.
func (i Images) Create(image Image) (Image, error) {
	if err := checkImage(&image); err != nil {
		return Image{}, err
	}
	resource := ""
	if _, ok := image.Labels[labelExpire]; ok {
		resource = ResourceImages
	}
	image.CreatedAt = i.rows.tx.now
	image.UpdatedAt = image.CreatedAt
	return image, i.rows.create(image.Name, resource, image)
}

// Update sets what fieldpaths name: "target", "labels", "labels.<key>", "annotations", "annotations.<key>" (those of the
// target); none means labels and target.
func (i Images) Update(image Image, fieldpaths ...string) (Image, error) {
	next, err := i.rows.get(image.Name)
	if err != nil {
		return Image{}, err
	}
	if len(fieldpaths) == 0 {
		fieldpaths = []string{"labels", "target"}
	}
	for _, path := range fieldpaths {
		switch {
		case path == "target":
			next.Target = image.Target
		case merge(&next.Labels, image.Labels, "labels", path):
		case merge(&next.Target.Annotations, image.Target.Annotations, "annotations", path):
		default:
			return Image{}, i.rows.cannot("update", image.Name, invalid("there is no field %q to change", shorten(path)))
		}
	}
	if err := checkImage(&next); err != nil {
		return Image{}, err
	}
	next.UpdatedAt = i.rows.tx.now
	return next, i.rows.put(image.Name, next)
}

// Delete is NotFound when target is not "" and the image has another one.
func (i Images) Delete(name string, target digest.Digest) error {
	if target != "" {
		image, err := i.rows.get(name)
		if err != nil {
			return err
		}
		if image.Target.Digest != target {
			return i.rows.cannot("delete", name, fmt.Errorf("it is %s now, not %s: %w", image.Target.Digest, target, errdefs.ErrNotFound))
		}
	}
	if err := i.rows.delete(name); err != nil {
		return err
	}
	return i.rows.tx.leave(i.rows.ns, Resource{Type: ResourceImages, ID: name})
}

func checkImage(image *Image) error {
	image.Labels = nonEmpty(image.Labels)
	image.Target.Annotations = nonEmpty(image.Target.Annotations)
	return errors.Join(validateName("image", image.Name), ValidateLabels(image.Labels), checkTarget(image.Target))
}

func checkTarget(target ocispec.Descriptor) error {
	if err := ValidateDigest(target.Digest); err != nil {
		return err
	}
	if target.Size <= 0 {
		return invalid("the target of an image must have a size above 0")
	}
	if target.MediaType == "" {
		return invalid("the target of an image must have a media type")
	}
	return nil
}
