//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/slipwayd/slipway/testsuite/measure"
	"github.com/slipwayd/slipway/testsuite/slowlink"
)

// trial is one image over one line.
type trial struct {
	hub
	line  *slowlink.Link
	limit time.Duration // that a start is given
	workload
}

// sample is one start.
type sample struct {
	took  time.Duration   // from the first command to the output; what was given to it when it was too late
	steps []time.Duration // when each command had ended, or the output had come
	line  slowlink.Stats  // until the output
}

var serial atomic.Int64

// The starts of one image, in the order they are made.
const (
	first    = iota // on empty daemons
	second          // the image was removed by its tool's own command; what that leaves is the contender's merit
	profiled        // the image was removed and so were all bytes of layers; only a start profile is left
	again           // nothing was removed, and the page cache is full
	fromDisk        // nothing was removed, and the page cache is empty
	starts
)

var startNames = [starts]string{"first", "second", "second, only a profile left", "again", "again, page cache dropped"}

// errLate is a start that took longer than options.limit.
var errLate = errors.New("it took too long")

// sameAs answers the start that one would be no other than: without lazy layers nothing outlives an image that is removed.
func (c *contender) sameAs(start int) int {
	switch {
	case !c.lazy && (start == second || start == profiled):
		return first
	case start == profiled && c.cache == "":
		return second
	}
	return start
}

// all makes all starts; one is nil when it would be no other than an earlier one, or comes after one that was too late.
func (t trial) all(ctx context.Context, c *contender) (got [starts]*sample, err error) {
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := c.renew(ctx); err != nil {
		return got, err
	}
	for i := range got {
		if c.sameAs(i) != i {
			continue
		}
		if i == second || i == profiled {
			if _, err := c.command(ctx, c.remove(c.image(t.repo))); err != nil {
				return got, err
			}
			time.Sleep(time.Second) // what removal left to the background
		}
		if i == profiled {
			if err := c.restart(ctx, func() error { return os.RemoveAll(c.cache) }); err != nil {
				return got, err
			}
		}
		s, err := t.start(ctx, c, i, nil)
		got[i] = &s
		if errors.Is(err, errLate) {
			return got, nil
		}
		if err != nil {
			return got, fmt.Errorf("start %q: %w", startNames[i], err)
		}
	}
	return got, nil
}

// cold empties the page cache, and has the registry read the image again.
func (t trial) cold(ctx context.Context, c *contender) error {
	if err := measure.DropCaches(); err != nil {
		return err
	}
	repo := t.repo
	if c.twin {
		repo = twinPrefix + repo
	}
	return t.warm(ctx, repo)
}

// start does what a user does who wants a container of the image; kind is one of the starts above. seen is called with the output that
// made it ready; it may be nil. With errLate the sample says how long it was given.
func (t trial) start(ctx context.Context, c *contender, kind int, seen func(said string) error) (s sample, err error) {
	if kind != again {
		if err := t.cold(ctx, c); err != nil {
			return s, err
		}
	}
	commands := c.start(fmt.Sprintf("lazy-%d-%d", os.Getpid(), serial.Add(1)), c.image(t.repo), t.args)
	if kind == again || kind == fromDisk {
		commands = commands[len(commands)-1:] // the image is here
	}
	for _, argv := range commands {
		_ = exec.Command(argv[0], "--version").Run() // what a user types is in memory
	}
	limited, cancel := context.WithTimeoutCause(ctx, t.limit, errLate)
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() == nil && context.Cause(limited) == errLate {
			s.took, s.line, err = t.limit, t.line.Stats(), errLate
		}
	}()
	t.line.Reset()
	begin := time.Now()
	for _, argv := range commands[:len(commands)-1] {
		if _, err := c.command(limited, argv); err != nil {
			return s, err
		}
		s.steps = append(s.steps, time.Since(begin).Round(time.Millisecond))
	}
	return s, c.until(limited, commands[len(commands)-1], t.ready, func(said string) error {
		s.took, s.line = time.Since(begin), t.line.Stats()
		s.steps = append(s.steps, s.took.Round(time.Millisecond))
		if seen != nil {
			return seen(said)
		}
		return nil
	})
}

// until runs a command, calls seen once when its output holds a text, and waits for its end.
func (c *contender) until(ctx context.Context, argv []string, text string, seen func(said string) error) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })() // a container may hold the other end
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	found := false
	buf := make([]byte, 4096)
	for {
		n, rerr := r.Read(buf)
		out.Write(buf[:n])
		if !found && strings.Contains(out.String(), text) {
			found = true
			err = seen(out.String())
		}
		if rerr != nil {
			if !errors.Is(rerr, io.EOF) {
				err = rerr
			}
			break
		}
	}
	if err = errors.Join(err, cmd.Wait(), ctx.Err()); err == nil && !found {
		err = fmt.Errorf("it does not say %q", text)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: output %q", strings.Join(argv, " "), err, out.String())
	}
	return nil
}
