package engine

import (
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/testsuite/registry"
)

func TestPlainReason(t *testing.T) {
	layer := digest.FromString("layer")
	own := fmt.Errorf("the layer has no table of contents: %w", errdefs.ErrNotFound)
	recorded := fmt.Errorf("no index of layer %s was recorded: %w", layer, errdefs.ErrNotFound)
	for want, err := range map[string]error{
		"the layer has no table of contents; no index was recorded": fmt.Errorf("%w; %w", own, recorded),
		"it cannot be indexed: a hole":                              fmt.Errorf("layer %s cannot be indexed: a hole: %w", layer, errdefs.ErrNotImplemented),
		"the layer has no table of contents; no index is of use: no index was recorded; the published index is wrong: no": fmt.Errorf("%w; %w", own,
			fmt.Errorf("no index of layer %s is of use: %w", layer, errors.Join(recorded, fmt.Errorf("the published index is wrong: no: %w", errdefs.ErrInvalidArgument), errdefs.ErrNotFound))),
		"a thing is not found here": errors.New("a thing is not found here"),
	} {
		if got := plainReason(layer, err); got != want {
			t.Errorf("%s\n%s", got, want)
		}
	}
}

func TestLazyModeOf(t *testing.T) {
	o := LazyOptions{Images: map[string]string{"docker.io/library/*": LazyNever, "docker.io/library/python": LazyAlways, "docker.io/*/*": LazyAuto}}
	for name, want := range map[string]string{
		"docker.io/library/python": LazyAlways, "docker.io/library/node": LazyNever, "docker.io/me/app": LazyAuto, "quay.io/me/app": "", "docker.io/a/b/c": "",
	} {
		if got := o.modeOf(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, bad := range []map[string]string{{"[": LazyNever}, {"a": "often"}, {"a": ""}} {
		if err := (LazyOptions{Images: bad}).check(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// TestLazyModeOfPull: what is said of the image counts before what is said of its namespace.
func TestLazyModeOfPull(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	hub.Push("team/app:v1", twoLayers("top"))
	ref := hub.Host() + "/team/app:v1"
	expect := func(asked, want string) {
		t.Helper()
		if got, err := b.lazyMode(t.Context(), "default", ref, asked); err != nil || got != want {
			t.Errorf("%q gives %q, %v; want %q", asked, got, err, want)
		}
	}
	expect("", LazyAuto)
	if _, err := b.CreateNamespace(t.Context(), metadata.Namespace{Name: "default", Labels: map[string]string{LabelLazy: LazyAlways}}); err != nil {
		t.Fatal(err)
	}
	expect("", LazyAlways)
	b.lazy.Images = map[string]string{hub.Host() + "/team/*": LazyNever}
	expect("", LazyNever)
	labelled := map[string]string{LabelLazy: LazyAuto}
	for i, labels := range []map[string]string{labelled, nil, {"other": "label"}} { // the second and third say nothing: it stays as it was
		_, err := b.Pull(t.Context(), Scope{Namespace: "default"}, PullOptions{Ref: ref, Records: func(r image.Result) ([]metadata.Image, error) {
			return []metadata.Image{{Name: ref, Target: r.Target, Labels: labels}}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if img, err := b.GetImage(t.Context(), "default", ref); err != nil || img.Labels[LabelLazy] != LazyAuto {
			t.Errorf("after pull %d the labels are %v, %v", i, img.Labels, err)
		}
		expect("", LazyAuto)
	}
	expect(LazyAlways, LazyAlways)
	if _, err := b.lazyMode(t.Context(), "default", ref, "often"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a mode that there is not: %v", err)
	}
}
