//go:build !windows

package ipc

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
)

// detached gives a program a session of its own.
func detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// start makes the socket and hands it over: what connects is answered as soon as the program is ready to.
func start(cmd *exec.Cmd, address string) error {
	listener, err := listen(address)
	if err != nil {
		return err
	}
	defer listener.Close()
	socket, err := listener.(*net.UnixListener).File()
	if err != nil {
		return fmt.Errorf("cannot hand a socket over: %w", err)
	}
	defer socket.Close()
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Args = append(cmd.Args, "--listen-fd", "3")
	_, err = run(cmd)
	return err
}
