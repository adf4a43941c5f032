//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/spec"
	"github.com/slipwayd/slipway/testsuite/measure"
)

var measurements = []measurement{
	{name: "containers/s, one at a time", unit: "/s", more: true, goal: "≥ 4×", take: func(ctx context.Context, d *daemon) (float64, error) { return lifecycles(ctx, d, 1, 40) }},
	{name: "containers/s, four at a time", unit: "/s", more: true, goal: "≥ 4×", take: func(ctx context.Context, d *daemon) (float64, error) { return lifecycles(ctx, d, 4, 80) }},
	{name: "run --rm busybox true", unit: "ms", goal: "≤ 0.33×", take: runOnce},
	{name: "fdatasync and fsync in one run --rm", unit: "", goal: "≤ 8 (ours)", runs: 1, take: syncs},
	{name: "pull java, unpacked", unit: "s", goal: "≤ 0.7×", runs: 5, take: pullJava},
	{name: "PSS of the idle daemon", unit: "MB", goal: "≤ 40 MB (ours)", runs: 1, take: idle},
	{name: "PSS of the idle daemon with its shims", unit: "MB", runs: 1, take: idleAll},
	{name: "PSS for each of 100 idle containers", unit: "MB", goal: "≤ 0.5 MB (ours)", runs: 1, take: hundred},
}

var serial atomic.Int64

func newID() string { return fmt.Sprintf("bench-%d-%d", os.Getpid(), serial.Add(1)) }

// lifecycles runs n containers of busybox true from create to delete through the Go client, and answers how many went
// through in a second.
func lifecycles(ctx context.Context, d *daemon, side, n int) (float64, error) {
	img, err := d.client.Image(ctx, d.image("busybox"))
	if err != nil {
		return 0, err
	}
	detail, err := d.client.Detail(ctx, img, nil)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(side)
	for range n {
		g.Go(func() error { return lifecycle(gctx, d, detail) })
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

func lifecycle(ctx context.Context, d *daemon, img client.ImageDetail) error {
	ct, err := create(ctx, d, img, "true")
	if err != nil {
		return err
	}
	task, err := ct.NewTask(ctx, client.Streams{})
	if err != nil {
		return errors.Join(err, ct.Delete(ctx))
	}
	err = task.Start(ctx)
	if err == nil {
		var exit client.Exit
		if exit, err = task.Wait(ctx); err == nil && exit.Code != 0 {
			err = fmt.Errorf("true ended with %d", exit.Code)
		}
	}
	return errors.Join(err, ct.Remove(ctx))
}

func create(ctx context.Context, d *daemon, img client.ImageDetail, args ...string) (*client.Container, error) {
	leased, end, err := d.leased(ctx)
	if err != nil {
		return nil, err
	}
	ct, err := d.client.CreateContainer(leased, client.ContainerOptions{ID: newID(), Image: img, Runtime: d.runtime, Spec: []spec.Opt{spec.Args(args...)}})
	return ct, errors.Join(err, end())
}

// runOnce is the wall time of the command line in milliseconds.
func runOnce(ctx context.Context, d *daemon) (float64, error) {
	const n = 5
	var sum time.Duration
	for range n {
		t, err := d.command(ctx, d.runCmd(newID(), d.image("busybox"), "true"))
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum.Seconds() * 1000 / n, nil
}

var syncCall = regexp.MustCompile(`(?m)\b(fdatasync|fsync|syncfs|sync)\(`)

// syncs counts what a user with a slow disk feels: calls of the daemon and its shims that wait for the disk.
func syncs(ctx context.Context, d *daemon) (float64, error) {
	if _, err := d.command(ctx, d.runCmd(newID(), d.image("busybox"), "true")); err != nil {
		return 0, err // the first one may start a shim
	}
	time.Sleep(2 * time.Second) // background work of what went before
	out := d.dir + "/strace"
	trace := exec.Command("strace", "-f", "-qq", "-e", "trace=fdatasync,fsync,syncfs,sync", "-o", out)
	for _, pid := range d.processes() {
		trace.Args = append(trace.Args, "-p", strconv.Itoa(pid))
	}
	if err := trace.Start(); err != nil {
		return 0, fmt.Errorf("strace is needed: %w", err)
	}
	time.Sleep(time.Second)
	_, err := d.command(ctx, d.runCmd(newID(), d.image("busybox"), "true"))
	time.Sleep(2 * time.Second) // garbage collection that the removal asked for
	_ = trace.Process.Signal(syscall.SIGINT)
	_ = trace.Wait()
	text, rerr := os.ReadFile(out)
	return float64(len(syncCall.FindAll(text, -1))), errors.Join(err, rerr)
}

// pullJava is the time of a pull of two layers of about 90 MB, unpacked, in seconds. The registry is on loopback. What the
// daemon left to the kernel to write is not waited for.
func pullJava(ctx context.Context, d *daemon) (float64, error) {
	image := d.image("java")
	t, err := d.command(ctx, d.pullCmd(image))
	if err != nil {
		return 0, err
	}
	_, err = d.command(ctx, d.rmiCmd(image))
	time.Sleep(2 * time.Second) // removal of its layers must not meet the other's turn
	syscall.Sync()
	return t.Seconds(), err
}

// idle is after all that came before: what pulls and containers left in the daemon counts.
func idle(_ context.Context, d *daemon) (float64, error) {
	return measure.PSS([]int{d.cmd.Process.Pid})
}

func idleAll(_ context.Context, d *daemon) (float64, error) { return d.pss() }

// hundred is the memory that each of 100 sleeping containers adds over shims and daemon, their own processes left out.
func hundred(ctx context.Context, d *daemon) (_ float64, err error) {
	const n = 100
	img, err := d.client.Image(ctx, d.image("busybox"))
	if err != nil {
		return 0, err
	}
	detail, err := d.client.Detail(ctx, img, nil)
	if err != nil {
		return 0, err
	}
	before, err := d.pss()
	if err != nil {
		return 0, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	tasks := make([]*client.Task, n)
	containers := make([]*client.Container, n)
	for i := range n {
		g.Go(func() (err error) {
			if containers[i], err = create(gctx, d, detail, "sleep", "3600"); err != nil {
				return err
			}
			if tasks[i], err = containers[i].NewTask(gctx, client.Streams{}); err != nil {
				return err
			}
			return tasks[i].Start(gctx)
		})
	}
	err = g.Wait()
	time.Sleep(5 * time.Second) // idle
	after, perr := d.pss()
	err = errors.Join(err, perr)
	for i := range n {
		if tasks[i] != nil && tasks[i].Kill(ctx, 9, true) == nil {
			_, _ = tasks[i].Wait(ctx)
			_, _ = tasks[i].Delete(ctx)
		}
		if containers[i] != nil {
			_ = containers[i].Delete(ctx)
		}
	}
	return (after - before) / n, err
}

// pss is the proportional set size of the daemon and its shims, in megabytes (10^6).
func (d *daemon) pss() (float64, error) { return measure.PSS(d.processes()) }
