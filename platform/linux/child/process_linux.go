package child

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a child that runs a program.
type Process struct {
	Pid     int
	Given   []*os.File // what it gave (Program.Give), after Ready; whoever calls that closes them
	program *Program
}

// Continue lets the child go on from its next Wait. That it is dead already Ready will tell.
func (c *Process) Continue() error {
	if _, err := c.program.ours.Write(make([]byte, 8)); err != nil && !errors.Is(err, unix.EPIPE) {
		return err
	}
	return nil
}

// ErrDied is what became of a child that neither came to the end of its program nor told why not.
var ErrDied = errors.New("the process died while it was set up")

// Ready waits until the child is at Program.Ready, or tells what it could not do.
func (c *Process) Ready() (err error) {
	defer func() {
		if err != nil {
			for _, f := range c.Given {
				f.Close()
			}
			c.Given = nil
		}
	}()
	for {
		word, err := c.hear()
		switch {
		case errors.Is(err, unix.ECONNRESET):
			return ErrDied
		case err != nil:
			return err
		case word == ready:
			return nil
		case word == given:
			continue
		}
		what, errno := c.program.whats[uint32(word)], syscall.Errno(word>>32)
		if errno == failed {
			return errors.New(what)
		}
		return fmt.Errorf("cannot %s: %w", what, errno)
	}
}

// hear takes one message of the child's, and the descriptor that comes with it.
func (c *Process) hear() (uint64, error) {
	conn, err := c.program.ours.SyscallConn()
	if err != nil {
		return 0, err
	}
	said, rights := make([]byte, 8), make([]byte, unix.CmsgSpace(4))
	var n, control int
	waitErr := conn.Read(func(fd uintptr) bool {
		n, control, _, _, err = unix.Recvmsg(int(fd), said, rights, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if err = errors.Join(waitErr, err); err != nil {
		return 0, err
	}
	if n != len(said) { // it writes whole words
		return 0, ErrDied
	}
	messages, err := unix.ParseSocketControlMessage(rights[:control])
	if err != nil {
		return 0, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return 0, err
		}
		for _, fd := range fds {
			c.Given = append(c.Given, os.NewFile(uintptr(fd), "given"))
		}
	}
	return binary.NativeEndian.Uint64(said), nil
}
