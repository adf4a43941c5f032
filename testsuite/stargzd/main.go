//go:build linux

// Command stargzd serves the stargz snapshotter to containerd: the peer of `make bench-lazy`, which no Debian package has as a
// program. It adds nothing to the library and keeps its defaults.
//
//	stargzd --address SOCKET --root DIR
//
// It has a go.mod of its own, so that nothing of it becomes part of Slipway. A crash leaves FUSE mounts below its root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/service"
	"google.golang.org/grpc"
)

func main() {
	address := flag.String("address", "", "unix socket to serve on")
	root := flag.String("root", "", "directory for snapshots and caches")
	version := flag.Bool("version", false, "print the library's version")
	flag.Parse()
	if *version {
		fmt.Println("stargz", library())
		return
	}
	if err := serve(*address, *root); err != nil {
		fmt.Fprintln(os.Stderr, "stargzd:", err)
		os.Exit(1)
	}
}

func library() string {
	info, _ := debug.ReadBuildInfo()
	for _, m := range info.Deps {
		if m.Path == "github.com/containerd/stargz-snapshotter" {
			return m.Version
		}
	}
	return "unknown"
}

func serve(address, root string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	snapshotter, err := service.NewStargzSnapshotterService(ctx, root, &service.Config{})
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", address)
	if err != nil {
		return errors.Join(err, snapshotter.Close())
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	return errors.Join(server.Serve(l), snapshotter.Close())
}
