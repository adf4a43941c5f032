package e2e

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestLazyRemoteLabels pulls as dockerd with containerd's image store does (any snapshotter, with labels), and nerdctl (with labels to
// one that is called stargz only): the client fetches no layer, and its containers read them.
func TestLazyRemoteLabels(t *testing.T) {
	for _, snapshotter := range []string{"overlayfs", "stargz"} {
		t.Run(snapshotter, func(t *testing.T) {
			r, d := registry.Start(t), startLazy(t)
			l := pushLazy(t, r, 34, far)
			c, ctx := dial(t, d)
			image, err := c.Pull(ctx, l.ref, client.WithPullUnpack, client.WithPullSnapshotter(snapshotter),
				client.WithResolver(docker.NewResolver(docker.ResolverOptions{PlainHTTP: true})),
				client.WithImageHandlerWrapper(snapshotters.AppendInfoHandlerWrapper(l.ref)))
			if err != nil {
				t.Fatal(err)
			}
			if got := d.modes(t, "e2e", l.ref); got != "lazy lazy" {
				t.Errorf("layers are %s", got)
			}
			if _, err := c.ContentStore().Info(ctx, l.data); !errdefs.IsNotFound(err) {
				t.Errorf("the layer's blob is here, or is not known to be: %v", err)
			}
			container, err := c.NewContainer(ctx, name(t), client.WithSnapshotter(snapshotter), client.WithNewSnapshot(name(t), image),
				client.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("sh", "-c", hashAll)))
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			task, exit := begin(t, ctx, container, cio.NewCreator(cio.WithStreams(nil, &out, nil), cio.WithFIFODir(filepath.Join(d.dir, "fifos"))))
			if status := <-exit; status.ExitCode() != 0 {
				t.Errorf("the container ends with %d, %v", status.ExitCode(), status.Error())
			}
			if _, err := task.Delete(ctx); err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(out.String()); got != l.sum() {
				t.Errorf("all files have hash %q, want %s", got, l.sum())
			}
			if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
				t.Fatal(err)
			}
			d.slipway(t, "-n", "e2e", "rmi", l.ref)
			d.checkEmpty(t)
		})
	}
}

// TestNerdctlRunsLazily is the same with nerdctl itself.
func TestNerdctlRunsLazily(t *testing.T) {
	program := onPath(t, "nerdctl")
	r, d := registry.Start(t), startLazy(t)
	l := pushLazy(t, r, 35, far)
	data := t.TempDir()
	out := run(t, nil, program, "--address", d.address, "--namespace", "e2e", "--data-root", data, "--cni-netconfpath", filepath.Join(data, "cni"),
		"--cgroup-manager", "cgroupfs", "--insecure-registry", "--snapshotter", "stargz", "run", "--rm", "--quiet", "--net", "none", l.ref, "sh", "-c", hashAll)
	if strings.TrimSpace(out) != l.sum() {
		t.Errorf("all files have hash %q, want %s", out, l.sum())
	}
	if got := d.modes(t, "e2e", l.ref); got != "lazy lazy" {
		t.Errorf("layers are %s", got)
	}
}
