package pods

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/oneshot"
	"github.com/slipwayd/slipway/shim"
)

// Streams are a client's ends of a process's streams, nil for those it does not want. Reading and writing must fail once the client is gone, or after
// the verb that was given them has returned.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool
	Sizes          <-chan Size // of the terminal; nil for one that does not change
}

// Size of a terminal in characters.
type Size struct{ Width, Height uint16 }

// Exec runs a command in a container with a client's streams, and answers its exit code when it has ended and what it wrote is with the client. A command
// whose ctx ends is killed with all that it began; one whose client goes away is not, its output is dropped.
func (m *Manager) Exec(ctx context.Context, id string, cmd []string, s Streams) (int32, error) {
	c, err := m.running(id)
	if err != nil {
		return 0, err
	}
	ctx, cancel := m.living(ctx)
	defer cancel()
	dir, err := os.MkdirTemp(m.dir(c.pod.id), "exec-")
	if err != nil {
		return 0, fmt.Errorf("cannot make a place for the command's streams: %w", err)
	}
	defer os.RemoveAll(dir)
	x := &session{m: m, c: c, dir: dir, execID: "stream-" + rand.Text(), streams: s}
	defer x.close()
	code, err := x.run(ctx, cmd)
	if err != nil {
		return 0, fmt.Errorf("cannot execute %.200q in container %s: %w", cmd, c.id, err)
	}
	return code, nil
}

// living is ctx, which ends with the manager too.
func (m *Manager) living(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(m.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// session is one command with a client at its streams.
type session struct {
	m       *Manager
	c       *container
	dir     string
	execID  string
	streams Streams
	outputs []*oneshot.Output
	input   *oneshot.Input
}

// open makes the fifos.
func (x *session) open() (shim.Streams, error) {
	uris := shim.Streams{Terminal: x.streams.Terminal}
	for _, out := range []struct {
		w    io.Writer
		name string
		uri  *string
	}{{x.streams.Stdout, "stdout", &uris.Stdout}, {x.streams.Stderr, "stderr", &uris.Stderr}} {
		if out.w == nil || x.streams.Terminal && out.name == "stderr" {
			continue
		}
		*out.uri = oneshot.Name(x.dir, out.name)
		o, err := oneshot.NewCopy(*out.uri, out.w)
		if err != nil {
			return uris, err
		}
		x.outputs = append(x.outputs, o)
	}
	if x.streams.Stdin == nil {
		return uris, nil
	}
	uris.Stdin = oneshot.Name(x.dir, "stdin")
	var err error
	x.input, err = oneshot.NewInput(uris.Stdin)
	return uris, err
}

func (x *session) close() {
	for _, o := range x.outputs {
		o.Close()
	}
	if x.input != nil {
		x.input.Close()
	}
}

func (x *session) run(ctx context.Context, cmd []string) (int32, error) {
	uris, err := x.open()
	if err != nil {
		return 0, err
	}
	follow, stop := context.WithCancel(ctx)
	defer stop()
	exit, err := x.m.execute(ctx, x.c, execution{
		id: x.execID, cmd: cmd, streams: uris,
		begun: func() {
			if x.input != nil {
				// Its owner is the manager: the client's reader answers only after this verb has.
				x.m.wait.Go(x.feed)
			}
			x.m.wait.Go(func() { x.m.resize(follow, x.c, x.execID, x.streams.Sizes) })
		},
	})
	if err != nil {
		return 0, err
	}
	for _, o := range x.outputs {
		_, derr := o.Drain()
		err = errors.Join(err, derr)
	}
	return int32(exit.Status), err
}

// feed copies the client's input to its end, which is then the command's too.
func (x *session) feed() {
	_ = x.input.Copy(x.streams.Stdin) // that it fails means that either end is gone
	x.input.Close()
	ctx, cancel := undoing(context.Background())
	defer cancel()
	if err := x.m.e.Tasks().CloseIO(ctx, Namespace, x.c.id, x.execID); err != nil && !errdefs.IsNotFound(err) {
		x.m.conf.Log.Warn("cannot end the input of a command", "container", x.c.id, "exec", x.execID, "err", err)
	}
}

// resize follows a client's terminal until ctx ends.
func (m *Manager) resize(ctx context.Context, c *container, execID string, sizes <-chan Size) {
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-sizes:
			if !ok {
				return
			}
			err := m.e.Tasks().ResizePty(ctx, Namespace, c.id, execID, uint32(s.Width), uint32(s.Height))
			if err != nil && ctx.Err() == nil && !errdefs.IsNotFound(err) {
				m.conf.Log.Warn("cannot resize a terminal", "container", c.id, "exec", execID, "err", err)
			}
		}
	}
}

// retap is how long Attach waits before it reads along again after a shim was lost.
const retap = 100 * time.Millisecond

// Attach connects a client with a container's own streams until the container ends, or the client goes away. It sees what is
// written from then on. Its input is the container's, if that has one, and ends with the client where the container asked for that (StdinOnce). Whether
// there is a terminal is the container's to say.
func (m *Manager) Attach(ctx context.Context, id string, s Streams) error {
	c, err := m.running(id)
	if err != nil {
		return err
	}
	ctx, cancel := m.living(ctx)
	defer cancel()
	dir, err := os.MkdirTemp(m.dir(c.pod.id), "exec-")
	if err != nil {
		return fmt.Errorf("cannot make a place for the client's streams: %w", err)
	}
	defer os.RemoveAll(dir)
	if c.record.Spec.TTY {
		s.Stderr = nil
		m.wait.Go(func() { m.resize(ctx, c, "", s.Sizes) })
	}
	a := &attachment{m: m, c: c, dir: dir, streams: s}
	if s.Stdin != nil && c.record.Spec.Stdin {
		if a.input, err = oneshot.OpenInput(ctx, m.stdin(c)); err != nil {
			return fmt.Errorf("cannot open the input of container %s: %w", c.id, err)
		}
		defer a.input.Close()
	}
	return a.follow(ctx)
}

// attachment is one client at a container's streams.
type attachment struct {
	m       *Manager
	c       *container
	dir     string
	streams Streams
	input   *oneshot.Input
	fed     bool // feeding has begun
}

// follow reads along until the container ends. A shim that is lost ends what it copies, and the next one is asked again.
func (a *attachment) follow(ctx context.Context) error {
	for {
		again, err := a.tap(ctx)
		if err != nil || !again {
			return err
		}
		select {
		case <-a.c.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retap):
		}
	}
}

// tap reads along once; again when the container has not ended by then.
func (a *attachment) tap(ctx context.Context) (again bool, err error) {
	var paths [2]string
	var taps []*oneshot.Tap
	defer func() {
		for _, t := range taps {
			t.Close()
		}
	}()
	for i, w := range []io.Writer{a.streams.Stdout, a.streams.Stderr} {
		if w == nil {
			continue
		}
		paths[i] = oneshot.Name(a.dir, rand.Text())
		t, err := oneshot.NewTap(paths[i], w)
		if err != nil {
			return false, err
		}
		taps = append(taps, t)
	}
	if len(taps) > 0 {
		err := a.m.e.Tap(ctx, Namespace, a.c.id, paths[0], paths[1])
		if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
			return true, nil // it is ending, or its shim is being replaced
		} else if err != nil {
			return false, fmt.Errorf("cannot read along with container %s: %w", a.c.id, err)
		}
	}
	if a.input != nil && !a.fed {
		a.fed = true
		a.m.wait.Go(a.feed)
	}
	if len(taps) == 0 {
		select {
		case <-a.c.done:
		case <-ctx.Done():
		}
		return false, ctx.Err()
	}
	return a.copy(ctx, taps)
}

// copy carries what is read along to the client, until the shim ends it. When the client is gone on one side it is on the other.
func (a *attachment) copy(ctx context.Context, taps []*oneshot.Tap) (again bool, err error) {
	hangUp := func() {
		for _, t := range taps {
			t.Close()
		}
	}
	defer context.AfterFunc(ctx, hangUp)()
	ended := make(chan error, len(taps))
	for _, t := range taps {
		go func() { ended <- t.Copy() }()
	}
	for range taps {
		if cerr := <-ended; cerr != nil && err == nil {
			err = fmt.Errorf("the client does not take what container %s writes: %w", a.c.id, cerr)
			hangUp()
		}
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return err == nil, err
}

// feed copies the client's input. Where it is the container's whole input, that ends with it.
func (a *attachment) feed() {
	_ = a.input.Copy(a.streams.Stdin) // that it fails means that either end is gone
	a.input.Close()
	if !a.c.record.Spec.StdinOnce {
		return
	}
	ctx, cancel := undoing(context.Background())
	defer cancel()
	if err := a.m.e.Tasks().CloseIO(ctx, Namespace, a.c.id, ""); err != nil && !errdefs.IsNotFound(err) {
		a.m.conf.Log.Warn("cannot end the input of a container", "container", a.c.id, "err", err)
	}
}
