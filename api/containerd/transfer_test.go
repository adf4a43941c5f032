package containerd

import (
	"slices"
	"strings"
	"testing"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
)

func names(records []metadata.Image) []string {
	var all []string
	for _, r := range records {
		all = append(all, r.Name)
	}
	return all
}

func TestStoredNames(t *testing.T) {
	target := ocispec.Descriptor{Digest: digest.FromString("x")}
	dst := &transfertypes.ImageStore{Name: "main:1", Labels: map[string]string{"a": "b"}, ExtraReferences: []*transfertypes.ImageReference{
		{Name: "other:1"}, {Name: "prefix", IsPrefix: true}, {Name: "digested", IsPrefix: true, AddDigest: true},
	}}
	records := storedNames(dst, target)
	if got, want := names(records), []string{"main:1", "other:1", "digested@" + target.Digest.String()}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i, r := range records {
		if r.Labels["a"] != "b" {
			t.Errorf("%s lacks the labels asked for", r.Name)
		}
		if extra := r.Labels[backReferenceLabel] == "main:1" && r.Labels[expireLabel] != ""; extra != (i > 0) {
			t.Errorf("%s: labels %v", r.Name, r.Labels)
		}
	}
	if got := storedNames(&transfertypes.ImageStore{}, target); got != nil {
		t.Errorf("a nameless destination gets %v", got)
	}
}

func TestImportedNames(t *testing.T) {
	d := digest.FromString("x")
	prefix := func(overwrite, addDigest, skipNamed bool) []*transfertypes.ImageReference {
		return []*transfertypes.ImageReference{{
			Name: "base", IsPrefix: true, AllowOverwrite: overwrite, AddDigest: addDigest, SkipNamedDigest: skipNamed,
		}}
	}
	for name, tt := range map[string]struct {
		dst   *transfertypes.ImageStore
		found []string
		want  []string
	}{
		"plain":             {&transfertypes.ImageStore{}, []string{"docker.io/library/a:1"}, []string{"docker.io/library/a:1"}},
		"renamed":           {&transfertypes.ImageStore{Name: "n"}, []string{""}, []string{"n"}},
		"bare tag":          {&transfertypes.ImageStore{ExtraReferences: prefix(false, false, false)}, []string{"v1"}, []string{"base:v1"}},
		"foreign name":      {&transfertypes.ImageStore{ExtraReferences: prefix(false, false, false)}, []string{"other/a:1", "baseball:1"}, nil},
		"overwriting name":  {&transfertypes.ImageStore{ExtraReferences: prefix(true, false, false)}, []string{"other/a:1"}, []string{"other/a:1"}},
		"own name":          {&transfertypes.ImageStore{ExtraReferences: prefix(false, false, false)}, []string{"base/a:1", "base:2"}, []string{"base/a:1", "base:2"}},
		"digest":            {&transfertypes.ImageStore{ExtraReferences: prefix(false, true, false)}, []string{"v1"}, []string{"base:v1", "base@" + d.String()}},
		"digest if unnamed": {&transfertypes.ImageStore{ExtraReferences: prefix(false, true, true)}, []string{"v1", ""}, []string{"base:v1", "base@" + d.String()}},
		"twice the same":    {&transfertypes.ImageStore{}, []string{"a:1", "a:1"}, []string{"a:1"}},
	} {
		var found []image.Imported
		for _, n := range tt.found {
			img := image.Imported{Name: n, Target: ocispec.Descriptor{Digest: d}}
			if !strings.Contains(n, ":") {
				img.Name, img.Tag = "", n
			}
			found = append(found, img)
		}
		if got := names(importedNames(tt.dst, found)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

func TestProgressOfParts(t *testing.T) {
	p := &progressStream{
		s: &stream{}, wake: make(chan struct{}, 1),
		pending: map[string]int{}, refs: map[digest.Digest]string{},
	}
	p.rename("mine")
	manifest := ocispec.Descriptor{Digest: digest.FromString("manifest"), Size: 10}
	layer := ocispec.Descriptor{Digest: digest.FromString("layer"), Size: 100}
	for _, tt := range []struct {
		part          image.Progress
		name, event   string
		parent        string
		offset, total int64
	}{
		{image.Progress{Name: "docker.io/library/x:latest", State: image.Resolving}, "mine", "resolving", "", 0, 0},
		{image.Progress{Name: "docker.io/library/x:latest", State: image.Downloading, Desc: manifest}, "mine", "fetching image content", "", 0, 0},
		{image.Progress{Name: "manifest-m", State: image.Done, Desc: manifest, Offset: 10}, "manifest-m", "complete", "mine", 10, 10},
		{image.Progress{Name: "layer-l", State: image.Downloading, Desc: layer, Parent: manifest.Digest, Offset: 5}, "layer-l", "downloading", "manifest-m", 5, 100},
		{image.Progress{Name: "layer-l", State: image.Unpacking, Desc: layer, Parent: manifest.Digest, Offset: 50}, "layer-l", "extracting", "manifest-m", 50, 100},
		{image.Progress{Name: "layer-l", State: image.Exists, Desc: layer, Parent: manifest.Digest}, "layer-l", "already exists", "manifest-m", 0, 100},
		{image.Progress{Name: "mine", State: image.Uploading, Desc: manifest}, "mine", "uploading", "", 0, 10},
	} {
		p.part(tt.part)
		batch, _ := p.take()
		if len(batch) != 1 {
			t.Fatalf("%+v: %d messages", tt.part, len(batch))
		}
		got := batch[0]
		if got.Name != tt.name || got.Event != tt.event || strings.Join(got.Parents, ",") != tt.parent || got.Progress != tt.offset || got.Total != tt.total {
			t.Errorf("%+v: got %v", tt.part, got)
		}
	}
}
