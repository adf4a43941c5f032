package nri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Plugins are those of one daemon. Make them with New; methods are safe for concurrent use. A plugin is asked by one call at a time.
type Plugins struct {
	conf    Config
	adapter *adaptation.Adaptation
	host    Host
	count   atomic.Int64 // of plugins that are connected, or were when last one was asked
	started bool
}

// New starts nothing yet.
func New(c Config) (*Plugins, error) {
	p := &Plugins{conf: c}
	nrilog.Set(logger{slog.New(slog.DiscardHandler)}) // it would warn that plugins in WebAssembly are left out of the build
	defer nrilog.Set(logger{c.Log})
	options := []adaptation.Option{
		adaptation.WithPluginPath(c.PluginDir), adaptation.WithPluginConfigPath(c.ConfigDir), adaptation.WithSocketPath(c.Socket),
		adaptation.WithMetrics(counter{&p.count}),
	}
	if c.Socket == "" {
		options = append(options, adaptation.WithDisabledExternalConnections())
	}
	if c.RegistrationTimeout > 0 {
		adaptation.SetPluginRegistrationTimeout(c.RegistrationTimeout)
	}
	if c.RequestTimeout > 0 {
		adaptation.SetPluginRequestTimeout(c.RequestTimeout)
	}
	var err error
	if p.adapter, err = adaptation.New("slipway", c.Version, p.synchronize, p.unsolicited, options...); err != nil {
		return nil, fmt.Errorf("cannot make ready for NRI plugins: %w", err)
	}
	return p, nil
}

// probeTimeout bounds the look for another runtime at the socket.
const probeTimeout = time.Second

// Start starts the installed plugins, which learn of all that host has, and begins to listen for others. FailedPrecondition when another
// runtime serves the socket: two cannot share it.
func (p *Plugins) Start(ctx context.Context, host Host) error {
	p.host = host
	if p.conf.Socket != "" {
		d := net.Dialer{Timeout: probeTimeout}
		if conn, err := d.DialContext(ctx, "unix", p.conf.Socket); err == nil {
			conn.Close()
			return fmt.Errorf("cannot serve NRI plugins at %s: another runtime does; set [cri.nri] socket: %w", p.conf.Socket, errdefs.ErrFailedPrecondition)
		}
	}
	if err := p.adapter.Start(); err != nil {
		return fmt.Errorf("cannot start NRI plugins: %w", err)
	}
	p.started = true
	return nil
}

// Close ends the plugins that Start started, and stops listening.
func (p *Plugins) Close() error {
	if p.started {
		p.adapter.Stop()
	}
	return nil
}

// Active is false while there is no plugin: then nobody need be told of anything. It holds between Hold and its release.
func (p *Plugins) Active() bool { return p.count.Load() > 0 }

// Hold keeps plugins from joining until release, so that one learns of a thing in the making either as it is made or in the list of all
// there is. Nobody may hold twice at a time in one call.
func (p *Plugins) Hold() (release func()) { return p.adapter.BlockPluginSync().Unblock }

func (p *Plugins) synchronize(ctx context.Context, tell adaptation.SyncCB) error {
	pods, containers, err := p.host.Everything(ctx)
	if err != nil {
		return err
	}
	var wirePods []*api.PodSandbox
	for _, pod := range pods {
		wirePods = append(wirePods, podToWire(pod))
	}
	var wireContainers []*api.Container
	for _, c := range containers {
		wireContainers = append(wireContainers, containerToWire(c))
	}
	updates, err := tell(ctx, wirePods, wireContainers)
	if err != nil {
		return err
	}
	p.host.Change(ctx, updatesFromWire(updates))
	return nil
}

// unsolicited is what plugins ask for by themselves.
func (p *Plugins) unsolicited(ctx context.Context, updates []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
	var failed []*api.ContainerUpdate
	for _, u := range p.host.Change(ctx, updatesFromWire(updates)) {
		failed = append(failed, &api.ContainerUpdate{
			ContainerId: u.ContainerID, Linux: &api.LinuxContainerUpdate{Resources: api.FromOCILinuxResources(u.Resources, nil)},
		})
	}
	return failed, nil
}

// Tell tells of an event; c is nil for those of pods. An error is a plugin's refusal.
func (p *Plugins) Tell(ctx context.Context, ev Event, pod Pod, c *Container) error {
	if !p.Active() {
		return nil
	}
	wp := podToWire(pod)
	var wc *api.Container
	if c != nil {
		wc = containerToWire(*c)
	}
	var err error
	switch ev {
	case RunPod:
		err = p.adapter.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: wp})
	case StopPod:
		err = p.adapter.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: wp})
	case RemovePod:
		err = p.adapter.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: wp})
	case PodUpdated:
		err = p.adapter.PostUpdatePodSandbox(ctx, &api.PostUpdatePodSandboxRequest{Pod: wp})
	case ContainerCreated:
		err = p.adapter.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: wp, Container: wc})
	case StartContainer:
		err = p.adapter.StartContainer(ctx, &api.StartContainerRequest{Pod: wp, Container: wc})
	case ContainerStarted:
		err = p.adapter.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: wp, Container: wc})
	case ContainerUpdated:
		err = p.adapter.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: wp, Container: wc})
	case RemoveContainer:
		err = p.adapter.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: wp, Container: wc})
	}
	return refused(err)
}

// Create lets plugins change the document of a container that is to be made, and answers what they want changed of others.
// InvalidArgument for what cannot be; the document is then of no use.
func (p *Plugins) Create(ctx context.Context, pod Pod, c Container) ([]Update, error) {
	if !p.Active() {
		return nil, nil
	}
	r, err := p.adapter.CreateContainer(ctx, &api.CreateContainerRequest{Pod: podToWire(pod), Container: containerToWire(c)})
	if err != nil {
		return nil, refused(err)
	}
	if err := p.conf.adjust(c.Document, r.Adjust); err != nil {
		return nil, fmt.Errorf("cannot adjust the container as an NRI plugin wants it: %w", err)
	}
	return updatesFromWire(r.Update), nil
}

// Update lets plugins change the limits that a container is to get, and answers what they want changed of others.
func (p *Plugins) Update(ctx context.Context, pod Pod, c Container, limits *specs.LinuxResources) (*specs.LinuxResources, []Update, error) {
	if !p.Active() {
		return limits, nil, nil
	}
	r, err := p.adapter.UpdateContainer(ctx, &api.UpdateContainerRequest{
		Pod: podToWire(pod), Container: containerToWire(c), LinuxResources: api.FromOCILinuxResources(limits, nil),
	})
	if err != nil {
		return nil, nil, refused(err)
	}
	var others []Update
	for _, u := range updatesFromWire(r.Update) {
		if u.ContainerID == c.ID {
			limits = u.Resources
		} else {
			others = append(others, u)
		}
	}
	return limits, others, nil
}

// UpdatePod tells of limits that a pod is to get.
func (p *Plugins) UpdatePod(ctx context.Context, pod Pod, overhead, resources *specs.LinuxResources) error {
	if !p.Active() {
		return nil
	}
	_, err := p.adapter.UpdatePodSandbox(ctx, &api.UpdatePodSandboxRequest{
		Pod: podToWire(pod), OverheadLinuxResources: resourcesToWire(overhead), LinuxResources: resourcesToWire(resources),
	})
	return refused(err)
}

// Stopped tells of a container that has ended, and answers what plugins want changed of others.
func (p *Plugins) Stopped(ctx context.Context, pod Pod, c Container) ([]Update, error) {
	if !p.Active() {
		return nil, nil
	}
	r, err := p.adapter.StopContainer(ctx, &api.StopContainerRequest{Pod: podToWire(pod), Container: containerToWire(c)})
	if err != nil {
		return nil, refused(err)
	}
	return updatesFromWire(r.Update), nil
}

// refused says whose error it is. It has a code of the plugin's, which would mean something else to our clients.
func refused(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("an NRI plugin: %w", err)
	}
	return fmt.Errorf("an NRI plugin: %s: %w", err.Error(), errdefs.ErrAborted)
}

// counter learns how many plugins there are.
type counter struct{ n *atomic.Int64 }

func (c counter) UpdatePluginCount(n int)                                                  { c.n.Store(int64(n)) }
func (counter) RecordPluginInvocation(string, string, error)                               {}
func (counter) RecordPluginLatency(string, string, time.Duration)                          {}
func (counter) RecordPluginAdjustments(string, string, *api.ContainerAdjustment, int, int) {}

// logger is the library's.
type logger struct{ log *slog.Logger }

func (l logger) Debugf(ctx context.Context, format string, args ...any) {
	l.write(ctx, slog.LevelDebug, format, args)
}
func (l logger) Infof(ctx context.Context, format string, args ...any) {
	l.write(ctx, slog.LevelDebug, format, args)
}
func (l logger) Warnf(ctx context.Context, format string, args ...any) {
	l.write(ctx, slog.LevelWarn, format, args)
}
func (l logger) Errorf(ctx context.Context, format string, args ...any) {
	l.write(ctx, slog.LevelWarn, format, args)
}

func (l logger) write(ctx context.Context, level slog.Level, format string, args []any) {
	l.log.Log(ctx, level, "NRI: "+fmt.Sprintf(format, args...))
}

// DefaultSocket is where plugins look by themselves.
var DefaultSocket = filepath.FromSlash(adaptation.DefaultSocketPath)
