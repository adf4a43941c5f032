package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
)

func (a *app) logsCmd() *cobra.Command {
	var follow, stamps bool
	var tail int
	cmd := &cobra.Command{
		Use: "logs CONTAINER", Short: "Show the output of a container that runs in the background", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				ct, err := c.Container(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				path := ct.Labels[client.LabelLog]
				if path == "" {
					return fmt.Errorf("container %s keeps no log: only those run with --detach do: %w", ct.ID, errdefs.ErrFailedPrecondition)
				}
				f, err := os.Open(path)
				if err != nil {
					return fmt.Errorf("cannot read the log of %s: %w", ct.ID, err)
				}
				defer f.Close()
				p := logPrinter{out: a.out, err: a.err, stamps: stamps}
				return p.print(cmd.Context(), f, tail, func() bool {
					if !follow {
						return false
					}
					_, task, err := running(cmd.Context(), c, ct.ID)
					return err == nil && task != nil
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the container ends")
	cmd.Flags().BoolVarP(&stamps, "timestamps", "t", false, "put the time before each line")
	cmd.Flags().IntVar(&tail, "tail", -1, "show only the last lines, all if negative")
	return cmd
}

// logPrinter prints a log in CRI's format: "TIME STREAM P|F TEXT", where P is a line that goes on in the next record.
type logPrinter struct {
	out, err io.Writer
	stamps   bool
	inLine   map[string]bool // stream -> its last record was partial
}

// logPoll is how often a log is looked at for more.
const logPoll = 100 * time.Millisecond

// print shows the last tail records and, while more says so, what is added.
func (p *logPrinter) print(ctx context.Context, f *os.File, tail int, more func() bool) error {
	p.inLine = map[string]bool{}
	r := bufio.NewReaderSize(f, 64<<10)
	var last []string // ring of the records to show at first
	var rest string   // of a record that is still being written
	live := tail < 0
	for {
		line, err := r.ReadString('\n')
		rest += line
		switch {
		case err == nil && live:
			p.record(rest)
			rest = ""
		case err == nil:
			last = append(last, rest)
			last = last[max(0, len(last)-tail):]
			rest = ""
		case !errors.Is(err, io.EOF):
			return fmt.Errorf("cannot read the log: %w", err)
		default:
			for _, l := range last {
				p.record(l)
			}
			last, live = nil, true
			if !p.wait(ctx, r, more) {
				return nil
			}
		}
	}
}

// wait pauses until there may be more to read, and answers false at the end.
func (p *logPrinter) wait(ctx context.Context, r *bufio.Reader, more func() bool) bool {
	goesOn := more()
	if !goesOn { // what came between the end of the file and the end of the container
		_, err := r.Peek(1)
		return err == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(logPoll):
		return true
	}
}

func (p *logPrinter) record(line string) {
	fields := strings.SplitN(line, " ", 4)
	if len(fields) < 4 {
		fmt.Fprint(p.out, line)
		return
	}
	stamp, stream, tag, text := fields[0], fields[1], fields[2], fields[3]
	w := p.out
	if stream == "stderr" {
		w = p.err
	}
	if p.stamps && !p.inLine[stream] {
		text = stamp + " " + text
	}
	p.inLine[stream] = tag == "P"
	if tag == "P" {
		text = strings.TrimSuffix(text, "\n")
	}
	fmt.Fprint(w, text)
}
