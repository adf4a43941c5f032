package fdstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// descriptors are open files by name. The Store holds them as numbers: an os.File would be polled, and the daemon woken by every
// output of a terminal it keeps.
type descriptors map[string]int

func (d descriptors) close() {
	for _, fd := range d {
		unix.Close(fd)
	}
}

func (c Client) ask(m message, files Files) (Files, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: c.Path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	fds, err := duplicates(files)
	if err == nil {
		err = send(conn, m, fds)
	}
	fds.close()
	if err != nil {
		return nil, err
	}
	answer, got, err := receive(conn)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	if err := answer.err(); err != nil {
		got.close()
		return nil, err
	}
	taken := Files{}
	for name, fd := range got {
		taken[name] = os.NewFile(uintptr(fd), name)
	}
	return taken, nil
}

// duplicates does not touch the mode of the files, as File.Fd would.
func duplicates(files Files) (descriptors, error) {
	all := descriptors{}
	for name, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return all, err
		}
		var dup int
		cerr := raw.Control(func(fd uintptr) { dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
		if err = errors.Join(cerr, err); err != nil {
			return all, fmt.Errorf("cannot duplicate %s: %w", name, err)
		}
		all[name] = dup
	}
	return all, nil
}

// send writes one packet.
func send(conn *net.UnixConn, m message, with descriptors) error {
	var fds []int
	for name, fd := range with {
		m.Names = append(m.Names, name)
		fds = append(fds, fd)
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err = conn.WriteMsgUnix(data, rights, nil)
	return err
}

// receive reads one packet. The descriptors are the caller's.
func receive(conn *net.UnixConn) (m message, _ descriptors, err error) {
	data, rights := make([]byte, maxText), make([]byte, unix.CmsgSpace(4*perName))
	n, r, flags, _, err := conn.ReadMsgUnix(data, rights)
	if err != nil {
		return m, nil, err
	}
	fds, err := parseRights(rights[:r])
	defer func() {
		for _, fd := range fds {
			if err != nil {
				unix.Close(fd)
			}
		}
	}()
	if err != nil {
		return m, nil, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return m, nil, fmt.Errorf("the packet is too long, or no more files can be open: %w", errdefs.ErrResourceExhausted)
	}
	if err := json.Unmarshal(data[:n], &m); err != nil {
		return m, nil, fmt.Errorf("cannot read a packet of %d bytes: %w: %w", n, err, errdefs.ErrInvalidArgument)
	}
	named := descriptors{}
	for i, fd := range fds {
		if i < len(m.Names) {
			named[m.Names[i]] = fd
		}
	}
	if len(m.Names) != len(fds) || len(named) != len(fds) {
		return m, nil, fmt.Errorf("%d files came under the names %q: %w", len(fds), m.Names, errdefs.ErrInvalidArgument)
	}
	return m, named, nil
}

func parseRights(b []byte) ([]int, error) {
	if len(b) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return nil, err
	}
	var all []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return all, err
		}
		all = append(all, fds...)
	}
	return all, nil
}

// peer is the user at the other end (unix(7), SO_PEERCRED).
func peer(conn syscall.Conn) (uid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(cerr, err); err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}
