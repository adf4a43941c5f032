package testsuite

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform"
)

func (x *executorTest) adopt() {
	c := x.create(x.Spec(x.T, "adopt", "sleep", "1000"))
	x.start(c.Init())
	pid := c.Init().Pid()
	execPid := x.exec(c, "e", platform.IO{}, "sleep", "1000").Pid()
	x.Executor = x.Restart(x.T)
	if ids, err := x.Executor.List(x.ctx); err != nil || !slices.Equal(ids, []string{"adopt"}) {
		x.Errorf("List = %v, %v", ids, err)
	}
	c, err := x.Executor.Adopt(x.ctx, "adopt")
	if err != nil {
		x.Fatal(err)
	}
	again, err := x.Executor.Adopt(x.ctx, "adopt")
	if err != nil || again != c {
		x.Errorf("Adopt again = another container, or %v", err)
	}
	if c.ID() != "adopt" || c.Init().Pid() != pid {
		x.Errorf("adopted %s with pid %d, want %d", c.ID(), c.Init().Pid(), pid)
	}
	processes := c.Processes()
	if len(processes) != 1 || processes[0].ID() != "e" || processes[0].Pid() != execPid {
		x.Fatalf("adopted processes %v", processes)
	}
	x.is(c.Delete(x.ctx), errdefs.ErrFailedPrecondition, "Delete of a running container that was adopted")
	if exit := x.wait(x.exec(c, "new", platform.IO{}, "sh", "-c", "exit 3")); exit.Status != 3 {
		x.Errorf("a process executed after the adoption ended with %+v", exit)
	}
	x.kill(processes[0])
	if exit := x.wait(processes[0]); exit.Status != 137 {
		x.Errorf("the adopted process ended with %+v, want 137", exit)
	}
	if err := processes[0].Delete(x.ctx); err != nil {
		x.Error(err)
	}
	x.kill(c.Init())
	if exit := x.wait(c.Init()); exit.Status != 137 {
		x.Errorf("the adopted container ended with %+v, want 137", exit)
	}
	x.remove(c)
}

// adoptTerminal keeps the terminals of init and of an executed process over the death of their executor.
func (x *executorTest) adoptTerminal() {
	s := x.Spec(x.T, "tty", "sh", "-c", "read x; stty size")
	setTerminal(x.T, &s)
	s.IO = platform.IO{Terminal: true, Width: 80, Height: 24}
	c := x.create(s)
	if _, ok := c.Init().(platform.Reattacher); !ok {
		x.remove(c)
		x.Skip("this executor cannot take terminals back")
	}
	x.start(c.Init())
	x.exec(c, "e", platform.IO{Terminal: true}, "sh", "-c", "read x; stty size")
	_, err := x.exec(c, "none", platform.IO{}, "sleep", "1000").(platform.Reattacher).Terminal()
	x.is(err, errdefs.ErrNotFound, "Terminal of a process without one")
	kept := map[string]*os.File{}
	for _, p := range append(c.Processes(), c.Init()) {
		if p.ID() == "none" {
			continue
		}
		if kept[p.ID()], err = p.(platform.Reattacher).Terminal(); err != nil {
			x.Fatal(err)
		}
	}
	x.Executor = x.Restart(x.T)
	if c, err = x.Executor.Adopt(x.ctx, "tty"); err != nil {
		x.Fatal(err)
	}
	for _, p := range append(c.Processes(), c.Init()) { // init last, for the others end with it
		if p.ID() == "none" {
			continue
		}
		x.is(p.Resize(x.ctx, 1, 1), errdefs.ErrFailedPrecondition, "Resize before the terminal is back")
		var out bytes.Buffer
		in, feed := io.Pipe()
		if err := p.(platform.Reattacher).Attach(kept[p.ID()], platform.IO{Stdin: in, Stdout: &out, Terminal: true}); err != nil {
			x.Fatal(err)
		}
		if err := p.Resize(x.ctx, 132, 43); err != nil {
			x.Errorf("Resize: %v", err)
		}
		if err := p.CloseStdin(x.ctx); err != nil {
			x.Errorf("CloseStdin: %v", err)
		}
		if _, err := io.WriteString(feed, "go\n"); err != nil {
			x.Fatal(err)
		}
		if exit := x.wait(p); exit.Status != 0 || !strings.Contains(out.String(), "43 132") {
			x.Errorf("exit %+v, the terminal wrote %q, want its size 43 132", exit, out.String())
		}
		feed.Close()
	}
	x.remove(c)
}

// adoptTerminalOfEnded: a program writes its last words while it has no executor.
func (x *executorTest) adoptTerminalOfEnded() {
	s := x.Spec(x.T, "tty", "sh", "-c", "read x; stty size")
	setTerminal(x.T, &s)
	in, feed := io.Pipe()
	s.IO = platform.IO{Stdin: in, Terminal: true}
	c := x.create(s)
	r, ok := c.Init().(platform.Reattacher)
	if !ok {
		x.remove(c)
		x.Skip("this executor cannot take terminals back")
	}
	terminal, err := r.Terminal()
	if err != nil {
		x.Fatal(err)
	}
	x.start(c.Init())
	if err := c.Init().Resize(x.ctx, 132, 43); err != nil {
		x.Fatal(err)
	}
	x.Executor = x.Restart(x.T)
	if _, err := io.WriteString(terminal, "go\n"); err != nil {
		x.Fatal(err)
	}
	if c, err = x.Executor.Adopt(x.ctx, "tty"); err != nil {
		x.Fatal(err)
	}
	x.wait(c.Init()) // and only then is its terminal back
	var out bytes.Buffer
	if err := c.Init().(platform.Reattacher).Attach(terminal, platform.IO{Stdout: &out, Terminal: true}); err != nil {
		x.Fatal(err)
	}
	if !strings.Contains(out.String(), "43 132") {
		x.Errorf("the terminal wrote %q, want its size 43 132", out.String())
	}
	feed.Close()
	x.remove(c)
}

func (x *executorTest) adoptCreated() {
	x.create(x.Spec(x.T, "created", "sh", "-c", "exit 5"))
	x.Executor = x.Restart(x.T)
	c, err := x.Executor.Adopt(x.ctx, "created")
	if err != nil {
		x.Fatal(err)
	}
	x.start(c.Init())
	if exit := x.wait(c.Init()); exit.Status != 5 {
		x.Errorf("exit %+v, want 5", exit)
	}
	x.remove(c)
}

func (x *executorTest) adoptEnded() {
	c := x.create(x.Spec(x.T, "ended", "sh", "-c", "exit 6"))
	x.start(c.Init())
	x.wait(c.Init())
	x.Executor = x.Restart(x.T)
	c, err := x.Executor.Adopt(x.ctx, "ended")
	if err != nil {
		x.Fatal(err)
	}
	if exit := x.wait(c.Init()); exit.Status != 6 || exit.Unknown {
		x.Errorf("exit %+v, want 6", exit)
	}
	x.is(c.Init().Start(x.ctx), errdefs.ErrFailedPrecondition, "Start of an adopted container that has ended")
	x.remove(c)
}
