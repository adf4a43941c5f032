package bringup

import (
	"os"
	"strconv"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform/linux/child"
)

// Joined is the container that a further process joins: its init, which runs.
type Joined struct {
	Pid   int
	Pidfd *os.File
}

// Exec answers the program of one more process in a container, of which Fifo is not needed. Its child too waits once for
// Process.Continue. For a Container and process that are not PlainExec it answers nonsense.
func Exec(c Container, in Joined) (_ *Program, err error) {
	p, err := child.New()
	if err != nil {
		return nil, err
	}
	program := &Program{Program: p}
	b := newBuilder(p, c, "/proc/"+strconv.Itoa(in.Pid)+"/root")
	b.begin()
	if a := c.Config.OomScoreAdj; a != nil {
		b.write("/proc/self/oom_score_adj", strconv.Itoa(*a))
	}
	b.openProfile()
	b.Wait()
	b.enterCgroups()
	b.anyCPU()
	pidfd := b.Keep(in.Pidfd)
	flags := 0
	for _, ns := range c.Config.Namespaces {
		if ns.Type != configs.NEWPID {
			flags |= int(cloneFlags[ns.Type])
		} else {
			program.PidNamespace = in.Pidfd
		}
	}
	b.Call("join the namespaces of the container", unix.SYS_SETNS, pidfd, flags)
	b.Call("close", unix.SYS_CLOSE, pidfd)
	if u := c.Config.Umask; u != nil {
		b.Call("set the umask", unix.SYS_UMASK, int(*u))
	}
	if b.Terminal {
		b.terminal(false)
	}
	b.finish()
	if b.err != nil {
		program.Close()
		return nil, b.err
	}
	return program, nil
}
