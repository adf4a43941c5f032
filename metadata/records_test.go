package metadata

import (
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func dgst(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }

func blob(i int) Blob { return Blob{Digest: dgst(i), Size: int64(i)} }

func image(name string, target int) Image {
	return Image{Name: name, Target: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgst(target), Size: 1}}
}

func container(id string) Container {
	return Container{ID: id, Runtime: Runtime{Name: "io.containerd.runc.v2"}, Spec: &Any{TypeURL: "spec", Value: []byte("{}")}}
}

func TestNamespaces(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		n := tx.Namespaces()
		for name, want := range map[string]error{
			"default": nil, "k8s.io": nil, "a_b-c.d": nil,
			"":                      errdefs.ErrFailedPrecondition,
			"version":               errdefs.ErrInvalidArgument,
			"a..b":                  errdefs.ErrInvalidArgument,
			"-a":                    errdefs.ErrInvalidArgument,
			"a/b":                   errdefs.ErrInvalidArgument,
			"a\n":                   errdefs.ErrInvalidArgument,
			"a-":                    errdefs.ErrInvalidArgument,
			"a._b":                  errdefs.ErrInvalidArgument,
			"é":                     errdefs.ErrInvalidArgument,
			strings.Repeat("a", 76): nil,
			strings.Repeat("a", 77): errdefs.ErrInvalidArgument,
		} {
			_, err := n.Create(Namespace{Name: name})
			is(t, fmt.Sprintf("Create(%q)", name), err, want)
		}
		_, err := n.Create(Namespace{Name: "default"})
		is(t, "Create again", err, errdefs.ErrAlreadyExists)
		_, err = n.Update(Namespace{Name: "default", Labels: map[string]string{"a": "1", "b.c": "2"}})
		is(t, "Update", err, nil)
		got, err := n.Update(Namespace{Name: "default", Labels: map[string]string{"b.c": ""}}, "labels.b.c")
		if err != nil || len(got.Labels) != 1 || got.Labels["a"] != "1" {
			t.Errorf("Update with a mask: %v, %v", got, err)
		}
		_, err = n.Update(Namespace{Name: "default"}, "name")
		is(t, "Update of the name", err, errdefs.ErrInvalidArgument)
		_, err = n.Update(Namespace{Name: "nobody"})
		is(t, "Update of nothing", err, errdefs.ErrNotFound)

		_, err = tx.Images("implied").Create(image("i", 1))
		is(t, "image in a namespace that is not there", err, nil)
		err = n.Delete("implied")
		is(t, "Delete of one that is not empty", err, errdefs.ErrFailedPrecondition)
		if err == nil || !strings.Contains(err.Error(), "images") {
			t.Errorf("Delete does not say what is there: %v", err)
		}
		is(t, "Delete of the image", tx.Images("implied").Delete("i", ""), nil)
		is(t, "Delete", n.Delete("implied"), nil)
		is(t, "Delete of nothing", n.Delete("implied"), errdefs.ErrNotFound)
		_, err = tx.Images("").List()
		is(t, "List without a namespace", err, errdefs.ErrFailedPrecondition)
		_, err = tx.Containers("version").Get("x")
		is(t, "Get in a namespace that cannot be", err, errdefs.ErrInvalidArgument)
		list, err := n.List("name==default", "labels.none")
		if err != nil || len(list) != 1 || list[0].Labels["a"] != "1" {
			t.Errorf("List: %v, %v", list, err)
		}
		return nil
	})
}

func TestImages(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		images := tx.Images("default")
		for name, wrong := range map[string]func(*Image){
			"name":        func(i *Image) { i.Name = "" },
			"long name":   func(i *Image) { i.Name = strings.Repeat("a", maxName+1) },
			"NUL":         func(i *Image) { i.Name = "a\x00b" },
			"digest":      func(i *Image) { i.Target.Digest = "sha256:x" },
			"no digest":   func(i *Image) { i.Target.Digest = "" },
			"size":        func(i *Image) { i.Target.Size = 0 },
			"media type":  func(i *Image) { i.Target.MediaType = "" },
			"label":       func(i *Image) { i.Labels = map[string]string{"a": strings.Repeat("x", maxLabel)} },
			"label key":   func(i *Image) { i.Labels = map[string]string{"": "x"} },
			"annotations": func(i *Image) { i.Target.Annotations = map[string]string{"a": strings.Repeat("x", maxRecord)} },
		} {
			i := image("i", 1)
			wrong(&i)
			_, err := images.Create(i)
			is(t, "Create with a wrong "+name, err, errdefs.ErrInvalidArgument)
		}
		i := image("docker.io/library/busybox:latest", 1)
		i.Labels = map[string]string{"a": "1", "b.c": "2", "gone": ""}
		i.Target.Annotations = map[string]string{"x": "1"}
		created, err := images.Create(i)
		is(t, "Create", err, nil)
		if created.CreatedAt.IsZero() || !created.CreatedAt.Equal(created.UpdatedAt) || len(created.Labels) != 2 || len(i.Labels) != 3 {
			t.Errorf("created %+v", created)
		}
		_, err = images.Create(i)
		is(t, "Create again", err, errdefs.ErrAlreadyExists)
		got, err := images.Get(i.Name)
		if err != nil || !reflect.DeepEqual(got, created) {
			t.Errorf("Get: %+v, %v, want %+v", got, err, created)
		}

		change := image(i.Name, 2)
		change.Labels = map[string]string{"b.c": "3", "d": "4"}
		change.Target.Annotations = map[string]string{"y": "2"}
		for _, test := range []struct {
			paths       []string
			labels      map[string]string
			target      int
			annotations map[string]string
			err         error
		}{
			{[]string{"labels.b.c"}, map[string]string{"a": "1", "b.c": "3"}, 1, map[string]string{"x": "1"}, nil},
			{[]string{"labels.a"}, map[string]string{"b.c": "3"}, 1, map[string]string{"x": "1"}, nil},
			{[]string{"annotations.y"}, map[string]string{"b.c": "3"}, 1, map[string]string{"x": "1", "y": "2"}, nil},
			{[]string{"name"}, nil, 0, nil, errdefs.ErrInvalidArgument},
			{[]string{"labels", "annotations"}, map[string]string{"b.c": "3", "d": "4"}, 1, map[string]string{"y": "2"}, nil},
			{[]string{"target"}, map[string]string{"b.c": "3", "d": "4"}, 2, map[string]string{"y": "2"}, nil},
			{nil, map[string]string{"b.c": "3", "d": "4"}, 2, map[string]string{"y": "2"}, nil},
		} {
			got, err := images.Update(change, test.paths...)
			is(t, fmt.Sprintf("Update %v", test.paths), err, test.err)
			if err == nil && (!maps.Equal(got.Labels, test.labels) || !maps.Equal(got.Target.Annotations, test.annotations) || got.Target.Digest != dgst(test.target)) {
				t.Errorf("Update %v made %+v", test.paths, got)
			}
		}
		_, err = images.Update(image("nobody", 1))
		is(t, "Update of nothing", err, errdefs.ErrNotFound)

		is(t, "Delete of another target", images.Delete(i.Name, dgst(1)), errdefs.ErrNotFound)
		is(t, "Delete", images.Delete(i.Name, dgst(2)), nil)
		is(t, "Delete again", images.Delete(i.Name, ""), errdefs.ErrNotFound)
		return nil
	})
}

func TestPages(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		for _, ns := range []string{"a", "b", "c"} {
			for i := range 25 {
				r := image(fmt.Sprintf("i%02d", i), i)
				r.Labels = map[string]string{"odd": strconv.FormatBool(i%2 == 1)}
				if _, err := tx.Images(ns).Create(r); err != nil {
					return err
				}
			}
		}
		return nil
	})
	view(t, db, func(tx *Tx) error {
		for _, filters := range [][]string{nil, {"labels.odd==true"}} {
			var paged []Image
			after := ""
			for {
				list, err := tx.Images("b").Page(after, 10, filters...)
				if err != nil {
					return err
				}
				paged = append(paged, list...)
				if len(list) < 10 {
					break
				}
				after = list[9].Name
			}
			all, err := tx.Images("b").List(filters...)
			if err != nil || !reflect.DeepEqual(paged, all) || len(all) != map[bool]int{true: 25, false: 12}[filters == nil] {
				t.Errorf("%q: %d in pages, %d at once, %v", filters, len(paged), len(all), err)
			}
		}
		list, err := tx.Images("b").List("name==i07", "name==i03,labels.odd==true", "name==i04,labels.odd==true", "name==none", `name==""`)
		if err != nil || len(list) != 2 || list[0].Name != "i03" || list[1].Name != "i07" {
			t.Errorf("by name: %v, %v", list, err)
		}
		list, err = tx.Images("b").Page("i03", 1, "name==i07", "name==i03", "name==i20")
		if err != nil || len(list) != 1 || list[0].Name != "i07" {
			t.Errorf("a page by name: %v, %v", list, err)
		}
		list, err = tx.Images("b").List("target.digest==" + dgst(3).String())
		if err != nil || len(list) != 1 || list[0].Name != "i03" {
			t.Errorf("by target: %v, %v", list, err)
		}
		_, err = tx.Images("b").List("name=x")
		is(t, "a filter that cannot be read", err, errdefs.ErrInvalidArgument)
		return nil
	})
}

func TestContainers(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		containers := tx.Containers("default")
		for name, wrong := range map[string]func(*Container){
			"id":          func(c *Container) { c.ID = "a/b" },
			"runtime":     func(c *Container) { c.Runtime.Name = "" },
			"spec":        func(c *Container) { c.Spec = nil },
			"snapshotter": func(c *Container) { c.SnapshotKey = "x" },
			"extension":   func(c *Container) { c.Extensions = map[string]Any{"": {}} },
			"size":        func(c *Container) { c.Spec.Value = make([]byte, maxBigRecord) },
		} {
			c := container("c")
			wrong(&c)
			_, err := containers.Create(c)
			is(t, "Create with a wrong "+name, err, errdefs.ErrInvalidArgument)
		}
		c := container("c")
		c.Labels = map[string]string{"a": "1"}
		c.Image, c.Snapshotter, c.SnapshotKey, c.SandboxID = "i", "overlay", "k", "pod"
		c.Runtime.Options = &Any{TypeURL: "options", Value: []byte{0, 1, 0xff}}
		c.Extensions = map[string]Any{"x": {TypeURL: "x", Value: []byte("xx")}, "y.z": {TypeURL: "y"}}
		created, err := containers.Create(c)
		is(t, "Create", err, nil)
		if string(c.Spec.Value) != "{}" || string(c.Extensions["x"].Value) != "xx" {
			t.Errorf("Create changed what it was given: %+v", c)
		}
		got, err := containers.Get("c")
		if err != nil || !reflect.DeepEqual(got, created) {
			t.Errorf("Get: %+v, %v, want %+v", got, err, created)
		}

		change := container("c")
		change.Snapshotter, change.SnapshotKey = "overlay", "k2"
		change.Extensions = map[string]Any{"x": {TypeURL: "x2"}}
		got, err = containers.Update(change, "extensions.x", "snapshotkey", "labels.a")
		if err != nil || got.Extensions["x"].TypeURL != "x2" || len(got.Extensions) != 2 || got.SnapshotKey != "k2" || len(got.Labels) != 0 || got.Image != "i" {
			t.Errorf("Update with a mask: %+v, %v", got, err)
		}
		_, err = containers.Update(change, "runtime")
		is(t, "Update of the runtime", err, errdefs.ErrInvalidArgument)
		other := change
		other.Snapshotter = "native"
		_, err = containers.Update(other)
		is(t, "Update with another snapshotter", err, errdefs.ErrInvalidArgument)
		change.Spec = &Any{TypeURL: "spec2"}
		got, err = containers.Update(change)
		if err != nil || got.Spec.TypeURL != "spec2" || got.Image != "" || len(got.Extensions) != 1 || got.SandboxID != "pod" {
			t.Errorf("Update of all: %+v, %v", got, err)
		}
		again, err := containers.Get("c")
		if err != nil || again.Spec.TypeURL != "spec2" || len(again.Extensions) != 1 {
			t.Errorf("Get after Update: %+v, %v", again, err)
		}
		for f, want := range map[string]int{"id==c": 1, "runtime.name==io.containerd.runc.v2": 1, "image": 0, "id==d": 0, "id~=^c": 1} {
			list, err := containers.List(f)
			if err != nil || len(list) != want {
				t.Errorf("List(%q): %d, %v, want %d", f, len(list), err, want)
			}
		}
		is(t, "Delete", containers.Delete("c"), nil)
		is(t, "Delete again", containers.Delete("c"), errdefs.ErrNotFound)
		return nil
	})
}

func TestSandboxes(t *testing.T) {
	db := open(t)
	update(t, db, func(tx *Tx) error {
		sandboxes := tx.Sandboxes("default")
		s := Sandbox{ID: "pod", Runtime: Runtime{Name: "r"}, Spec: &Any{Value: []byte("s")}, Sandboxer: "podsandbox", Extensions: map[string]Any{"a": {Value: []byte("b")}}}
		created, err := sandboxes.Create(s)
		is(t, "Create", err, nil)
		got, err := sandboxes.Get("pod")
		if err != nil || !reflect.DeepEqual(got, created) {
			t.Errorf("Get: %+v, %v, want %+v", got, err, created)
		}
		_, err = sandboxes.Update(Sandbox{ID: "pod", Runtime: Runtime{Name: "r2"}})
		is(t, "Update with another runtime", err, errdefs.ErrInvalidArgument)
		_, err = sandboxes.Update(s, "sandboxer")
		is(t, "Update of the sandboxer", err, errdefs.ErrInvalidArgument)
		got, err = sandboxes.Update(Sandbox{ID: "pod", Labels: map[string]string{"l": "1"}}, "labels.l", "extensions.a")
		if err != nil || len(got.Extensions) != 0 || got.Labels["l"] != "1" || got.Spec == nil {
			t.Errorf("Update: %+v, %v", got, err)
		}
		is(t, "Delete", sandboxes.Delete("pod"), nil)
		_, err = sandboxes.Get("pod")
		is(t, "Get of nothing", err, errdefs.ErrNotFound)
		return nil
	})
}

func FuzzDecodeContainer(f *testing.F) {
	c := container("c")
	c.Extensions = map[string]Any{"x": {Value: []byte("y")}}
	data, err := encodeContainer(c)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeContainer("c", data)
		if err != nil {
			return
		}
		again, err := encodeContainer(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeContainer("c", again); err != nil {
			t.Fatalf("cannot read what was written: %v", err)
		}
	})
}
