package engine

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// twoLayers is an image whose second layer changes the first.
func twoLayers(seed string) ociimage.Image {
	return ociimage.Image{Layers: []ociimage.Layer{
		{Files: []ociimage.File{ociimage.Dir("etc", 0o755), ociimage.Regular("etc/base", 0o644, "base")}},
		{Files: []ociimage.File{ociimage.Dir("etc", 0o755), ociimage.Regular("etc/top", 0o644, seed)}},
	}}
}

// recorded names what is pulled.
func recorded(name string) func(image.Result) ([]metadata.Image, error) {
	return func(r image.Result) ([]metadata.Image, error) {
		return []metadata.Image{{Name: name, Target: r.Target}}, nil
	}
}

func (b *bench) pull(t *testing.T, ref, name string) error {
	_, err := b.Pull(t.Context(), Scope{Namespace: benchNS}, PullOptions{
		Ref: ref, Unpacks: []Unpack{{}}, Records: recorded(name),
	})
	return err
}

func TestPullRecordsUnpacksAndHolds(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	built := hub.Push("lib/two:v1", twoLayers("top"))
	if err := b.pull(t, hub.Host()+"/lib/two:v1", "mine"); err != nil {
		t.Fatal(err)
	}
	img, err := b.GetImage(t.Context(), benchNS, "mine")
	if err != nil || img.Target.Digest != built.Root.Digest {
		t.Fatalf("image %+v, %v", img, err)
	}
	chain := image.ChainIDs(built.DiffIDs)
	s, err := b.Snapshots(Scope{Namespace: benchNS}, "fake")
	if err != nil {
		t.Fatal(err)
	}
	top, err := s.Stat(t.Context(), chain[1].String())
	if err != nil || top.Kind != storage.Committed || top.Parent != chain[0].String() {
		t.Errorf("top snapshot %+v, %v", top, err)
	}
	if leases, err := b.ListLeases(t.Context(), benchNS); err != nil || len(leases) != 0 {
		t.Errorf("leases are left: %+v, %v", leases, err)
	}
	// The record holds all of it, and nothing else does.
	if err := b.gc.scheduleOrWait(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	b.checkHeld(t, built, true)
	if err := b.DeleteImage(t.Context(), benchNS, "mine", nil, true); err != nil {
		t.Fatal(err)
	}
	b.checkHeld(t, built, false)
	if left, _ := b.driver.List(t.Context()); len(left) != 0 {
		t.Errorf("layers are left: %q", left)
	}
}

// checkHeld fails unless all blobs and snapshots of an image are there, or none.
func (b *bench) checkHeld(t *testing.T, built *ociimage.Built, there bool) {
	t.Helper()
	c := b.Content(Scope{Namespace: benchNS})
	for dgst, blob := range built.Blobs {
		if _, err := c.Info(t.Context(), dgst); errdefs.IsNotFound(err) == there {
			t.Errorf("%s %s: %v", blob.MediaType, dgst, err)
		}
	}
	s, err := b.Snapshots(Scope{Namespace: benchNS}, "fake")
	if err != nil {
		t.Fatal(err)
	}
	for _, chain := range image.ChainIDs(built.DiffIDs) {
		if _, err := s.Stat(t.Context(), chain.String()); errdefs.IsNotFound(err) == there {
			t.Errorf("snapshot %s: %v", chain, err)
		}
	}
}

func TestPullsOfOneImageShareTheWork(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	built := hub.Push("lib/two:v1", twoLayers("top"))
	errs := make([]error, 4)
	var pulls sync.WaitGroup
	for i := range errs {
		pulls.Go(func() { errs[i] = b.pull(t, hub.Host()+"/lib/two:v1", "mine") })
	}
	pulls.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, l := range built.Layers {
		if n := hub.Count(registry.Match{Method: "GET", Digest: l.Digest}); n != 1 {
			t.Errorf("layer %s was fetched %d times", l.Digest, n)
		}
	}
	if left, _ := b.driver.List(t.Context()); len(left) != 2 {
		t.Errorf("layers on disk: %q, want two", left)
	}
}

func TestFailedPullLeavesNoImage(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	built := hub.Push("lib/two:v1", twoLayers("top"))
	ref := hub.Host() + "/lib/two:v1"
	hub.Fault(registry.Match{Digest: built.Layers[1].Digest}, registry.Status(404))
	if err := b.pull(t, ref, "mine"); !errdefs.IsNotFound(err) {
		t.Fatalf("pull of an image that lacks a layer: %v, want NotFound", err)
	}
	if _, err := b.GetImage(t.Context(), benchNS, "mine"); !errdefs.IsNotFound(err) {
		t.Errorf("image: %v", err)
	}
	if err := b.gc.scheduleOrWait(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	b.checkHeld(t, built, false)
	if left, _ := b.driver.List(t.Context()); len(left) != 0 {
		t.Errorf("layers are left: %q", left)
	}

	refused := errors.New("refused")
	hub.Push("lib/other:v1", twoLayers("other"))
	_, err := b.Pull(t.Context(), Scope{Namespace: benchNS}, PullOptions{
		Ref:     hub.Host() + "/lib/other:v1",
		Records: func(image.Result) ([]metadata.Image, error) { return nil, refused },
	})
	if !errors.Is(err, refused) {
		t.Errorf("got %v, want what Records answers", err)
	}
}

func TestPullUsesTheCallersLease(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	built := hub.Push("lib/two:v1", twoLayers("top"))
	if _, err := b.CreateLease(t.Context(), benchNS, metadata.Lease{ID: "mine"}); err != nil {
		t.Fatal(err)
	}
	_, err := b.Pull(t.Context(), Scope{Namespace: benchNS, Lease: "mine"}, PullOptions{
		Ref: hub.Host() + "/lib/two:v1", Unpacks: []Unpack{{}}, Records: recorded("mine"),
	})
	if err != nil {
		t.Fatal(err)
	}
	held, err := b.LeaseResources(t.Context(), benchNS, "mine")
	if err != nil {
		t.Fatal(err)
	}
	is := map[string]bool{}
	for _, r := range held {
		is[r.Type+" "+r.ID] = true
	}
	for dgst := range built.Blobs {
		if !is["content "+dgst.String()] {
			t.Errorf("lease does not hold blob %s", dgst)
		}
	}
	for _, chain := range image.ChainIDs(built.DiffIDs) {
		if !is["snapshots/fake "+chain.String()] {
			t.Errorf("lease does not hold snapshot %s", chain)
		}
	}
}

func TestTagUpdatesWhatIsThere(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	one, two := hub.Push("lib/one:v1", twoLayers("1")), hub.Push("lib/two:v1", twoLayers("2"))
	for name, ref := range map[string]string{"one": "/lib/one:v1", "two": "/lib/two:v1"} {
		if err := b.pull(t, hub.Host()+ref, name); err != nil {
			t.Fatal(err)
		}
	}
	tag := func(source string, names ...string) error {
		_, err := b.Tag(t.Context(), Scope{Namespace: benchNS}, source, func(target ocispec.Descriptor) ([]metadata.Image, error) {
			var all []metadata.Image
			for _, n := range names {
				all = append(all, metadata.Image{Name: n, Target: target})
			}
			return all, nil
		})
		return err
	}
	if err := tag("one", "two", "three"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]digest.Digest{"one": one.Root.Digest, "two": one.Root.Digest, "three": one.Root.Digest} {
		if img, err := b.GetImage(t.Context(), benchNS, name); err != nil || img.Target.Digest != want {
			t.Errorf("%s is %s, %v; want %s (and two was %s)", name, img.Target.Digest, err, want, two.Root.Digest)
		}
	}
	if err := tag("none", "x"); !errdefs.IsNotFound(err) {
		t.Errorf("tag of no image: %v, want NotFound", err)
	}
	if err := tag("one"); err == nil || !strings.Contains(err.Error(), "no name") {
		t.Errorf("tag without a name: %v", err)
	}
}

func TestCancelledPullEnds(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	hub.Push("lib/two:v1", twoLayers("top"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Pull(ctx, Scope{Namespace: benchNS}, PullOptions{Ref: hub.Host() + "/lib/two:v1", Records: recorded("x")})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if leases, err := b.ListLeases(t.Context(), benchNS); err != nil || len(leases) != 0 {
		t.Errorf("leases are left: %+v, %v", leases, err)
	}
}
