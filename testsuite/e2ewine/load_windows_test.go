package e2ewine

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/spec"
)

// runDaemon runs a daemon that is expected to refuse.
func runDaemon(d *daemon) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary(d, "slipwayd"), "--config", d.config(), "--root", d.root, "--state", d.state, "--address", d.address).CombinedOutput()
	return string(out), err
}

// TestParallel is 48 life cycles side by side.
func TestParallel(t *testing.T) {
	d := newDaemon(t)
	img := d.image(hello())
	var wait sync.WaitGroup
	errs := make([]error, 48)
	for i := range errs {
		wait.Go(func() { errs[i] = d.cycle(img, fmt.Sprintf("p%d", i), i) })
	}
	wait.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("life cycle %d: %v", i, err)
		}
	}
}

// cycle is a container from its making to its removal, whose process ends with a code of its own.
func (d *daemon) cycle(img client.ImageDetail, id string, code int) error {
	ct, err := d.CreateContainer(d.ctx, client.ContainerOptions{ID: id, Image: img, Spec: []spec.Opt{spec.Args("cmd", "/c", fmt.Sprintf("exit %d", code))}})
	if err != nil {
		return err
	}
	task, err := ct.NewTask(d.ctx, client.Streams{})
	if err != nil {
		return err
	}
	if err := task.Start(d.ctx); err != nil {
		return err
	}
	exit, err := task.Wait(d.ctx)
	if err != nil {
		return err
	}
	if exit.Code != uint32(code) {
		return fmt.Errorf("exit code %d, want %d", exit.Code, code)
	}
	if _, err := task.Delete(d.ctx); err != nil {
		return err
	}
	return ct.Remove(d.ctx)
}

// BenchmarkCall is one call over the pipe, and says the median and the 99th of 100 in µs.
func BenchmarkCall(b *testing.B) {
	d := newDaemon(b)
	if _, _, err := d.Version(d.ctx); err != nil { // the connection
		b.Fatal(err)
	}
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if _, _, err := d.Version(d.ctx); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkCycle is one container's life.
func BenchmarkCycle(b *testing.B) {
	d := newDaemon(b)
	img := d.image(hello())
	for n := 0; b.Loop(); n++ {
		if err := d.cycle(img, fmt.Sprintf("b%d", n), 0); err != nil {
			b.Fatal(err)
		}
	}
}
