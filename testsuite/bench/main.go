//go:build linux

// Command bench measures Slipway and its peers side by side in one run and prints a table of ratios, for `make bench`.
//
//	bench -slipway bin -registry 127.0.0.1:5000 [-peers DIR] [-only NAME] [-rounds N]
//
// Every measurement is made of all daemons in turn, round by round, so that what else the machine does meets all of them;
// medians are compared. Each daemon gets a root and state of its own below one temporary directory. The registry must hold
// busybox and java from ../shared/images. A crash of bench leaves that directory and daemons, which print their pids.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/slipwayd/slipway/testsuite/measure"
)

// measurement is one row of the table.
type measurement struct {
	name string
	unit string
	more bool // more is better
	goal string
	runs int // rounds, at most those asked for
	take func(ctx context.Context, d *daemon) (float64, error)
}

func main() {
	bin := flag.String("slipway", "bin", "directory of slipwayd, slipway and slipway-shim")
	peers := flag.String("peers", os.Getenv("PEERS"), "directory of a newer containerd, ctr and shim; Debian's otherwise")
	registry := flag.String("registry", "127.0.0.1:5000", "registry that holds busybox and java")
	only := flag.String("only", "", "run only measurements whose name contains this")
	rounds := flag.Int("rounds", 5, "how often each is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, *bin, *peers, *registry, *only, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, bin, peers, registry, only string, rounds int) (err error) {
	work, err := os.MkdirTemp("/var/tmp", "slipway-bench.")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	daemons := []*daemon{slipway(bin, filepath.Join(work, "s"), registry), containerd(peers, filepath.Join(work, "c"), registry)}
	for _, d := range daemons {
		if err := d.start(ctx); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		defer func() { err = errors.Join(err, d.stop()) }()
		if err := d.pull(ctx, "busybox"); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	fmt.Printf("%s, %s\n\n", time.Now().Format(time.DateOnly), measure.Machine())
	fmt.Printf("| what | %s | %s | ratio | goal |\n|---|---|---|---|---|\n", daemons[0].name, daemons[1].name)
	for _, m := range measurements {
		if !strings.Contains(m.name, only) {
			continue
		}
		if err := m.row(ctx, daemons, rounds); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// row measures all daemons in turn and prints their medians.
func (m measurement) row(ctx context.Context, daemons []*daemon, rounds int) error {
	if m.runs > 0 {
		rounds = min(rounds, m.runs)
	}
	taken := make([][]float64, len(daemons))
	for range rounds {
		for i, d := range daemons {
			v, err := m.take(ctx, d)
			if err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
			taken[i] = append(taken[i], v)
		}
	}
	ours, theirs := measure.Median(taken[0]), measure.Median(taken[1])
	ratio := "-"
	if theirs > 0 {
		ratio = fmt.Sprintf("%.2f×", ours/theirs)
	}
	fmt.Printf("| %s | %.4g %s | %.4g %s | %s | %s |\n", m.name, ours, m.unit, theirs, m.unit, ratio, m.goal)
	return nil
}
