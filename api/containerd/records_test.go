package containerd

import (
	"errors"
	"io"
	"maps"
	"testing"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func TestNamespaces(t *testing.T) {
	h := newReadyHost(t)
	c := namespacesapi.NewNamespacesClient(h)
	create := func(name string) error {
		_, err := c.Create(t.Context(), &namespacesapi.CreateNamespaceRequest{
			Namespace: &namespacesapi.Namespace{Name: name, Labels: map[string]string{"a": "b", "c": "d"}},
		})
		return err
	}
	wantCode(t, create("moby"), codes.OK)
	wantCode(t, create("moby"), codes.AlreadyExists)
	wantCode(t, create("version"), codes.InvalidArgument)
	wantCode(t, create("a/b"), codes.InvalidArgument)
	_, err := c.Create(t.Context(), &namespacesapi.CreateNamespaceRequest{})
	wantCode(t, err, codes.InvalidArgument)

	ns := must(c.Update(t.Context(), &namespacesapi.UpdateNamespaceRequest{
		Namespace:  &namespacesapi.Namespace{Name: "moby", Labels: map[string]string{"c": "e"}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels.c"}},
	}))(t).Namespace
	if !maps.Equal(ns.Labels, map[string]string{"a": "b", "c": "e"}) {
		t.Errorf("labels are %v", ns.Labels)
	}
	must(put(t, h, in(t, "moby"), "x", nil))(t)
	_, err = c.Delete(t.Context(), &namespacesapi.DeleteNamespaceRequest{Name: "moby"})
	wantCode(t, err, codes.FailedPrecondition)
	must(contentapi.NewContentClient(h).Delete(in(t, "moby"), &contentapi.DeleteContentRequest{Digest: digest.FromString("x").String()}))(t)
	must(c.Delete(t.Context(), &namespacesapi.DeleteNamespaceRequest{Name: "moby"}))(t)
	gone := must(c.Get(t.Context(), &namespacesapi.GetNamespaceRequest{Name: "moby"}))(t).Namespace
	if gone.Name != "moby" || len(gone.Labels) > 0 {
		t.Errorf("a namespace that is not there: %v", gone)
	}
	_, err = c.Get(t.Context(), &namespacesapi.GetNamespaceRequest{Name: "a/b"})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.Delete(t.Context(), &namespacesapi.DeleteNamespaceRequest{Name: "moby"})
	wantCode(t, err, codes.NotFound)
}

// box is a container as a client sends it.
func box(id string) *containersapi.Container {
	return &containersapi.Container{
		ID: id, Image: "docker.io/library/busybox:latest", Labels: map[string]string{"tier": "web", "a.b": "c"},
		Runtime:     &containersapi.Container_Runtime{Name: "io.containerd.runc.v2", Options: &anypb.Any{TypeUrl: "opt", Value: []byte("o")}},
		Spec:        &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(`{}`)},
		Snapshotter: "fake", SnapshotKey: id, Sandbox: "pod",
		Extensions: map[string]*anypb.Any{"ext": {TypeUrl: "e", Value: []byte("1")}},
	}
}

func TestContainers(t *testing.T) {
	h := newReadyHost(t)
	c := containersapi.NewContainersClient(h)
	made := must(c.Create(in(t, "ns"), &containersapi.CreateContainerRequest{Container: box("one")}))(t).Container
	if made.CreatedAt == nil || made.UpdatedAt == nil {
		t.Error("a new container has no times")
	}
	want := box("one")
	want.CreatedAt, want.UpdatedAt = made.CreatedAt, made.UpdatedAt
	if got := must(c.Get(in(t, "ns"), &containersapi.GetContainerRequest{ID: "one"}))(t).Container; !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for name, test := range map[string]struct {
		change func(*containersapi.Container)
		code   codes.Code
	}{
		"again":               {func(*containersapi.Container) {}, codes.AlreadyExists},
		"bad id":              {func(c *containersapi.Container) { c.ID = "../x" }, codes.InvalidArgument},
		"no runtime":          {func(c *containersapi.Container) { c.ID, c.Runtime = "two", nil }, codes.InvalidArgument},
		"no spec":             {func(c *containersapi.Container) { c.ID, c.Spec = "two", nil }, codes.InvalidArgument},
		"unknown snapshotter": {func(c *containersapi.Container) { c.ID, c.Snapshotter = "two", "zfs" }, codes.InvalidArgument},
		"big label":           {func(c *containersapi.Container) { c.ID, c.Labels["k"] = "two", string(make([]byte, 4096)) }, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			b := box("one")
			test.change(b)
			_, err := c.Create(in(t, "ns"), &containersapi.CreateContainerRequest{Container: b})
			wantCode(t, err, test.code)
		})
	}
	_, err := c.Create(in(t, "ns"), &containersapi.CreateContainerRequest{})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.Get(in(t, "other"), &containersapi.GetContainerRequest{ID: "one"})
	wantCode(t, err, codes.NotFound)
}

func TestContainerUpdates(t *testing.T) {
	h := newReadyHost(t)
	c := containersapi.NewContainersClient(h)
	must(c.Create(in(t, "ns"), &containersapi.CreateContainerRequest{Container: box("one")}))(t)
	update := func(b *containersapi.Container, paths ...string) (*containersapi.Container, error) {
		resp, err := c.Update(in(t, "ns"), &containersapi.UpdateContainerRequest{Container: b, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		return resp.GetContainer(), err
	}
	got := must(update(&containersapi.Container{ID: "one", Labels: map[string]string{"a.b": "d"}}, "labels.a.b"))(t)
	if got.Labels["a.b"] != "d" || got.Labels["tier"] != "web" || got.Spec == nil {
		t.Errorf("a mask of one label changed more: %v", got)
	}
	got = must(update(&containersapi.Container{ID: "one", Extensions: map[string]*anypb.Any{"new": {TypeUrl: "n"}}}, "extensions.new"))(t)
	if len(got.Extensions) != 2 {
		t.Errorf("extensions are %v", got.Extensions)
	}
	_, err := update(&containersapi.Container{ID: "one", Runtime: &containersapi.Container_Runtime{Name: "x"}}, "runtime")
	wantCode(t, err, codes.InvalidArgument)
	_, err = update(&containersapi.Container{ID: "none"}, "labels")
	wantCode(t, err, codes.NotFound)
	// An empty mask is labels, spec, extensions, image and snapshot key.
	b := box("one")
	b.Image, b.SnapshotKey, b.Labels = "other", "k2", map[string]string{"only": "this"}
	got = must(update(b))(t)
	if got.Image != "other" || got.SnapshotKey != "k2" || len(got.Labels) != 1 {
		t.Errorf("an empty mask changed %v", got)
	}
}

func TestContainerListAndStreamAgree(t *testing.T) {
	h := newReadyHost(t)
	c := containersapi.NewContainersClient(h)
	for _, id := range []string{"b", "a", "c"} {
		b := box(id)
		b.Labels = map[string]string{"id.is": id}
		must(c.Create(in(t, "ns"), &containersapi.CreateContainerRequest{Container: b}))(t)
	}
	for filter, want := range map[string]string{
		"":                       "abc",
		`labels."id.is"==b`:      "b",
		`id!=b`:                  "ac",
		`labels."id.is"~=^[bc]$`: "bc",
		`id==x`:                  "",
	} {
		req := &containersapi.ListContainersRequest{}
		if filter != "" {
			req.Filters = []string{filter}
		}
		var listed, streamed string
		for _, b := range must(c.List(in(t, "ns"), req))(t).Containers {
			listed += b.ID
		}
		s := must(c.ListStream(in(t, "ns"), req))(t)
		for {
			m, err := s.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			streamed += m.Container.ID
		}
		if listed != want || streamed != want {
			t.Errorf("filter %q: listed %q, streamed %q, want %q", filter, listed, streamed, want)
		}
	}
	_, err := c.List(in(t, "ns"), &containersapi.ListContainersRequest{Filters: []string{"id=="}})
	wantCode(t, err, codes.InvalidArgument)
}

func TestImagesKeepTheirContent(t *testing.T) {
	h := newReadyHost(t)
	images, content := imagesapi.NewImagesClient(h), contentapi.NewContentClient(h)
	layer := must(put(t, h, in(t, "ns"), "layer", nil))(t)
	manifest := must(put(t, h, in(t, "ns"), "manifest", map[string]string{"containerd.io/gc.ref.content.l.0": layer.String()}))(t)
	target := &types.Descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: manifest.String(), Size: 8}
	must(images.Create(in(t, "ns"), &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "img", Target: target}}))(t)
	must(images.Create(in(t, "ns"), &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "gone", Target: target}}))(t)
	_, err := images.Create(in(t, "ns"), &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "img", Target: target}})
	wantCode(t, err, codes.AlreadyExists)
	_, err = images.Create(in(t, "ns"), &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "x"}})
	wantCode(t, err, codes.InvalidArgument)

	// One name goes: the other keeps everything.
	must(images.Delete(in(t, "ns"), &imagesapi.DeleteImageRequest{Name: "gone", Sync: true}))(t)
	must(content.Info(in(t, "ns"), &contentapi.InfoRequest{Digest: layer.String()}))(t)

	_, err = images.Delete(in(t, "ns"), &imagesapi.DeleteImageRequest{Name: "img", Target: &types.Descriptor{Digest: layer.String()}})
	wantCode(t, err, codes.NotFound)
	must(images.Delete(in(t, "ns"), &imagesapi.DeleteImageRequest{Name: "img", Target: target, Sync: true}))(t)
	for _, d := range []digest.Digest{layer, manifest} {
		_, err = content.Info(in(t, "ns"), &contentapi.InfoRequest{Digest: d.String()})
		wantCode(t, err, codes.NotFound)
	}
	_, err = images.Get(in(t, "ns"), &imagesapi.GetImageRequest{Name: "img"})
	wantCode(t, err, codes.NotFound)
}

func TestImageUpdateOfLabelsKeepsTheTarget(t *testing.T) {
	h := newReadyHost(t)
	images := imagesapi.NewImagesClient(h)
	d := must(put(t, h, in(t, "ns"), "m", nil))(t)
	must(images.Create(in(t, "ns"), &imagesapi.CreateImageRequest{Image: &imagesapi.Image{
		Name: "img", Target: &types.Descriptor{MediaType: "m", Digest: d.String(), Size: 1},
	}}))(t)
	got := must(images.Update(in(t, "ns"), &imagesapi.UpdateImageRequest{
		Image:      &imagesapi.Image{Name: "img", Labels: map[string]string{"a": "b"}, Target: &types.Descriptor{}}, // as ctr sends it
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels.a"}},
	}))(t).Image
	if got.Target.GetDigest() != d.String() || got.Labels["a"] != "b" {
		t.Errorf("updated to %v", got)
	}
	list := must(images.List(in(t, "ns"), &imagesapi.ListImagesRequest{Filters: []string{"target.digest~=^" + d.String()[:12]}}))(t).Images
	if len(list) != 1 {
		t.Errorf("filter by target digest found %v", list)
	}
}

func TestLeases(t *testing.T) {
	h := newReadyHost(t)
	c, content := leasesapi.NewLeasesClient(h), contentapi.NewContentClient(h)
	must(c.Create(in(t, "ns"), &leasesapi.CreateRequest{ID: "l", Labels: map[string]string{"containerd.io/gc.flat": "2026-01-01T00:00:00Z"}}))(t)
	_, err := c.Create(in(t, "ns"), &leasesapi.CreateRequest{ID: "l"})
	wantCode(t, err, codes.AlreadyExists)
	kept := must(put(t, h, in(t, "ns", "l"), "kept", nil))(t)
	loose := must(put(t, h, in(t, "ns"), "loose", nil))(t)
	_, err = put(t, h, in(t, "ns", "none"), "with an unknown lease", nil)
	wantCode(t, err, codes.NotFound)

	// BuildKit's way of asking for a collection.
	must(c.Create(in(t, "ns"), &leasesapi.CreateRequest{ID: "tmp"}))(t)
	must(c.Delete(in(t, "ns"), &leasesapi.DeleteRequest{ID: "tmp", Sync: true}))(t)
	must(content.Info(in(t, "ns"), &contentapi.InfoRequest{Digest: kept.String()}))(t)
	_, err = content.Info(in(t, "ns"), &contentapi.InfoRequest{Digest: loose.String()})
	wantCode(t, err, codes.NotFound)

	must(c.AddResource(in(t, "ns"), &leasesapi.AddResourceRequest{ID: "l", Resource: &leasesapi.Resource{Type: "snapshots/fake", ID: "k"}}))(t)
	_, err = c.AddResource(in(t, "ns"), &leasesapi.AddResourceRequest{ID: "l", Resource: &leasesapi.Resource{Type: "pods", ID: "k"}})
	if code := status.Code(err); code != codes.InvalidArgument && code != codes.Unimplemented {
		t.Errorf("an unknown resource type is %s", code)
	}
	_, err = c.AddResource(in(t, "ns"), &leasesapi.AddResourceRequest{ID: "l"})
	wantCode(t, err, codes.InvalidArgument)
	if got := must(c.ListResources(in(t, "ns"), &leasesapi.ListResourcesRequest{ID: "l"}))(t).Resources; len(got) != 2 {
		t.Errorf("resources are %v", got)
	}
	must(c.DeleteResource(in(t, "ns"), &leasesapi.DeleteResourceRequest{ID: "l", Resource: &leasesapi.Resource{Type: "content", ID: kept.String()}}))(t)
	must(c.Delete(in(t, "ns"), &leasesapi.DeleteRequest{ID: "l", Sync: true}))(t)
	_, err = content.Info(in(t, "ns"), &contentapi.InfoRequest{Digest: kept.String()})
	wantCode(t, err, codes.NotFound)
	if got := must(c.List(in(t, "ns"), &leasesapi.ListRequest{}))(t).Leases; len(got) != 0 {
		t.Errorf("leases left: %v", got)
	}
}
