package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// labelLazy is engine.LabelLazy.
const labelLazy = "slipway.io/lazy"

// startLazyCRI is startCRI with layers that stay where they are if mode, or what images says of theirs, has them.
func startLazyCRI(t *testing.T, mode, images string) (*daemon, *kubelet) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("there is no FUSE: ", err)
	}
	return startCRIWith(t, func(d *daemon) {
		d.config = strings.Replace(lazyConfig, `"always"`, fmt.Sprintf("%q", mode), 1) + "[lazy.images]\n" + images + d.config
	})
}

// modes are how the layers of an image of a namespace are here.
func (d *daemon) modes(t *testing.T, namespace, ref string) string {
	t.Helper()
	var found []struct {
		Layers []struct{ Mode, Reason string }
	}
	if err := json.Unmarshal([]byte(d.slipway(t, "-n", namespace, "inspect", ref)), &found); err != nil {
		t.Fatal(err)
	}
	var modes []string
	for _, l := range found[0].Layers {
		modes = append(modes, l.Mode)
	}
	return strings.Join(modes, " ")
}

// TestLazyPodLife runs a pod of an image that CRI pulled lazily, and no more of it comes than is read.
func TestLazyPodLife(t *testing.T) {
	r := registry.Start(t)
	d, k := startLazyCRI(t, "never", fmt.Sprintf("%q = \"always\"\n", r.Host()+"/lazy/*"))
	l := pushLazy(t, r, 31, far)
	k.layers = len(l.Layers)
	if _, err := k.images.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: l.ref}}); err != nil {
		t.Fatal(err)
	}
	if got := d.modes(t, "k8s.io", l.ref); got != "lazy lazy" {
		t.Errorf("layers are %s", got)
	}
	pod := k.podConfig(name(t))
	c := k.containerConfig(pod, "head -c 3 /data/file00; echo; read go </dev/null; exec sleep 1000")
	c.Image.Image = l.ref
	_, id := k.start(t, pod, c)
	k.awaitState(t, id, runtime.ContainerState_CONTAINER_RUNNING)
	exec := func(script string) string {
		t.Helper()
		out, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}})
		if err != nil || out.ExitCode != 0 {
			t.Fatalf("%s: %v, %v", script, out, err)
		}
		return strings.TrimSpace(string(out.Stdout))
	}
	if got := exec("sha256sum </data/file01"); !strings.HasPrefix(got, l.hash("data/file01")) {
		t.Errorf("file01 has hash %s", got)
	}
	var fetched int64
	for _, req := range r.Requests() {
		if req.Digest == l.data {
			fetched += req.Bytes
		}
	}
	if whole := l.Layers[1].Size; fetched == 0 || fetched > whole/4 {
		t.Errorf("%d bytes of a layer of %d were fetched for its first files", fetched, whole)
	}
	d.kill() // as an upgrade does; the pod reads on meanwhile
	d.start()
	if got := exec(hashAll); got != l.sum() {
		t.Errorf("all files have hash %s, want %s", got, l.sum())
	}
	k.removeAll(t, d)
	if _, err := k.images.RemoveImage(t.Context(), &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: l.ref}}); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}

// TestLazyPolicies: whether a CRI pull is lazy is said by the pod or its image, then by the record, the configuration's names of images,
// the namespace and the configuration.
func TestLazyPolicies(t *testing.T) {
	r := registry.Start(t)
	d, k := startLazyCRI(t, "auto", fmt.Sprintf("%q = \"never\"\n", r.Host()+"/lazy/*"))
	conn, err := grpc.NewClient("unix://"+d.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	base, err := ociimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	base.Layers[0].Compression = ociimage.EStargz
	for _, step := range []struct {
		what, repo        string
		image, pod, label string // modes said there
		want              string
	}{
		{what: "the name of the image", repo: "lazy/a", want: "full"},
		{what: "the pod", repo: "lazy/b", pod: "always", want: "lazy"},
		{what: "the image, before the pod", repo: "lazy/c", image: "never", pod: "always", want: "full"},
		{what: "the configuration", repo: "other/d", want: "lazy"}, // it is above auto's minimum
		{what: "the namespace", repo: "other/e", label: "never", want: "full"},
	} {
		img := base // with a layer that no other step has pulled
		img.Layers = []ociimage.Layer{base.Layers[0]}
		img.Layers[0].Files = append([]ociimage.File{ociimage.Regular("step", 0o644, step.repo)}, base.Layers[0].Files...)
		r.Push(step.repo+":v1", img)
		if step.label != "" {
			_, err := namespacesapi.NewNamespacesClient(conn).Update(t.Context(), &namespacesapi.UpdateNamespaceRequest{
				Namespace: &namespacesapi.Namespace{Name: "k8s.io", Labels: map[string]string{labelLazy: step.label}}})
			if err != nil {
				t.Fatal(err)
			}
		}
		annotated := func(mode string) map[string]string {
			if mode == "" {
				return nil
			}
			return map[string]string{labelLazy: mode}
		}
		req := &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: r.Host() + "/" + step.repo + ":v1", Annotations: annotated(step.image)},
			SandboxConfig: &runtime.PodSandboxConfig{Annotations: annotated(step.pod)}}
		if _, err := k.images.PullImage(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if got := d.modes(t, "k8s.io", req.Image.Image); got != step.want {
			t.Errorf("%s: the layer is %s, want %s", step.what, got, step.want)
		}
	}
}

// TestLazyNeverWaits: run --lazy=never of an image that was pulled lazily has all of it here before the container starts.
func TestLazyNeverWaits(t *testing.T) {
	r, d := registry.Start(t), startLazy(t)
	l := pushLazy(t, r, 32, far)
	d.slipway(t, "pull", l.ref)
	d.slipway(t, "run", "--rm", "--lazy=never", l.ref, "true")
	if err := r.Down(); err != nil {
		t.Fatal(err)
	}
	if got := d.modes(t, "default", l.ref); got != "arrived arrived" {
		t.Errorf("layers are %s", got)
	}
	d.expectSum(t, l)
}
