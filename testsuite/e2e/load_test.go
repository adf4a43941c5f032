package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
)

// TestManyAtOnce runs containers side by side while images come and go, so that collection runs among them.
func TestManyAtOnce(t *testing.T) {
	const workers, rounds = 4, 10
	d := startDaemon(t)
	c, ctx := dial(t, d)
	img := pull(t, c, ctx)
	prefix := name(t)
	failed := make(chan error, workers+1)
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for r := range rounds {
				id := fmt.Sprintf("%s-%d-%d", prefix, w, r)
				if err := liveWhole(ctx, c, img, id); err != nil {
					failed <- fmt.Errorf("%s: %w", id, err)
					return
				}
			}
		})
	}
	group.Go(func() {
		for range rounds {
			if _, err := d.trySlipway(t, "--namespace", "other", "pull", busybox); err != nil {
				failed <- err
				return
			}
			if _, err := d.trySlipway(t, "--namespace", "other", "rmi", busybox); err != nil {
				failed <- err
				return
			}
		}
	})
	group.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	d.checkNoContainers(t, prefix)
	dropImage(t, d, c, ctx, img.Name(), prefix)
}

// liveWhole takes a container through its life and expects all of it to go well.
func liveWhole(ctx context.Context, c *client.Client, img client.Image, id string) error {
	container, err := c.NewContainer(ctx, id, client.WithNewSnapshot(id, img),
		client.WithNewSpec(oci.WithImageConfig(img), oci.WithProcessArgs("sh", "-c", "exit 3")))
	if err != nil {
		return err
	}
	task, err := container.NewTask(ctx, cio.NullIO)
	if err != nil {
		return err
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	if err := task.Start(ctx); err != nil {
		return err
	}
	status := <-exit
	if code, _, err := status.Result(); err != nil || code != 3 {
		return errors.Join(err, fmt.Errorf("exit status %d, want 3", code))
	}
	if _, err := task.Delete(ctx); err != nil {
		return err
	}
	return container.Delete(ctx, client.WithSnapshotCleanup)
}
