//go:build linux

// Command benchlazy measures how soon containers of images that are not here do something useful, of Slipway and its peers
// side by side in one run, and prints the README's tables, for `make bench-lazy`.
//
//	benchlazy -slipway bin -registry 127.0.0.1:5000 [-peers DIR] [-stargz stargzd] [-rounds N] [-images python,big] [-links 20ms,100mbit] [-more warm,trips] [-only NAME,NAME] [-limit 1m] [-wide]
//
// The registry is reached through a proxy (package slowlink) that makes it 20 ms away, and in a second run lets 100 Mbit/s
// through as well. For each start all daemons of a contender are new and empty; the page cache is dropped and then the
// registry's part of it filled again. What is timed begins with the command that a user types and ends when the program inside
// has said what it was asked for. Then the image is removed, and started a second time, and so on (see trial.go). Contenders take
// turns, round by round; medians are compared. What takes longer than -limit is given up, and printed as more than that. The registry must hold the images of ../shared/images; the big ones and the
// eStargz twins are made and pushed when they are missing.
//
// A crash of benchlazy leaves daemons and mounts below /var/tmp/slipway-benchlazy.*; it prints which.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/slipwayd/slipway/testsuite/measure"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/slowlink"
)

// options are the flags.
type options struct {
	slipway, peers, stargz, registry string
	images, links, only, more        string
	rounds                           int
	limit                            time.Duration
	verbose, wide                    bool
}

// workload is an image with what a container of it does first.
type workload struct {
	repo   string
	args   []string
	ready  string // what the program's output holds when it has done something useful
	narrow bool   // started over the narrow line too
	files  func(layer int) []ociimage.File
}

// link is a way to the registry.
type link struct {
	name string
	slowlink.Config
}

var links = []link{
	{"20ms", slowlink.Config{RTT: 20 * time.Millisecond}},
	{"100mbit", slowlink.Config{RTT: 20 * time.Millisecond, Bandwidth: 100e6}},
}

func main() {
	var o options
	flag.StringVar(&o.slipway, "slipway", "bin", "directory of Slipway's programs")
	flag.StringVar(&o.peers, "peers", os.Getenv("PEERS"), "directory of a newer containerd, ctr and shim; Debian's otherwise")
	flag.StringVar(&o.stargz, "stargz", "", "the program built of testsuite/stargzd; ctr-remote must be on PATH")
	flag.StringVar(&o.registry, "registry", "127.0.0.1:5000", "registry that holds the images")
	flag.StringVar(&o.images, "images", "python,node,java,nginx,redis,bench-2gb", "which images are started")
	flag.StringVar(&o.links, "links", "20ms,100mbit", "ways to the registry")
	flag.StringVar(&o.more, "more", "warm,memory,many,trips,everything", "what else is measured")
	flag.StringVar(&o.only, "only", "", "only contenders whose names hold one of these")
	flag.IntVar(&o.rounds, "rounds", 1, "how often each is measured")
	flag.DurationVar(&o.limit, "limit", time.Minute, "how long a start may take")
	flag.BoolVar(&o.wide, "wide", false, "start all images over the narrow line too, which takes half an hour for each round")
	flag.BoolVar(&o.verbose, "v", false, "print each measurement to standard error")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "benchlazy:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, o options) (err error) {
	work, err := os.MkdirTemp("/var/tmp", "slipway-benchlazy.")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	h := hub{o.registry}
	if err := h.prepare(ctx, append(slices.Clone(workloads), many)); err != nil {
		return err
	}
	fmt.Printf("%s, %s\n", time.Now().Format(time.DateOnly), measure.Machine())
	for _, l := range links {
		if !slices.Contains(strings.Split(o.links, ","), l.name) {
			continue
		}
		if err := table(ctx, o, h, work, l); err != nil {
			return fmt.Errorf("over %s: %w", l.name, err)
		}
	}
	return warm(ctx, o, h, work)
}

// table prints the starts of all images over one link.
func table(ctx context.Context, o options, h hub, work string, l link) (err error) {
	l.Target = h.host
	line, err := slowlink.Listen("127.0.0.1:0", l.Config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, line.Close()) }()
	all := contenders(o, work, line.Addr())
	fmt.Printf("\nSeconds to first useful output over %s (MB fetched until then):\n\n| image | start |", l.name)
	for _, c := range all {
		fmt.Printf(" %s |", c.name)
	}
	fmt.Print(" lazy / best peer |\n|---|---|" + strings.Repeat("---|", len(all)+1) + "\n")
	for _, w := range workloads {
		if !slices.Contains(strings.Split(o.images, ","), w.repo) {
			continue
		}
		if !w.narrow && l.Bandwidth > 0 && !o.wide {
			continue
		}
		t, err := rows(ctx, o, trial{h, line, o.limit, w}, all)
		if err != nil {
			return fmt.Errorf("%s: %w", w.repo, err)
		}
		t.print(w.repo, all, o.limit.Seconds())
	}
	return nil
}

// times are the results of one image by start and contender.
type times struct{ seconds, megabytes [starts][][]float64 }

// rows measures all starts of one image of all contenders in turn.
func rows(ctx context.Context, o options, t trial, all []*contender) (r times, err error) {
	for i := range starts {
		r.seconds[i], r.megabytes[i] = make([][]float64, len(all)), make([][]float64, len(all))
	}
	for round := range o.rounds {
		for n, c := range all {
			got, err := t.all(ctx, c)
			if err != nil {
				return r, fmt.Errorf("%s: %w", c.name, err)
			}
			for i, s := range got {
				if s == nil {
					continue
				}
				r.seconds[i][n] = append(r.seconds[i][n], s.took.Seconds())
				r.megabytes[i][n] = append(r.megabytes[i][n], float64(s.line.Received)/1e6)
				if o.verbose {
					fmt.Fprintf(os.Stderr, "%s round %d, %s, %s: %.2f s (commands %v) %.2f MB %d requests %d connections\n",
						t.repo, round+1, c.name, startNames[i], s.took.Seconds(), s.steps, float64(s.line.Received)/1e6, s.line.Requests, s.line.Connections)
				}
			}
		}
	}
	return r, nil
}

// print writes the image's rows. The last column compares the best of Slipway's lazy ways with the best peer.
func (r times) print(image string, all []*contender, limit float64) {
	for i, start := range startNames {
		fmt.Printf("| %s | %s |", image, start)
		ours, theirs := 0.0, 0.0
		for n, c := range all {
			from := c.sameAs(i)
			if len(r.seconds[from][n]) == 0 {
				fmt.Print(" – |") // an earlier start was too late
				continue
			}
			s := measure.Median(r.seconds[from][n])
			switch {
			case from != i:
				fmt.Print(" as above |")
			case s >= limit:
				fmt.Printf(" >%.0f (%.1f) |", s, measure.Median(r.megabytes[i][n]))
			default:
				fmt.Printf(" %.2f (%.1f) |", s, measure.Median(r.megabytes[i][n]))
			}
			if c.lazy && c.ours && (ours == 0 || s < ours) {
				ours = s
			}
			if !c.ours && (theirs == 0 || s < theirs) {
				theirs = s
			}
		}
		if ours == 0 || theirs == 0 {
			fmt.Print(" – |\n")
			continue
		}
		fmt.Printf(" %.2f× |\n", ours/theirs)
	}
}
