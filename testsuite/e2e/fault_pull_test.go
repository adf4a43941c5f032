package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/transfer/image"
	reg "github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/platforms"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// transferPull pulls in the daemon, where pull has the client do it.
func transferPull(t *testing.T, c *client.Client, ctx context.Context, ref string) error {
	t.Helper()
	source, err := reg.NewOCIRegistry(ctx, ref, reg.WithDefaultScheme("http"))
	if err != nil {
		t.Fatal(err)
	}
	p := platforms.DefaultSpec()
	return c.Transfer(ctx, source, image.NewStore(ref, image.WithPlatforms(p), image.WithUnpack(p, "")))
}

// layered is an image of several layers big enough to be cut in the middle.
func layered() ociimage.Image {
	base, err := ociimage.Busybox()
	if err != nil {
		panic(err) // TestMain has made one already
	}
	for i := range 3 {
		base.Layers = append(base.Layers, ociimage.Layer{Files: []ociimage.File{
			ociimage.Regular(fmt.Sprintf("data%d", i), 0o644, strings.Repeat(fmt.Sprintf("%d:", i), 1<<20)),
		}, Compression: ociimage.None})
	}
	return base
}

func TestDaemonDiesDuringAPull(t *testing.T) {
	hub := registry.Start(t)
	built := hub.Push("lib/layered:v1", layered())
	ref := hub.Host() + "/lib/layered:v1"
	last := len(built.Layers) - 1
	for name, at := range map[string]registry.Match{
		"manifest":    {Method: "GET", Path: "/manifests/v1", Times: 1},
		"base layer":  {Method: "GET", Digest: built.Layers[0].Digest, Times: 1},
		"upper layer": {Method: "GET", Digest: built.Layers[last].Digest, Times: 1},
	} {
		for _, sent := range []int64{0, 100_000, 1e9} {
			t.Run(fmt.Sprintf("%s, %d sent", name, sent), func(t *testing.T) {
				d := startDaemon(t)
				hub.Fault(at, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					k := &killingWriter{ResponseWriter: w, left: sent, kill: sync.OnceFunc(d.kill)}
					next.ServeHTTP(k, r)
					k.kill()
				})
				c, ctx := dial(t, d)
				pulled := transferPull(t, c, ctx, ref)
				hub.Fault(at, func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) })
				if pulled == nil {
					t.Fatal("the daemon was not killed in time")
				}
				d.kill() // which waits for the one under way
				d.start()
				finishPull(t, d, ref)
			})
		}
	}
}

// killingWriter kills the daemon when it has been sent some bytes of an answer, or all of it.
type killingWriter struct {
	http.ResponseWriter
	left int64
	kill func()
}

func (w *killingWriter) Write(p []byte) (int, error) {
	if w.left -= int64(len(p)); w.left <= 0 {
		w.kill()
	}
	return w.ResponseWriter.Write(p)
}

// finishPull pulls again, runs the image, and removes it: nothing may be left of this pull or the one before.
func finishPull(t *testing.T, d *daemon, ref string) {
	t.Helper()
	c, ctx := dial(t, d)
	if err := transferPull(t, c, ctx, ref); err != nil {
		t.Fatal(err)
	}
	img, err := c.GetImage(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	id := name(t)
	container := create(t, c, ctx, img, id, "sh", "-c", "cat /data* | wc -c | grep -q 6291456")
	task, exit := begin(t, ctx, container, cio.NullIO)
	if code := await(t, exit); code != 0 {
		t.Error("the image's files are not whole")
	}
	remove(t, ctx, container, task)
	dropImage(t, d, c, ctx, ref, id)
}

// dropImage deletes an image together with the leases that killed pulls left, which would expire in a day.
func dropImage(t *testing.T, d *daemon, c *client.Client, ctx context.Context, ref string, ids ...string) {
	t.Helper()
	leases, err := c.LeasesService().List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leases {
		if err := c.LeasesService().Delete(ctx, l); err != nil {
			t.Error(err)
		}
	}
	if err := c.ImageService().Delete(ctx, ref, images.SynchronousDelete()); err != nil {
		t.Error(err)
	}
	d.checkEmpty(t, ids...)
}
