package engine

import (
	"bytes"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// imported records the images of an archive under their own names.
func imported(found []image.Imported) ([]metadata.Image, error) {
	var records []metadata.Image
	for _, img := range found {
		records = append(records, metadata.Image{Name: img.Name, Target: img.Target})
	}
	return records, nil
}

func TestExportAndImport(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	built := hub.Push("lib/two:v1", twoLayers("top"))
	ref := hub.Host() + "/lib/two:v1"
	if err := b.pull(t, ref, ref); err != nil {
		t.Fatal(err)
	}
	sc := Scope{Namespace: benchNS}
	var archive bytes.Buffer
	if err := b.Export(t.Context(), sc, &archive, ExportOptions{Images: []string{ref}}); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteImage(t.Context(), benchNS, ref, nil, true); err != nil {
		t.Fatal(err)
	}
	b.checkHeld(t, built, false)

	images, err := b.Import(t.Context(), sc, bytes.NewReader(archive.Bytes()), ImportOptions{Unpacks: []Unpack{{}}, Records: imported})
	if err != nil || len(images) != 1 || images[0].Name != ref || images[0].Target.Digest != built.Root.Digest {
		t.Fatalf("imported %+v, %v", images, err)
	}
	if err := b.gc.scheduleOrWait(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	b.checkHeld(t, built, true)

	if err := b.Export(t.Context(), sc, &archive, ExportOptions{Images: []string{"none"}}); !errdefs.IsNotFound(err) {
		t.Errorf("export of no image: %v, want NotFound", err)
	}
	_, err = b.Import(t.Context(), sc, strings.NewReader("no archive"), ImportOptions{Records: imported})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("import of something else: %v, want InvalidArgument", err)
	}
	if leases, err := b.ListLeases(t.Context(), benchNS); err != nil || len(leases) != 0 {
		t.Errorf("leases are left: %+v, %v", leases, err)
	}
}

func TestImportCutShortLeavesNothing(t *testing.T) {
	b, hub := newBench(t), registry.Start(t)
	built := hub.Push("lib/two:v1", twoLayers("top"))
	ref := hub.Host() + "/lib/two:v1"
	if err := b.pull(t, ref, ref); err != nil {
		t.Fatal(err)
	}
	sc := Scope{Namespace: benchNS}
	var archive bytes.Buffer
	if err := b.Export(t.Context(), sc, &archive, ExportOptions{Images: []string{ref}}); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteImage(t.Context(), benchNS, ref, nil, true); err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{0, 100, 512, 2000, archive.Len() / 2, archive.Len() - 2000} {
		_, err := b.Import(t.Context(), sc, bytes.NewReader(archive.Bytes()[:cut]), ImportOptions{Unpacks: []Unpack{{}}, Records: imported})
		if err == nil {
			t.Errorf("the first %d of %d bytes were imported", cut, archive.Len())
		}
		if err := b.gc.scheduleOrWait(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		b.checkHeld(t, built, false)
		if in, err := b.Content(sc).Ingests(t.Context()); err != nil || len(in) != 0 {
			t.Errorf("ingests after a cut at %d: %+v, %v", cut, in, err)
		}
	}
}

func TestPush(t *testing.T) {
	b, from, to := newBench(t), registry.Start(t), registry.Start(t)
	built := from.Push("lib/two:v1", twoLayers("top"))
	if err := b.pull(t, from.Host()+"/lib/two:v1", "mine"); err != nil {
		t.Fatal(err)
	}
	sc := Scope{Namespace: benchNS}
	ref := to.Host() + "/pushed/two:v2"
	if err := b.Push(t.Context(), sc, PushOptions{Image: "mine", Ref: ref}); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteImage(t.Context(), benchNS, "mine", nil, true); err != nil {
		t.Fatal(err)
	}
	if err := b.pull(t, ref, "back"); err != nil {
		t.Fatal(err)
	}
	b.checkHeld(t, built, true)
	if err := b.Push(t.Context(), sc, PushOptions{Image: "none", Ref: ref}); !errdefs.IsNotFound(err) {
		t.Errorf("push of no image: %v, want NotFound", err)
	}
}

func TestUnpackFirst(t *testing.T) {
	arm, amd := ocispec.Platform{OS: "linux", Architecture: "arm64"}, ocispec.Platform{OS: "linux", Architecture: "amd64"}
	if got := unpackFirst([]ocispec.Platform{arm, amd}, amd); len(got) != 2 || got[0].Architecture != "amd64" {
		t.Errorf("got %+v", got)
	}
	if got := unpackFirst([]ocispec.Platform{arm}, ocispec.Platform{}); len(got) != 1 || got[0].Architecture != "arm64" {
		t.Errorf("got %+v", got)
	}
	if got := unpackFirst(nil, amd); len(got) != 1 || got[0].Architecture != "amd64" {
		t.Errorf("got %+v", got)
	}
}
