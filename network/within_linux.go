package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// within runs fn on a thread that is in the network namespace at path. fn must not start goroutines that are to be there too.
func within(path string, fn func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot open network namespace: %w", err)
	}
	defer ns.Close()
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, so that nothing else runs in that namespace
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			ended <- fmt.Errorf("cannot enter network namespace %s: %w", path, err)
			return
		}
		ended <- fn()
	}()
	return <-ended
}

func dial(ctx context.Context, path string, port uint16) (conn *net.TCPConn, err error) {
	connect := func() error {
		var all error
		for _, host := range []string{"127.0.0.1", "::1"} {
			// An address in numbers is dialled by the calling goroutine itself.
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
			if err == nil {
				conn = c.(*net.TCPConn)
				return nil
			}
			all = errors.Join(all, err)
		}
		return all
	}
	if path == "" {
		err = connect()
	} else {
		err = within(path, connect)
	}
	return conn, err
}

func usage(paths []string) ([][]Interface, error) {
	all := make([][]Interface, len(paths))
	ended := make(chan error, 1)
	go func() { // one thread for all of them, which ends after that as in within
		runtime.LockOSThread()
		ended <- func() error {
			var failed error
			for i, path := range paths {
				var err error
				if all[i], err = usageOf(path); err != nil && !errors.Is(err, os.ErrNotExist) {
					failed = errors.Join(failed, fmt.Errorf("cannot read the use of network namespace %s: %w", path, err))
				}
			}
			return failed
		}()
	}()
	err := <-ended
	return all, err
}

// usageOf moves the calling thread.
func usageOf(path string) ([]Interface, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	data, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return nil, err
	}
	return parseDev(string(data)), nil
}

// parseDev reads /proc/net/dev (proc_pid_net(5)): two lines of heading, then NAME: eight counts received and eight sent.
func parseDev(text string) []Interface {
	var all []Interface
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		counts := strings.Fields(rest)
		if !ok || len(counts) < 12 {
			continue
		}
		n := func(i int) uint64 {
			v, _ := strconv.ParseUint(counts[i], 10, 64)
			return v
		}
		all = append(all, Interface{
			Name:    strings.TrimSpace(name),
			RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3),
			TxBytes: n(8), TxPackets: n(9), TxErrors: n(10), TxDropped: n(11),
		})
	}
	return all
}

// gone says whether a network namespace is there no more.
func gone(netns string) bool {
	_, err := os.Stat(netns)
	return errors.Is(err, fs.ErrNotExist)
}
