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
)

// Ensure has a keeper run for a state directory: it starts command (slipway-fuse keeper with its flags) unless one runs, and waits
// until the server answers. The process gets a session of its own and outlives the caller; its output goes to
// keeper.log of the state directory.
func Ensure(ctx context.Context, state string, command []string) (control.Client, error) {
	client := control.Client{Socket: Socket(state)}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return client, fmt.Errorf("cannot make the state directory of the FUSE keeper: %w", err)
	}
	lock, err := lockState(state)
	switch {
	case err == nil:
		lock.Close()
	case errors.Is(err, errdefs.ErrFailedPrecondition):
		return client, answering(ctx, client, nil)
	default:
		return client, err
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
	return client, answering(ctx, client, ended)
}

// answering waits until the server answers. A keeper that ends first may have lost a race with another one's.
func answering(ctx context.Context, client control.Client, ended <-chan error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := client.Stats(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case end := <-ended:
			return fmt.Errorf("the FUSE keeper ended, see keeper.log beside %s: %w: %w", client.Socket, end, errdefs.ErrUnavailable)
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("cannot reach the FUSE server: %w: %w", ctx.Err(), err)
		}
	}
}
