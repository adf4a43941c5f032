package server

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/shim/fdstore"
	"github.com/slipwayd/slipway/shim/stdio"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Keeper holds open files beyond the death of a shim; fdstore.Client is one. Who owns it drops what is kept for a process when
// that has ended.
type Keeper interface {
	Keep(name string, files fdstore.Files) error
	Take(name string) (fdstore.Files, error)
}

// Names of the files of a process that are kept.
const (
	keptTerminal = "terminal"
	keptStdin    = "stdin"
	keptStdout   = "stdout"
)

// KeptName names a process to the Keeper; what belongs to a container has its name and a slash in front.
func KeptName(namespace, id, execID string) string {
	if execID == "" {
		return namespace + "/" + id
	}
	return namespace + "/" + id + "/" + execID
}

// keep hands in what would be lost with this shim: a terminal, and its client's fifos. It is called with p.order held or before p is watched:
// nothing may be handed in of a process whose end was told. That it fails is no reason to fail p.
func (s *Server) keep(p *process) {
	r, ok := p.platform.(platform.Reattacher)
	if !ok || s.conf.Keeper == nil || !p.uris.Terminal {
		return
	}
	terminal, err := r.Terminal()
	if err == nil {
		defer terminal.Close()
		files, ends := fdstore.Files{keptTerminal: terminal}, p.streams.Kept()
		for name, f := range map[string]*os.File{keptStdin: ends.Stdin, keptStdout: ends.Stdout} {
			if f != nil {
				files[name] = f
			}
		}
		err = s.conf.Keeper.Keep(KeptName(p.c.ns, p.c.id, p.id), files)
	}
	if err != nil && !errors.Is(err, os.ErrClosed) && !errdefs.IsNotFound(err) { // those two when p is ending
		s.conf.Log.Warn("cannot hand in a terminal; its program ends with this shim, unless the daemon asks again", "container", p.c.key(), "exec", p.id, "error", err)
	}
}

// takeBack gives an adopted process what it lost with its executor, a terminal or all its streams, and answers the streams. One whose terminal is
// lost gets none: the kernel has hung up on it.
func (s *Server) takeBack(p *process, pp platform.Process) *stdio.Set {
	conf := s.streamConfig(p)
	if r, ok := pp.(platform.Reconnecter); ok {
		set := stdio.Attach(conf, p.stdinClosed)
		if err := r.Reconnect(set.IO()); err != nil {
			s.conf.Log.Error("cannot give a process its streams back", "container", p.c.key(), "exec", p.id, "error", err)
		}
		return set
	}
	r, ok := pp.(platform.Reattacher)
	if !ok || s.conf.Keeper == nil || !p.uris.Terminal {
		return stdio.Attach(conf, p.stdinClosed)
	}
	files, err := s.conf.Keeper.Take(KeptName(p.c.ns, p.c.id, p.id))
	if err != nil || files[keptTerminal] == nil {
		files.Close()
		s.conf.Log.Warn("a terminal is lost", "container", p.c.key(), "exec", p.id, "error", err)
		return stdio.Attach(conf, p.stdinClosed)
	}
	set := stdio.AttachTerminal(conf, p.stdinClosed, stdio.Kept{Stdin: files[keptStdin], Stdout: files[keptStdout]})
	if err := r.Attach(files[keptTerminal], set.IO()); err != nil {
		s.conf.Log.Error("cannot give a process its terminal back", "container", p.c.key(), "exec", p.id, "error", err)
	}
	return set
}

// KeepAll hands in everything again: a daemon asks when it has found this shim, for an earlier one took with it what it kept.
func (s *Server) KeepAll(ctx context.Context, r *task.StateRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	tasks := slices.Collect(maps.Values(s.tasks))
	s.mu.Unlock()
	for _, c := range tasks {
		select {
		case <-c.settled:
		default:
			continue // it hands in its own
		}
		c.mu.Lock()
		all := slices.Collect(maps.Values(c.execs))
		if c.init != nil {
			all = append(all, c.init)
		}
		c.mu.Unlock()
		for _, p := range all {
			p.order.Lock()
			c.mu.Lock()
			ended := p.status == stopped
			c.mu.Unlock()
			if !ended {
				s.keep(p)
			}
			p.order.Unlock()
		}
	}
	return &emptypb.Empty{}, nil
}
