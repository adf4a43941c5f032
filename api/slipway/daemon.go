// Package slipway serves Slipway's own API (api/slipway/v1) over an engine.
//
// It owns the translation between that wire and engine calls, and no state: a crash leaves nothing of it. It imports
// neither drivers nor shims.
package slipway

import (
	"context"
	"os"
	"runtime"

	"google.golang.org/grpc"

	slipwayv1 "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/engine"
)

// Host is what the program found out about itself and its machine before it made the engine.
type Host struct {
	Version string
	UUID    string   // of this daemon's root, the same after a restart
	Cgroup  string   // "v1", "v2" or ""
	Kernel  string   // release
	Notes   []string // what the machine cannot do, and why
}

// Register adds the services to a server.
func Register(s grpc.ServiceRegistrar, eng *engine.Engine, h Host) {
	slipwayv1.RegisterDaemonServer(s, &daemon{engine: eng, host: h})
	slipwayv1.RegisterImagesServer(s, &images{engine: eng})
	slipwayv1.RegisterLazyServer(s, &lazy{engine: eng})
	slipwayv1.RegisterContainersServer(s, &containers{engine: eng})
}

type daemon struct {
	slipwayv1.UnimplementedDaemonServer
	engine *engine.Engine
	host   Host
}

func (d *daemon) Info(context.Context, *slipwayv1.InfoRequest) (*slipwayv1.InfoResponse, error) {
	about := d.engine.About()
	return &slipwayv1.InfoResponse{
		Version: d.host.Version, Uuid: d.host.UUID, Cgroup: d.host.Cgroup, Kernel: d.host.Kernel, Notes: d.host.Notes,
		Root: about.Root, State: about.State, DefaultSnapshotter: about.DefaultDriver, Snapshotters: about.Drivers,
		Pid: uint32(os.Getpid()), Os: runtime.GOOS, Architecture: runtime.GOARCH,
	}, nil
}
