//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/slipwayd/slipway/testsuite/measure"
	"github.com/slipwayd/slipway/testsuite/slowlink"
)

// warm prints how fast a file reads that is here, and what serving takes in memory. The registry is near.
func warm(ctx context.Context, o options, h hub, work string) (err error) {
	line, err := slowlink.Listen("127.0.0.1:0", slowlink.Config{Target: h.host})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, line.Close()) }()
	all := contenders(o, work, line.Addr())
	fmt.Print("\nReading a file of 256 MB in the container that has just read it for the first time, and memory of what serves layers:\n\n| what |")
	for _, c := range all {
		fmt.Printf(" %s |", c.name)
	}
	fmt.Print("\n|---|" + strings.Repeat("---|", len(all)) + "\n")
	big, python := workload{repo: "bench-2gb", args: []string{"/bin/reader", "warm", "/data/big"}, ready: "ready"}, workload{
		repo: "python", args: []string{"python3", "-c", `import numpy, flask, time; print("re" + "ady", flush=True); time.sleep(5)`}, ready: "ready"}
	table := []struct {
		name string
		take func(c *contender) ([]float64, error)
		rows []string
	}{
		{take: func(c *contender) ([]float64, error) { return c.reads(ctx, trial{h, line, big}) },
			rows: []string{"first read, 1 MiB at a time, MB/s", "warm, 1 MiB at a time, MB/s", "warm, 4 KiB at random, reads/s"}},
		{take: func(c *contender) ([]float64, error) { return c.memory(ctx, trial{h, line, python}) },
			rows: []string{"PSS with python running, MB"}},
		{take: func(c *contender) ([]float64, error) { return c.memory(ctx, trial{h, line, many}) },
			rows: []string{"PSS with an image of 100,000 files, all looked at, MB"}},
	}
	for _, group := range table {
		values := make([][]float64, len(all)) // by contender, then row
		for n, c := range all {
			if values[n], err = c.several(o.rounds, group.take); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
		for i, row := range group.rows {
			fmt.Printf("| %s |", row)
			for n := range all {
				if i < len(values[n]) {
					fmt.Printf(" %.4g |", values[n][i])
				} else {
					fmt.Print(" – |")
				}
			}
			fmt.Println()
		}
	}
	return nil
}

// several answers the medians of some rounds.
func (c *contender) several(rounds int, take func(c *contender) ([]float64, error)) ([]float64, error) {
	var taken [][]float64
	for range rounds {
		v, err := take(c)
		if err != nil {
			return nil, err
		}
		for i := range v {
			if i == len(taken) {
				taken = append(taken, nil)
			}
			taken[i] = append(taken[i], v[i])
		}
	}
	medians := make([]float64, len(taken))
	for i := range taken {
		medians[i] = measure.Median(taken[i])
	}
	return medians, nil
}

// reads answers what the program reader measured in a container.
func (c *contender) reads(ctx context.Context, t trial) (v []float64, err error) {
	var out string
	err = c.once(ctx, t, func(said string) error { out = said; return nil })
	for _, f := range strings.Fields(out) {
		if n, err := strconv.ParseFloat(f, 64); err == nil {
			v = append(v, n)
		}
	}
	if len(v) != 3 {
		return nil, errors.Join(err, fmt.Errorf("reader said %q", out))
	}
	return v, err
}

// memory is the PSS of the processes that serve layers, while a container of the image runs; none for contenders without.
func (c *contender) memory(ctx context.Context, t trial) (v []float64, err error) {
	if c.server == "" {
		return nil, nil
	}
	return v, c.once(ctx, t, func(string) error {
		pids := slices.DeleteFunc(measure.Processes(c.dir), func(pid int) bool {
			exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
			return err != nil || filepath.Base(exe) != c.server
		})
		if len(pids) == 0 {
			return fmt.Errorf("no process of %s", c.server)
		}
		mb, err := measure.PSS(pids)
		v = []float64{mb}
		return err
	})
}

// once starts the image on empty daemons and calls seen when it is ready, with what it said.
func (c *contender) once(ctx context.Context, t trial, seen func(said string) error) (err error) {
	if err := c.renew(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	_, err = t.start(ctx, c, seen)
	return err
}
