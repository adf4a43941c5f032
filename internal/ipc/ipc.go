// Package ipc is where processes of one host meet: unix sockets that only their owner may use, and named pipes that only
// administrators and the system may use on Windows.
//
// An address is the path of a socket. On Windows it is the path of a file that names a pipe, whose name nobody can guess: names of pipes
// belong to whoever is first, so that another's program could answer in the place of one that has died, and who may write into a
// directory is something to rely on. The address \\.\pipe\NAME is that pipe itself, for what has to be at a well-known place.
//
// It imports nothing of ours. A crash leaves the file of the socket, or the one that names a pipe; Listen replaces it.
package ipc

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"syscall"
)

// Listen makes the address, in the place of one that a dead process left. That no living process uses it is the caller's to know. The file
// stays after Close.
func Listen(address string) (net.Listener, error) { return listen(address) }

// Dial connects to who listens at the address. Nobody tells the errors that mean that no one does.
func Dial(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, address) }

// Nobody says whether an error of Dial means that no process listens there, as opposed to one that does not answer.
func Nobody(err error) bool { return nobody(err) }

// Broken says whether an error of reading or writing means that the other end is gone.
func Broken(err error) bool { return broken(err) }

// Public is how programs that know nothing of this package name who listens at the address: unix://PATH, or a pipe.
func Public(address string) (string, error) { return public(address) }

// Detached has a command outlive this process, and what ends that: no signal to its group, session or console reaches the command.
func Detached() *syscall.SysProcAttr { return detached() }

// Start runs a command, detached, that is to listen at the address. Its arguments get --listen-fd 3 and it the listener, or --address and where
// that is, as the system can. When Start returns, connections can be made. Unavailable when it ended before.
func Start(cmd *exec.Cmd, address string) error { return start(cmd, address) }

// run starts cmd and closes the answered channel at its end. That is only to take its status if it dies before us; nobody owns the
// goroutine, for the command outlives who started it.
func run(cmd *exec.Cmd) (ended <-chan struct{}, err error) {
	cmd.SysProcAttr = detached()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot run %s: %w", cmd.Path, err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	return done, nil
}
