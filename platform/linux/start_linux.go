package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// libcontainer's init, once it is set up, opens a fifo for writing, which blocks it; when somebody opens it for reading it
// writes one byte, closes it, and execs the container's program.

// execFifo is that fifo's name. Start removes it last, and a Start that was killed does not.
func (c *container) execFifo() string {
	if c.own != nil {
		return filepath.Join(c.dir, fifoName)
	}
	return filepath.Join(c.dir, stateDir, c.record.Name, fifoName)
}

// awaitsStart says whether init has not come by the fifo yet. It holds it open until then, and the container's program never does.
func (c *container) awaitsStart(pid int) bool {
	fifo, err := os.Stat(c.execFifo())
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil || pid <= 0 {
		return true
	}
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	open, err := os.ReadDir(dir)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) // when we may not look, the fifo's being there has to do
	}
	for _, fd := range open {
		link := filepath.Join(dir, fd.Name())
		name, err := os.Readlink(link)
		if err != nil || filepath.Base(name) != filepath.Base(c.execFifo()) {
			continue // before Stat, which hangs on some files that a container may have
		}
		if st, err := os.Stat(link); err == nil && os.SameFile(st, fifo) {
			return true
		}
	}
	return false
}

// lookAgain is how often a Start that gets no answer looks at what has become of init.
const lookAgain = 50 * time.Millisecond

// startInit lets init go on to exec the program. Unlike libcontainer's Exec this leaves no thread behind in open(2) when init
// dies meanwhile, and does not wait for one that an earlier executor let go on before it was killed.
func (p *process) startInit() error {
	fifo, err := os.OpenFile(p.c.execFifo(), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("its init no longer waits to be started: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	defer fifo.Close()
	p.mu.Lock()
	p.started = true // before it can end
	p.mu.Unlock()
	for {
		began, err := readByte(fifo)
		if err != nil {
			return fmt.Errorf("cannot read what init says: %w", err)
		}
		if began {
			break
		}
		if p.hasEnded() {
			if began, _ = readByte(fifo); !began { // it may have begun, and ended already
				return fmt.Errorf("its init died before: %w", errdefs.ErrFailedPrecondition)
			}
			break
		}
		if !p.c.awaitsStart(p.Pid()) {
			break
		}
	}
	if err := os.Remove(fifo.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// readByte waits a moment for init to write to its fifo.
func readByte(fifo *os.File) (bool, error) {
	if err := fifo.SetReadDeadline(time.Now().Add(lookAgain)); err != nil {
		return false, err
	}
	conn, err := fifo.SyscallConn()
	if err != nil {
		return false, err
	}
	got := 0
	err = conn.Read(func(fd uintptr) bool { // not File.Read: as long as nobody has opened it to write, a fifo reads as ended
		got, _ = unix.Read(int(fd), make([]byte, 1))
		return got > 0
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return false, err
	}
	return got > 0, nil
}
