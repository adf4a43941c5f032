package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxHandover is how many descriptors a handover may have.
const maxHandover = 8

// handOver sends the descriptors, waits until the keeper says that it has them, and ends.
func handOver(conn *net.UnixConn, in *bufio.Reader, over Handover) error {
	var fds []int
	for _, f := range over.Files {
		fds = append(fds, int(f.Fd()))
	}
	line, err := json.Marshal(response{Stats: &Stats{PID: os.Getpid()}})
	if err != nil {
		return err
	}
	if _, _, err := conn.WriteMsgUnix(append(line, '\n'), unix.UnixRights(fds...), nil); err != nil {
		return err
	}
	if _, err := readLine(in); err != nil {
		return err
	}
	over.Done()
	_, err = io.Copy(io.Discard, conn) // the end of the process is the end of the connection; the keeper waits for it
	return err
}

// TakeOver gets the descriptors of a server that has lost its keeper, and has the server end. It answers when the server's
// process is gone. Unavailable when there is no server.
func (c Client) TakeOver(ctx context.Context) ([]*os.File, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	undo := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer undo()
	req := request{Op: "handover"}
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return nil, c.lost(ctx, req, err)
	}
	files, pid, err := receiveFiles(conn)
	if err != nil {
		return nil, c.lost(ctx, req, err)
	}
	_, err = conn.Write([]byte("{}\n"))
	if err == nil {
		_, err = io.Copy(io.Discard, conn)
	}
	if err != nil && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		// Two servers must not read one device at once: what the old one takes, the new one would not see.
		if kill := unix.Kill(pid, unix.SIGKILL); kill != nil && !errors.Is(kill, unix.ESRCH) {
			closeAll(files)
			return nil, fmt.Errorf("cannot end the FUSE server %d: %w", pid, kill)
		}
	}
	return files, nil
}

func receiveFiles(conn *net.UnixConn) ([]*os.File, int, error) {
	line, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(maxHandover*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(line, oob)
	if err != nil {
		return nil, 0, err
	}
	var files []*os.File
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "handover"))
		}
	}
	var r response
	if err == nil {
		err = json.Unmarshal(line[:n], &r)
	}
	if err == nil && (r.Stats == nil || r.Stats.PID <= 1 || len(files) == 0 || flags&unix.MSG_CTRUNC != 0) {
		err = fmt.Errorf("an answer without descriptors: %s: %w", r.Error, errdefs.ErrUnavailable)
	}
	if err != nil {
		closeAll(files)
		return nil, 0, err
	}
	return files, r.Stats.PID, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
