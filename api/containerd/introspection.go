package containerd

import (
	"context"
	"fmt"
	"os"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/metadata/filter"
)

// Plugin types of containerd that clients look for.
const (
	runtimePlugin  = "io.containerd.runtime.v2"
	snapshotPlugin = "io.containerd.snapshotter.v1"
)

// defaultRuntime is what is meant when a client asks for "the" runtime.
const defaultRuntime = "io.containerd.runc.v2"

type introspectionService struct {
	introspectionapi.UnimplementedIntrospectionServer
	eng *engine.Engine
	// listed are the services of this server, as containerd's plugins of type io.containerd.grpc.v1.
	listed []string
}

func registerIntrospection(r grpc.ServiceRegistrar, eng *engine.Engine, _ Options) {
	introspectionapi.RegisterIntrospectionServer(r, introspectionService{eng: eng, listed: []string{
		"containers", "content", "diff", "events", "healthcheck", "images", "introspection", "leases", "mounts", "namespaces",
		"snapshots", "streaming", "tasks", "transfer", "version",
	}})
}

// Plugins lists what this daemon has under the names of the containerd plugins that do the same, as clients decide by them
// what they can ask for.
func (s introspectionService) Plugins(_ context.Context, req *introspectionapi.PluginsRequest) (*introspectionapi.PluginsResponse, error) {
	match, err := filter.Parse(req.Filters...)
	if err != nil {
		return nil, err
	}
	resp := &introspectionapi.PluginsResponse{}
	for _, p := range s.plugins() {
		if match.Match(pluginFields(p)) {
			resp.Plugins = append(resp.Plugins, p)
		}
	}
	return resp, nil
}

func (s introspectionService) plugins() []*introspectionapi.Plugin {
	host := []*types.Platform{hostPlatform()}
	all := []*introspectionapi.Plugin{
		{Type: "io.containerd.content.v1", ID: "content", Platforms: host},
		{Type: "io.containerd.metadata.v1", ID: "bolt", Platforms: host},
		{Type: "io.containerd.gc.v1", ID: "scheduler", Platforms: host},
		{Type: "io.containerd.differ.v1", ID: "walking", Platforms: host},
		{Type: "io.containerd.transfer.v1", ID: "local", Platforms: host},
		{Type: runtimePlugin, ID: "task", Platforms: host},
		{Type: "io.containerd.monitor.container.v1", ID: "restart", Platforms: host, Capabilities: engine.RestartPolicies},
	}
	for _, sn := range s.eng.Snapshotters() {
		p := &introspectionapi.Plugin{Type: snapshotPlugin, ID: sn.Name, Platforms: host}
		if sn.CanRebase {
			p.Capabilities = append(p.Capabilities, "rebase")
		}
		all = append(all, p)
	}
	for _, id := range s.listed {
		all = append(all, &introspectionapi.Plugin{Type: "io.containerd.grpc.v1", ID: id, Platforms: host})
	}
	return all
}

func pluginFields(p *introspectionapi.Plugin) filter.Adaptor {
	return func(path []string) (string, bool) {
		if len(path) == 0 {
			return "", false
		}
		switch path[0] {
		case "type":
			return p.Type, true
		case "id":
			return p.ID, true
		case "capabilities":
			// A list: present when it has the one that is asked for.
			for _, c := range p.Capabilities {
				if len(path) == 2 && path[1] == c {
					return c, true
				}
			}
		}
		return "", false
	}
}

func hostPlatform() *types.Platform {
	p := platforms.DefaultSpec()
	return &types.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
}

func (s introspectionService) Server(context.Context, *emptypb.Empty) (*introspectionapi.ServerResponse, error) {
	uuid, err := s.eng.UUID()
	if err != nil {
		return nil, err
	}
	return &introspectionapi.ServerResponse{UUID: uuid, Pid: uint64(os.Getpid()), Pidns: pidNamespace()}, nil
}

// PluginInfo answers the plugin, and for the runtime what the runtime itself tells.
func (s introspectionService) PluginInfo(ctx context.Context, req *introspectionapi.PluginInfoRequest) (*introspectionapi.PluginInfoResponse, error) {
	resp := &introspectionapi.PluginInfoResponse{}
	for _, p := range s.plugins() {
		if p.Type == req.Type && p.ID == req.ID {
			resp.Plugin = p
		}
	}
	if resp.Plugin == nil {
		return nil, fmt.Errorf("plugin %s/%s: %w", req.Type, req.ID, errdefs.ErrNotFound)
	}
	if req.Type != runtimePlugin || req.Options == nil {
		return resp, nil
	}
	extra, err := s.runtimeInfo(ctx, req.Options)
	resp.Extra = extra
	return resp, err
}

// runtimeInfo asks the runtime that options (a types.RuntimeRequest) names.
func (s introspectionService) runtimeInfo(ctx context.Context, options *anypb.Any) (*anypb.Any, error) {
	ask := &types.RuntimeRequest{}
	if err := proto.Unmarshal(options.Value, ask); err != nil {
		return nil, fmt.Errorf("options of the runtime plugin must be a RuntimeRequest: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	name := ask.RuntimePath
	if name == "" {
		name = defaultRuntime
	}
	info, err := s.eng.RuntimeInfo(ctx, name, fromAny(ask.Options))
	if err != nil {
		return nil, err
	}
	msg := &types.RuntimeInfo{
		Name: info.Name, Version: &types.RuntimeVersion{Version: info.Version},
		Options: toAny(info.Options), Features: toAny(info.Features), Annotations: info.Annotations,
	}
	value, err := proto.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("cannot encode what runtime %s tells: %w", name, err)
	}
	return toAny(&opaque.Any{TypeURL: string(msg.ProtoReflect().Descriptor().FullName()), Value: value}), nil
}
