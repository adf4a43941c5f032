package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
)

// sortByPlatform puts the best match first: the nearest variant or, on Windows, the nearest os.version. Nested indexes and
// manifests that name no platform come last.
func sortByPlatform(ds []ocispec.Descriptor, match platforms.MatchComparer) {
	sort.SliceStable(ds, func(i, j int) bool {
		a, b := ds[i].Platform, ds[j].Platform
		if a == nil || b == nil {
			return a != nil && b == nil
		}
		return match.Less(*a, *b)
	})
}

// Manifest finds the manifest of target for a platform (nil for the host's). NotFound when the image has none for it, with
// the platforms it has, and when blobs on the way are not in p.
func Manifest(ctx context.Context, p content.Provider, target ocispec.Descriptor, platform *ocispec.Platform) (ocispec.Descriptor, ocispec.Manifest, error) {
	want := hostPlatform()
	if platform != nil {
		want = *platform
	}
	desc, doc, err := findManifest(ctx, p, target, want, 4)
	if err != nil {
		return ocispec.Descriptor{}, ocispec.Manifest{}, err
	}
	m := ocispec.Manifest{MediaType: desc.MediaType, Config: *doc.Config, Layers: doc.Layers}
	m.SchemaVersion = doc.SchemaVersion
	return desc, m, nil
}

// findManifest follows indexes down to depth levels.
func findManifest(ctx context.Context, p content.Provider, desc ocispec.Descriptor, want ocispec.Platform, depth int) (ocispec.Descriptor, document, error) {
	none := func(err error) (ocispec.Descriptor, document, error) { return ocispec.Descriptor{}, document{}, err }
	if !isIndex(desc.MediaType) && !isManifest(desc.MediaType) && !isSchema1(desc.MediaType) {
		return none(fmt.Errorf("%s has media type %.200q, which is not an image's: %w", desc.Digest, desc.MediaType, errdefs.ErrInvalidArgument))
	}
	doc, err := readDocument(ctx, p, desc, defaultManifest)
	if err != nil {
		return none(err)
	}
	if !isIndex(desc.MediaType) {
		if err := checkConfigPlatform(ctx, p, doc, desc, want); err != nil {
			return none(err)
		}
		return desc, doc, nil
	}
	if depth == 0 {
		return none(fmt.Errorf("index %s is nested too deeply: %w", desc.Digest, errdefs.ErrInvalidArgument))
	}
	var missing error
	for _, m := range choose(doc.Manifests, want) {
		d, found, err := findManifest(ctx, p, m, want, depth-1)
		if err == nil {
			return d, found, nil
		}
		if !errdefs.IsNotFound(err) {
			return none(err)
		}
		missing = errors.Join(missing, err)
	}
	if missing != nil {
		return none(missing)
	}
	return none(errNoPlatform(desc, doc, want))
}

// checkConfigPlatform refuses a manifest whose config says that it is for something else. A manifest in an index may have
// been chosen by a descriptor without a platform, so this is asked of every manifest.
func checkConfigPlatform(ctx context.Context, p content.Provider, doc document, desc ocispec.Descriptor, want ocispec.Platform) error {
	if !isConfig(doc.Config.MediaType) {
		return fmt.Errorf("manifest %s has a config of type %.200q, so it is not a container image: %w", desc.Digest, doc.Config.MediaType, errdefs.ErrInvalidArgument)
	}
	if saysBuild(desc.Platform) {
		return nil // chosen by it
	}
	img, err := readConfig(ctx, p, *doc.Config, defaultConfig)
	if err != nil {
		return err
	}
	return matchConfig(img, desc, want)
}

func matchConfig(img ocispec.Image, desc ocispec.Descriptor, want ocispec.Platform) error {
	if img.OS == "" && img.Architecture == "" {
		return nil
	}
	if !matcher(want).Match(platforms.Normalize(img.Platform)) {
		return fmt.Errorf("manifest %s is for %s, not for %s%s: %w", desc.Digest, platforms.FormatAll(img.Platform), platforms.FormatAll(want),
			hintHyperV([]ocispec.Platform{img.Platform}, want), errdefs.ErrNotFound)
	}
	return nil
}

func errNoPlatform(desc ocispec.Descriptor, doc document, want ocispec.Platform) error {
	var have []string
	var all []ocispec.Platform
	for _, m := range doc.Manifests {
		if m.Platform != nil && m.Platform.OS != "unknown" && len(have) < 20 {
			have = append(have, platforms.FormatAll(*m.Platform))
			all = append(all, *m.Platform)
		}
	}
	slices.Sort(have)
	return fmt.Errorf("index %s has nothing for %s, only for %s%s: %w", desc.Digest, platforms.FormatAll(want),
		strings.Join(slices.Compact(have), ", "), hintHyperV(all, want), errdefs.ErrNotFound)
}

func readConfig(ctx context.Context, p content.Provider, desc ocispec.Descriptor, limit int64) (ocispec.Image, error) {
	data, err := readBlob(ctx, p, desc, limit)
	if err != nil {
		return ocispec.Image{}, err
	}
	return parseConfig(desc, data)
}

func parseConfig(desc ocispec.Descriptor, data []byte) (ocispec.Image, error) {
	var img ocispec.Image
	if err := json.Unmarshal(data, &img); err != nil {
		return img, fmt.Errorf("cannot parse config %s: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	for _, d := range img.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return img, fmt.Errorf("config %s has diff ID %.100q: %w: %w", desc.Digest, d, err, errdefs.ErrInvalidArgument)
		}
	}
	return img, nil
}

// Config reads the configuration of target for a platform (nil for the host's).
func Config(ctx context.Context, p content.Provider, target ocispec.Descriptor, platform *ocispec.Platform) (ocispec.Image, ocispec.Descriptor, error) {
	_, m, err := Manifest(ctx, p, target, platform)
	if err != nil {
		return ocispec.Image{}, ocispec.Descriptor{}, err
	}
	img, err := readConfig(ctx, p, m.Config, defaultConfig)
	return img, m.Config, err
}

// Platforms lists those for which manifest and config of target are in p.
func Platforms(ctx context.Context, p content.Provider, target ocispec.Descriptor) ([]ocispec.Platform, error) {
	var found []ocispec.Platform
	err := walk(ctx, p, target, Limits{}.withDefaults(), func(desc ocispec.Descriptor, doc *document) error {
		if !isManifest(desc.MediaType) || doc == nil || !isConfig(doc.Config.MediaType) {
			return nil
		}
		img, err := readConfig(ctx, p, *doc.Config, defaultConfig)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if desc.Platform != nil {
			found = append(found, platforms.Normalize(*desc.Platform))
		} else if img.OS != "" {
			found = append(found, platforms.Normalize(img.Platform))
		}
		return nil
	})
	return found, err
}

// walk calls fn once for every blob that target leads to, parents first. doc is nil for blobs that lead to nothing and for
// those that are not here.
func walk(ctx context.Context, p content.Provider, target ocispec.Descriptor, limits Limits, fn func(ocispec.Descriptor, *document) error) error {
	seen := map[string]bool{}
	documents := 0
	var visit func(d ocispec.Descriptor) error
	visit = func(d ocispec.Descriptor) error {
		if seen[d.MediaType+" "+d.Digest.String()] {
			return nil
		}
		seen[d.MediaType+" "+d.Digest.String()] = true
		if !isIndex(d.MediaType) && !isManifest(d.MediaType) {
			return fn(d, nil)
		}
		if documents++; documents > limits.Entries {
			return fmt.Errorf("more than %d manifests: %w", limits.Entries, errdefs.ErrOutOfRange)
		}
		doc, err := readDocument(ctx, p, d, limits.Manifest)
		if errdefs.IsNotFound(err) {
			return fn(d, nil)
		}
		if err != nil {
			return err
		}
		if err := fn(d, &doc); err != nil {
			return err
		}
		for _, c := range doc.children() {
			if err := visit(c); err != nil {
				return err
			}
		}
		return nil
	}
	return visit(target)
}

// Usage is the number of bytes of all blobs of target that are here, each counted once.
func Usage(ctx context.Context, s Store, target ocispec.Descriptor) (int64, error) {
	var sum int64
	err := walk(ctx, s, target, Limits{}.withDefaults(), func(d ocispec.Descriptor, _ *document) error {
		b, err := s.Info(ctx, d.Digest)
		if errdefs.IsNotFound(err) {
			return nil
		}
		sum += b.Size
		return err
	})
	return sum, err
}
