package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
	"golang.org/x/sys/unix"
)

// Ensure has a keeper run for a state directory: it starts command (slipway-fuse keeper with its flags) unless one runs, and waits
// until the server answers. The process gets a session of its own and outlives the caller; its output goes to
// keeper.log of the state directory.
func Ensure(ctx context.Context, state string, command []string) (control.Client, error) {
	client := control.Client{Socket: Socket(state)}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return client, fmt.Errorf("cannot make the state directory of the FUSE keeper: %w", err)
	}
	if runs, err := Running(state); err != nil {
		return client, err
	} else if runs {
		return client, answering(ctx, client, 0, nil)
	}
	out, err := os.OpenFile(filepath.Join(state, "keeper.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return client, fmt.Errorf("cannot open the FUSE keeper's log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return client, fmt.Errorf("cannot start the FUSE keeper: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // for as long as the keeper lives, so that it leaves no zombie
	return client, answering(ctx, client, cmd.Process.Pid, ended)
}

// Running asks whether a keeper holds the lock, without holding it for a moment itself.
func Running(state string) (bool, error) {
	f, err := openLock(state)
	if err != nil {
		return false, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, fmt.Errorf("cannot see whether a FUSE keeper runs: %w", err)
	}
	return lock.Type != unix.F_UNLCK, nil
}

// answering waits until the server of a keeper answers, not one that is still to be taken over. With parent 0 any will do. A keeper
// that ends first may have lost a race with another one.
func answering(ctx context.Context, client control.Client, parent int, ended <-chan error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		stats, err := client.Stats(ctx)
		if err == nil && (parent == 0 || stats.Parent == parent) {
			return nil
		}
		select {
		case end := <-ended:
			return fmt.Errorf("the FUSE keeper ended, see keeper.log beside %s: %v: %w", client.Socket, end, errdefs.ErrUnavailable)
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("cannot reach the FUSE server of %s: %w", client.Socket, errors.Join(ctx.Err(), err))
		}
	}
}
