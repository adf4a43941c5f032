package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/storage/lazyfuse/server"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
	"golang.org/x/sys/unix"
)

// Descriptors that the server's process is started with.
const (
	DeviceFD = 3 + iota
	SessionFD
	ListenerFD
)

// ExitUnmounted is how the server's process ends when the file system is mounted no more.
const ExitUnmounted = 3

const (
	takeOverTime = 5 * time.Second // how long a server may take to hand over
	stableTime   = time.Second
	maxPause     = 250 * time.Millisecond // between two starts of a server that will not stay up
)

// Config is what a keeper needs.
type Config struct {
	Mountpoint string
	State      string   // directory for keeper.lock, control.sock and the server's files
	Command    []string // the server, started with the descriptors above
	Log        *slog.Logger
}

// Socket is where the server of a state directory answers.
func Socket(state string) string { return filepath.Join(state, "control.sock") }

// keeper holds one mount.
type keeper struct {
	cfg                       Config
	device, session, listener *os.File
}

// Run keeps one mount until ctx is done; then it ends the server and unmounts. It is FailedPrecondition when another keeper runs for
// the same state.
func Run(ctx context.Context, cfg Config) error {
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		return fmt.Errorf("cannot make the state directory of the FUSE keeper: %w", err)
	}
	// Not the mount point itself: it may be dead. /proc/self/mountinfo has it without links.
	dir, err := filepath.EvalSymlinks(filepath.Dir(cfg.Mountpoint))
	if err != nil {
		return fmt.Errorf("cannot find the directory of mount point %s: %w", cfg.Mountpoint, err)
	}
	cfg.Mountpoint = filepath.Join(dir, filepath.Base(cfg.Mountpoint))
	lock, err := lockState(cfg.State)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := writePID(lock); err != nil {
		return err
	}
	k := &keeper{cfg: cfg}
	if err := k.begin(ctx); err != nil {
		return err
	}
	defer k.close()
	return k.keep(ctx)
}

// lockState takes the lock that says a keeper runs. It goes with the process.
func lockState(state string) (*os.File, error) {
	f, err := openLock(state)
	if err != nil {
		return nil, err
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot keep %s: a keeper runs already: %w", state, errdefs.ErrFailedPrecondition)
	}
	return f, nil
}

func openLock(state string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(state, "keeper.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the FUSE keeper's lock: %w", err)
	}
	return f, nil
}

// writePID says in the lock who holds it, for people; nothing depends on it.
func writePID(lock *os.File) error {
	err := lock.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintf(lock, "%d\n", os.Getpid())
	}
	if err != nil {
		return fmt.Errorf("cannot write the FUSE keeper's lock: %w", err)
	}
	return nil
}

// begin takes over from a server that has no keeper, or mounts anew.
func (k *keeper) begin(ctx context.Context) error {
	socket := Socket(k.cfg.State)
	over, cancel := context.WithTimeout(ctx, takeOverTime)
	defer cancel()
	files, err := control.Client{Socket: socket}.TakeOver(over)
	if err == nil && len(files) == 3 {
		k.device, k.session, k.listener = files[0], files[1], files[2]
		k.cfg.Log.Info("took the FUSE mount over from a server without a keeper", "mount", k.cfg.Mountpoint)
		return nil
	}
	if err := Unmount(k.cfg.Mountpoint); err != nil {
		return err
	}
	if k.listener, err = listen(socket); err != nil {
		return err
	}
	if k.session, err = server.NewSession(); err == nil {
		k.device, err = Mount(k.cfg.Mountpoint)
	}
	if err != nil {
		k.close()
	}
	return err
}

// listen makes the socket and answers a descriptor of it.
func listen(socket string) (*os.File, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove an old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", socket, err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, err
	}
	return l.File()
}

func (k *keeper) close() {
	for _, f := range []*os.File{k.device, k.session, k.listener} {
		if f != nil {
			f.Close()
		}
	}
}

// keep has a server run all the time.
func (k *keeper) keep(ctx context.Context) error {
	pause := time.Duration(0)
	for {
		began := time.Now()
		err := k.serve(ctx)
		var exit *exec.ExitError
		switch {
		case ctx.Err() != nil:
			return Unmount(k.cfg.Mountpoint)
		case errors.As(err, &exit) && exit.ExitCode() == ExitUnmounted:
			return fmt.Errorf("cannot keep %s: %w", k.cfg.Mountpoint, server.ErrUnmounted)
		}
		k.cfg.Log.Error("the FUSE server ended, starting it again", "error", err, "pause", pause)
		if time.Since(began) > stableTime {
			pause = 0
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return Unmount(k.cfg.Mountpoint)
		}
		// The first restart is at once: readers wait.
		pause = min(max(2*pause, 10*time.Millisecond), maxPause)
	}
}

// serve runs a server until it ends. It outlives the keeper, should that be killed.
func (k *keeper) serve(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, k.cfg.Command[0], k.cfg.Command[1:]...)
	cmd.ExtraFiles = []*os.File{k.device, k.session, k.listener}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the FUSE server: %w", err)
	}
	return cmd.Wait()
}
