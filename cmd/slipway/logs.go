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
		Example: "  slipway logs --follow --tail 20 web",
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
					return err == nil && task != nil || errdefs.IsUnavailable(err) // a daemon that restarts is no end
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
	buffer   *bufio.Writer   // of what goes to the writer to
	to       io.Writer
	failed   error
}

// logPoll is how often a log is looked at for more.
const logPoll = 100 * time.Millisecond

// print shows the last tail lines and, while more says so, what is added.
func (p *logPrinter) print(ctx context.Context, f *os.File, tail int, more func() bool) error {
	p.inLine = map[string]bool{}
	r := bufio.NewReaderSize(f, 64<<10)
	last := lastLines{n: tail, open: map[string]*logLine{}}
	var rest string // of a record that is still being written
	live := tail < 0
	for {
		text, err := r.ReadString('\n')
		rest += text
		switch {
		case err == nil && live:
			p.record(rest)
			rest = ""
		case err == nil:
			last.add(rest)
			rest = ""
		case !errors.Is(err, io.EOF):
			return fmt.Errorf("cannot read the log: %w", err)
		default:
			for _, l := range last.lines {
				for _, record := range *l {
					p.record(record)
				}
			}
			last.lines, live = nil, true
			if err := p.flush(); err != nil || !p.wait(ctx, r, more) {
				return err
			}
		}
	}
}

// logLine is the records of one line.
type logLine []string

// lastLines keeps the last n lines of a log.
type lastLines struct {
	n     int
	lines []*logLine
	open  map[string]*logLine // stream -> its line that goes on
}

func (l *lastLines) add(record string) {
	_, stream, tag, _ := fields(record)
	line := l.open[stream]
	if line == nil {
		line = &logLine{}
		l.lines = append(l.lines, line)
		l.lines = l.lines[max(0, len(l.lines)-l.n):]
	}
	*line = append(*line, record)
	if l.open[stream] = nil; tag == "P" {
		l.open[stream] = line
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

// fields are those of a record; one that is not CRI's is all text.
func fields(record string) (stamp, stream, tag, text string) {
	f := strings.SplitN(record, " ", 4)
	if len(f) < 4 {
		return "", "", "", record
	}
	return f[0], f[1], f[2], f[3]
}

func (p *logPrinter) record(line string) {
	stamp, stream, tag, text := fields(line)
	w := p.out
	if stream == "stderr" {
		w = p.err
	}
	if p.stamps && !p.inLine[stream] && stamp != "" {
		text = stamp + " " + text
	}
	p.inLine[stream] = tag == "P"
	if tag == "P" {
		text = strings.TrimSuffix(text, "\n")
	}
	if p.buffer == nil {
		p.buffer = bufio.NewWriterSize(nil, 64<<10)
	}
	if w != p.to { // the order between the streams is kept
		p.failed = errors.Join(p.failed, p.flush())
		p.to = w
		p.buffer.Reset(w)
	}
	_, _ = p.buffer.WriteString(text) // flush tells
}

// flush writes what was printed so far.
func (p *logPrinter) flush() error {
	if p.to == nil || p.failed != nil {
		return p.failed
	}
	return p.buffer.Flush()
}
