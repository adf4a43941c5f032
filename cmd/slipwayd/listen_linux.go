package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ttrpcSuffix is appended to the address for the socket that shims publish events to.
const ttrpcSuffix = ".ttrpc"

// maxSocketPath is what sockaddr_un holds, without the terminating zero.
const maxSocketPath = 107

type sockets struct {
	grpc, ttrpc net.Listener
}

// close removes the sockets' files too.
func (s sockets) close() error {
	var err error
	for _, l := range []net.Listener{s.grpc, s.ttrpc} {
		if cerr := l.Close(); cerr != nil && !errors.Is(cerr, net.ErrClosed) {
			err = errors.Join(err, cerr)
		}
	}
	return err
}

// listen takes the address and the one beside it. A socket that a dead daemon left is replaced; one that is answered is not.
func listen(address string) (s sockets, err error) {
	address = strings.TrimPrefix(address, "unix://")
	if len(address)+len(ttrpcSuffix) > maxSocketPath {
		return s, fmt.Errorf("address %s is too long for a unix socket, at most %d bytes are allowed", address, maxSocketPath-len(ttrpcSuffix))
	}
	if err := os.MkdirAll(filepath.Dir(address), 0o711); err != nil {
		return s, fmt.Errorf("cannot make the directory of the socket: %w", err)
	}
	if s.grpc, err = listenUnix(address); err != nil {
		return s, err
	}
	if s.ttrpc, err = listenUnix(address + ttrpcSuffix); err != nil {
		return s, errors.Join(err, s.grpc.Close())
	}
	return s, nil
}

func listenUnix(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The mask makes the socket private from its first moment; nothing else of the process makes files yet.
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	return l, nil
}

func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look at the socket: %w", err)
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("address %s is there and is not a socket; remove it or choose another --address", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		defer conn.Close()
		return fmt.Errorf("%s already answers at %s; stop it or choose another --address", peer(conn), path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether a daemon answers at %s: %w", path, err)
	}
	return os.Remove(path)
}

// peer names the process at the other end.
func peer(conn net.Conn) string {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return "another process"
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil || err != nil {
		return "another process"
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cred.Pid))
	if err != nil {
		return fmt.Sprintf("process %d", cred.Pid)
	}
	return fmt.Sprintf("%s (process %d)", strings.TrimSpace(string(name)), cred.Pid)
}
