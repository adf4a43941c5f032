package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Processes executed in a container our own way must not be looked into before they exec (bringup.PlainExec tells why). What
// the container's spec does not say about that is kept here: other containers that live in its pid namespace, and a process
// executed in it with more capabilities than it has.

// errTraced is what an exec of our own answers that must not be, before it has done anything.
var errTraced = errors.New("somebody could look into the process before it executes the program")

// traced says whether somebody in the container's pid namespace may be able to look into a process that joins it. Executor.tracing
// is held, and until that process has executed its program.
func (c *container) traced() bool {
	ns, err := pidNamespace(c.init.Pid())
	if err != nil {
		return true // it has ended, and libcontainer will tell
	}
	return c.e.traced[ns] || c.record.Traced
}

// allowTracing comes before a process that may trace is started, and outlives this executor.
func (c *container) allowTracing() error {
	c.updating.Lock()
	defer c.updating.Unlock()
	c.e.tracing.Lock() // after those that are being executed
	defer c.e.tracing.Unlock()
	if ns, err := pidNamespace(c.init.Pid()); err == nil {
		c.e.traced[ns] = true
	}
	if c.record.Traced {
		return nil
	}
	c.record.Traced = true
	return c.rewriteRecord()
}

// shares notes that init lives in a pid namespace that it has not made, before its program runs. In the host's, who may trace can
// look into this process too.
func (c *container) shares(init int) {
	c.e.tracing.Lock()
	defer c.e.tracing.Unlock()
	ns, err := pidNamespace(init)
	if ours, ourErr := pidNamespace(os.Getpid()); err == nil && (ourErr != nil || ns != ours) {
		c.e.traced[ns] = true
	}
}

// pidNamespace is a number that no other has as long as it lives (namespaces(7)).
func pidNamespace(pid int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join("/proc", strconv.Itoa(pid), "ns/pid"), &st); err != nil {
		return 0, fmt.Errorf("cannot find the pid namespace of process %d: %w", pid, err)
	}
	return st.Ino, nil
}
