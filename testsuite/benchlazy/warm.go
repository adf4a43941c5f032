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
	"time"

	"github.com/slipwayd/slipway/testsuite/measure"
	"github.com/slipwayd/slipway/testsuite/slowlink"
)

// group is what is measured with one start of each contender, a row of the table for each value.
type group struct {
	name string // that -more selects it by
	rows []string
	take func(c *contender) ([]float64, error)
}

// warm prints how fast a file reads that is here, what serving takes in memory, and what else a user may ask. The registry is near
// where nothing else is said.
func warm(ctx context.Context, o options, h hub, work string) (err error) {
	line, err := slowlink.Listen("127.0.0.1:0", slowlink.Config{Target: h.host})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, line.Close()) }()
	all := contenders(o, work, line.Addr())
	fmt.Print("\nWarm is a file of 256 MB in the container that has just read it for the first time; PSS is of what serves layers:\n\n| what |")
	for _, c := range all {
		fmt.Printf(" %s |", c.name)
	}
	fmt.Print("\n|---|" + strings.Repeat("---|", len(all)) + "\n")
	big := workload{repo: "bench-2gb", args: []string{"/bin/reader", "warm", "/data/big"}, ready: "ready"}
	python := workload{repo: "python", args: []string{"python3", "-c", `import numpy, flask, time; print("re" + "ady", flush=True); time.sleep(5)`}, ready: "ready"}
	for _, g := range []group{
		{"warm", []string{"first read, 1 MiB at a time, MB/s", "warm, 1 MiB at a time, MB/s", "warm, 4 KiB at random, reads/s"},
			func(c *contender) ([]float64, error) { return c.reads(ctx, trial{h, line, o.limit, big}) }},
		{"memory", []string{"PSS with python running, MB"}, func(c *contender) ([]float64, error) { return c.memory(ctx, trial{h, line, o.limit, python}) }},
		{"many", []string{"PSS with an image of 100,000 files, all looked at, MB"},
			func(c *contender) ([]float64, error) { return c.memory(ctx, trial{h, line, o.limit, many}) }},
		{"trips", []string{"round trips from the name of an image of 19 layers to a running container"},
			func(c *contender) ([]float64, error) { return c.trips(ctx, h, o.limit) }},
		{"everything", []string{"seconds to read all of python, over 100 Mbit/s and 20 ms", "MB fetched until then"},
			func(c *contender) ([]float64, error) { return c.everything(ctx, h, o.limit) }},
	} {
		if !slices.Contains(strings.Split(o.more, ","), g.name) {
			continue
		}
		if err := g.print(all, o); err != nil {
			return err
		}
	}
	return nil
}

func (g group) print(all []*contender, o options) (err error) {
	values, late := make([][]float64, len(all)), make([]bool, len(all)) // by contender, then row
	for n, c := range all {
		if values[n], err = c.several(o.rounds, g.take); errors.Is(err, errLate) {
			late[n] = true
		} else if err != nil {
			return fmt.Errorf("%s: %s: %w", g.rows[0], c.name, err)
		}
	}
	for i, row := range g.rows {
		fmt.Printf("| %s |", row)
		for n := range all {
			switch {
			case late[n]:
				fmt.Printf(" not in %.0f s |", o.limit.Seconds())
			case i < len(values[n]):
				fmt.Printf(" %.4g |", values[n][i])
			default:
				fmt.Print(" – |")
			}
		}
		fmt.Println()
	}
	return nil
}

// over has the contender start something through a line of its own.
func (c *contender) over(ctx context.Context, h hub, limit time.Duration, cfg slowlink.Config, w workload) (s sample, err error) {
	cfg.Target = h.host
	line, err := slowlink.Listen("127.0.0.1:0", cfg)
	if err != nil {
		return s, err
	}
	near := *c
	near.registry = line.Addr()
	defer func() { err = errors.Join(err, near.stop(), line.Close()) }()
	if err := near.renew(ctx); err != nil {
		return s, err
	}
	return trial{h, line, limit, w}.start(ctx, &near, first, nil)
}

// trips answers how many round trips lie one after the other, by making them longer.
func (c *contender) trips(ctx context.Context, h hub, limit time.Duration) ([]float64, error) {
	if !c.twin {
		return nil, nil // the bytes of a first pull in full take their time, not the trips
	}
	const short, long = 20 * time.Millisecond, 220 * time.Millisecond
	nothing := workload{repo: "bench-2gb", args: []string{"/bin/reader", "some"}, ready: "ready"}
	a, err := c.over(ctx, h, limit, slowlink.Config{RTT: short}, nothing)
	if err != nil {
		return nil, err
	}
	b, err := c.over(ctx, h, limit, slowlink.Config{RTT: long}, nothing)
	return []float64{(b.took - a.took).Seconds() / (long - short).Seconds()}, err
}

// everything has python's image read from end to end by a program in it.
func (c *contender) everything(ctx context.Context, h hub, limit time.Duration) ([]float64, error) {
	s, err := c.over(ctx, h, limit, links[1].Config, workload{repo: "python", ready: "ready",
		args: []string{"bash", "-c", "find / -xdev -type f -print0 | xargs -0 cat >/dev/null; echo ready"}})
	return []float64{s.took.Seconds(), float64(s.line.Received) / 1e6}, err
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
	for line := range strings.Lines(out) {
		if strings.Contains(line, "level=") {
			continue // a warning of the peer's, with numbers of its own
		}
		for _, f := range strings.Fields(line) {
			if n, err := strconv.ParseFloat(f, 64); err == nil {
				v = append(v, n)
			}
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
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := c.renew(ctx); err != nil {
		return err
	}
	_, err = t.start(ctx, c, first, seen)
	return err
}
