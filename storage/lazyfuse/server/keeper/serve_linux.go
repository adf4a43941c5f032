package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/slipwayd/slipway/storage/lazyfuse/server"
	"github.com/slipwayd/slipway/storage/lazyfuse/server/control"
)

// Serve is the server's process: it serves the mount whose descriptors the keeper passed, and the control socket. cfg lacks
// the descriptors. It answers nil when ctx is done, and server.ErrUnmounted, for which the process should exit with
// ExitUnmounted.
func Serve(ctx context.Context, cfg server.Config) error {
	cfg.Device, cfg.Session = inherited(DeviceFD), inherited(SessionFD)
	socket := inherited(ListenerFD)
	l, err := net.FileListener(socket)
	if err != nil {
		return fmt.Errorf("cannot serve lazy layers: the keeper starts this, by itself it has no descriptors: %w", err)
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return fmt.Errorf("cannot serve lazy layers: descriptor %d is no unix socket", ListenerFD)
	}
	s, err := server.New(cfg)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	over := control.Handover{
		Files: []*os.File{cfg.Device, cfg.Session, socket},
		Done:  func() { os.Exit(0) }, // at once: the next server must not share the device with this one
	}
	var clients sync.WaitGroup
	var clientsErr error
	clients.Go(func() {
		defer cancel()
		clientsErr = control.Serve(ctx, listener, s, over)
	})
	err = s.Serve(ctx)
	cancel()
	clients.Wait()
	return errors.Join(err, clientsErr)
}

func inherited(fd int) *os.File { return os.NewFile(uintptr(fd), fmt.Sprintf("inherited-%d", fd)) }
