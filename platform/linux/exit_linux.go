package linux

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
)

// openPidfd opens a pidfd that Go's poller can wait on, so that a running process costs a goroutine and not a thread.
func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot open a descriptor of process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// waitExit blocks until the process ends, or pidfd is closed, which is the only error. It reaps the process when it is our child.
func waitExit(pidfd *os.File, pid int) (platform.Exit, error) {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return platform.Exit{}, err
	}
	var exit platform.Exit
	err = conn.Read(func(fd uintptr) (done bool) {
		var ws unix.WaitStatus
		got, err := wait4(pid, &ws)
		switch {
		case err == nil && got == pid && !ws.Stopped():
			exit = exitOf(ws)
			return true
		case err == nil: // lives, or stopped under a tracer that is a thread of this process: wait4(2) tells those unasked
			return false
		}
		// Another's child.
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(ready, 0); n == 0 {
			return false
		}
		exit = foreignExit(int(fd), pid)
		return true
	})
	return exit, err
}

func wait4(pid int, ws *unix.WaitStatus) (int, error) {
	for {
		got, err := unix.Wait4(pid, ws, unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return got, err
		}
	}
}

// foreignExit finds the status of a process that has ended and is not our child: as long as nobody reaped it, in
// /proc/PID/stat (proc(5), exit_code, its last field); after that, from Linux 6.15 on, the pidfd tells it.
func foreignExit(pidfd, pid int) platform.Exit {
	if stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil {
		if ws, ok := zombieStatus(stat); ok {
			return exitOf(ws)
		}
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(pidfd, &info); err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
		return exitOf(unix.WaitStatus(info.Exit_code))
	}
	return unknownExit()
}

// zombieStatus reads the wait status out of the text of /proc/PID/stat when that process is a zombie.
func zombieStatus(stat []byte) (unix.WaitStatus, bool) {
	name := bytes.LastIndexByte(stat, ')') // a program's name may hold blanks and parentheses
	if name < 0 {
		return 0, false
	}
	fields := bytes.Fields(stat[name+1:])
	if len(fields) < 50 || string(fields[0]) != "Z" {
		return 0, false
	}
	status, err := strconv.ParseUint(string(fields[49]), 10, 32)
	return unix.WaitStatus(status), err == nil
}

func exitOf(ws unix.WaitStatus) platform.Exit {
	status := uint32(ws.ExitStatus())
	if ws.Signaled() {
		status = 128 + uint32(ws.Signal())
	}
	return platform.Exit{Status: status, At: time.Now()}
}

func unknownExit() platform.Exit {
	return platform.Exit{Status: 255, At: time.Now(), Unknown: true}
}
