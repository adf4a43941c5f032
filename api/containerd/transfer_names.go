package containerd

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
)

// Labels of an image that is only another name of one: collection removes it together with that one.
const (
	backReferenceLabel = "containerd.io/gc.bref.image"
	expireLabel        = "containerd.io/gc.expire"
)

// storedNames are the records that an ImageStore destination asks for when what it gets has no name of its own: its name,
// whole extra references, and prefixes that want the digest added.
func storedNames(dst *transfertypes.ImageStore, target ocispec.Descriptor) []metadata.Image {
	var records []metadata.Image
	if dst.Name != "" {
		records = append(records, metadata.Image{Name: dst.Name, Target: target, Labels: dst.Labels})
	}
	for _, ref := range dst.ExtraReferences {
		switch {
		case ref.AddDigest:
			records = append(records, extraRecord(dst, ref.Name+"@"+target.Digest.String(), target))
		case !ref.IsPrefix:
			records = append(records, extraRecord(dst, ref.Name, target))
		}
	}
	return records
}

// importedNames are the records for the images of an archive. Extra references that are prefixes complete the names of the
// archive (a bare tag) or limit them (a whole name must begin with the prefix unless it may overwrite); the
// destination's own name is for an archive's only image.
func importedNames(dst *transfertypes.ImageStore, found []image.Imported) []metadata.Image {
	var records []metadata.Image
	seen := map[string]bool{}
	add := func(r metadata.Image) {
		if !seen[r.Name] {
			seen[r.Name] = true
			records = append(records, r)
		}
	}
	for _, img := range found {
		if dst.Name != "" && len(found) == 1 {
			add(metadata.Image{Name: dst.Name, Target: img.Target, Labels: dst.Labels})
		}
		for _, ref := range dst.ExtraReferences {
			if !ref.IsPrefix {
				continue
			}
			name := completeName(ref, cmp.Or(img.Name, img.Tag))
			if name != "" {
				add(extraRecord(dst, name, img.Target))
			}
			if ref.AddDigest && (name == "" || !ref.SkipNamedDigest) {
				add(extraRecord(dst, ref.Name+"@"+img.Target.Digest.String(), img.Target))
			}
		}
		if len(dst.ExtraReferences) == 0 && img.Name != "" {
			add(extraRecord(dst, img.Name, img.Target))
		}
	}
	return records
}

// completeName is the name that a prefix reference makes of an archive's own, or nothing when it does not fit.
func completeName(ref *transfertypes.ImageReference, name string) string {
	switch {
	case name == "":
		return ""
	case !strings.ContainsAny(name, "/:@"):
		return ref.Name + ":" + name
	case ref.AllowOverwrite || hasNamePrefix(name, ref.Name):
		return name
	}
	return ""
}

// hasNamePrefix tells whether name is prefix with a tag, a digest or a longer path.
func hasNamePrefix(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && (rest == "" || strings.ContainsAny(rest[:1], ":/@"))
}

// extraRecord is a further name. Beside a main name it lives and dies with that.
func extraRecord(dst *transfertypes.ImageStore, name string, target ocispec.Descriptor) metadata.Image {
	labels := map[string]string{}
	for k, v := range dst.Labels {
		labels[k] = v
	}
	if dst.Name != "" {
		labels[backReferenceLabel] = dst.Name
		labels[expireLabel] = time.Now().UTC().Format(time.RFC3339)
	}
	return metadata.Image{Name: name, Target: target, Labels: labels}
}

// lookupNames are the records that an ImageStore source names.
func lookupNames(src *transfertypes.ImageStore) ([]string, error) {
	var names []string
	if src.Name != "" {
		names = append(names, src.Name)
	}
	for _, ref := range src.ExtraReferences {
		if ref.IsPrefix {
			return nil, fmt.Errorf("look-up of images by the prefix %q: %w", ref.Name, errdefs.ErrNotImplemented)
		}
		names = append(names, ref.Name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("transfer names no image: %w", errdefs.ErrInvalidArgument)
	}
	return names, nil
}
