package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/slipwayd/slipway/internal/ipc"
	"github.com/slipwayd/slipway/shim/fdstore"
	"github.com/slipwayd/slipway/shim/server"
)

type serveConfig struct {
	state, address string
	listenFd       int
	events         string
	keeper         string
	namespace      string
	log            *slog.Logger
}

// idleAfter is how long after its last request a shim gives memory back to the system.
const idleAfter = 3 * time.Second

// serve runs until the last container is deleted and a client asks for the end, or until a signal, which leaves containers running.
func serve(c serveConfig) error {
	// The heap of a shim is a few megabytes, most of it of the last few starts. While there are many, collecting seldom is a tenth of
	// what they cost; afterwards the idler gives it back.
	debug.SetGCPercent(200)
	for _, dir := range []string{c.state, filepath.Join(c.state, "tasks"), filepath.Join(c.state, "run")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("cannot make state directory: %w", err)
		}
	}
	unlock, err := lockState(filepath.Join(c.state, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	listener, err := listen(c)
	if err != nil {
		return err
	}
	defer listener.Close()
	executor, err := newExecutor(filepath.Join(c.state, "run"), c.log)
	if err != nil {
		return err
	}
	events := server.NewForwarder(func(ctx context.Context) (net.Conn, error) {
		return ipc.Dial(ctx, strings.TrimPrefix(c.events, "unix://"))
	}, c.log)
	defer events.Close()
	end := make(chan struct{})
	tasks, err := server.New(context.Background(), server.Config{
		Executor: executor, State: filepath.Join(c.state, "tasks"), Publisher: events, Log: c.log,
		Namespace: c.namespace, Keeper: keeper(c.keeper),
		Shutdown: func() { close(end) },
	})
	if err != nil {
		return errors.Join(err, executor.Close())
	}
	defer tasks.Close()
	idle := newIdler()
	defer idle.stop()
	rpc, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(
		func(ctx context.Context, u ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, m ttrpc.Method) (any, error) {
			idle.touch()
			events.Retry() // a daemon is there
			return m(ctx, u)
		}))
	if err != nil {
		return err
	}
	tasks.Register(rpc)
	return serveUntil(rpc, listener, end)
}

func serveUntil(rpc *ttrpc.Server, listener net.Listener, end <-chan struct{}) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	failed := make(chan error, 1)
	go func() { failed <- rpc.Serve(context.Background(), listener) }()
	select {
	case <-end:
	case <-signals:
	case err := <-failed:
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = rpc.Shutdown(ctx) // lets the answer to the request that ends us out
	_ = rpc.Close()
	<-failed
	return nil
}

// keeper is nil without a socket: a stock containerd has none.
func keeper(socket string) server.Keeper {
	if socket == "" {
		return nil
	}
	return fdstore.Client{Path: socket}
}

// listen takes the socket that was handed over, or makes one.
func listen(c serveConfig) (net.Listener, error) {
	if c.listenFd > 0 {
		f := os.NewFile(uintptr(c.listenFd), "socket")
		defer f.Close()
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("cannot listen on descriptor %d: %w", c.listenFd, err)
		}
		return l, nil
	}
	return ipc.Listen(c.address)
}

// idler gives memory back when nothing was asked for a while.
type idler struct {
	mu    sync.Mutex
	timer *time.Timer
}

func newIdler() *idler { return &idler{timer: time.AfterFunc(idleAfter, debug.FreeOSMemory)} }

func (i *idler) touch() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.timer.Reset(idleAfter)
}

func (i *idler) stop() { i.timer.Stop() }
