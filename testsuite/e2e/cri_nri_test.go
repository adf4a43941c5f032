package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"golang.org/x/sync/errgroup"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// plugin is one of the Node Resource Interface, by the library that plugins are made with.
type plugin struct {
	stub.Stub
	mu       sync.Mutex
	events   []string
	removing func(c *api.Container) // if it is set, what the plugin does when a container is removed
}

func (p *plugin) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, what)
}

// take answers what was noted since it was called last.
func (p *plugin) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.events
	p.events = nil
	return all
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	p.note(fmt.Sprintf("synchronize %d %d", len(pods), len(containers)))
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("run " + pod.Namespace)
	if pod.Annotations["refuse"] == "pod" {
		return errors.New("not this pod")
	}
	return nil
}
func (p *plugin) UpdatePodSandbox(_ context.Context, _ *api.PodSandbox, _, r *api.LinuxResources) error {
	p.note(fmt.Sprintf("update pod to %d shares", r.GetCpu().GetShares().GetValue()))
	return nil
}
func (p *plugin) StopPodSandbox(context.Context, *api.PodSandbox) error {
	p.note("stop pod")
	return nil
}
func (p *plugin) RemovePodSandbox(context.Context, *api.PodSandbox) error {
	p.note("remove pod")
	return nil
}

func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.note("create " + c.Name)
	if pod.Annotations["refuse"] == "container" {
		return nil, nil, errors.New("not this container")
	}
	a := &api.ContainerAdjustment{}
	a.AddEnv("FROM_PLUGIN", "yes")
	a.AddMount(&api.Mount{Destination: "/from-plugin", Source: "/proc/sys/kernel/ostype", Type: "bind", Options: []string{"bind", "ro"}})
	a.AddDevice(&api.LinuxDevice{Path: "/dev/plugged", Type: "c", Major: 1, Minor: 5, FileMode: api.FileMode(0o666)})
	a.SetLinuxCPUShares(333)
	a.SetLinuxCgroupsPath(pod.Annotations["cgroup"])
	if class := pod.Annotations["block-io"]; class != "" {
		a.SetLinuxBlockIOClass(class)
	}
	return a, nil, nil
}

func (p *plugin) PostCreateContainer(context.Context, *api.PodSandbox, *api.Container) error {
	p.note("created")
	return nil
}
func (p *plugin) StartContainer(context.Context, *api.PodSandbox, *api.Container) error {
	p.note("start")
	return nil
}
func (p *plugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note(fmt.Sprintf("started with a pid: %t", c.Pid > 0))
	return nil
}

func (p *plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.note(fmt.Sprintf("update to %d shares", r.Cpu.Shares.GetValue()))
	u := &api.ContainerUpdate{}
	u.SetContainerId(c.Id)
	u.SetLinuxCPUShares(r.Cpu.Shares.GetValue() + 1)
	return []*api.ContainerUpdate{u}, nil
}

func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.note(fmt.Sprintf("stopped with code %d", c.ExitCode))
	return nil, nil
}
func (p *plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("remove")
	if p.removing != nil {
		p.removing(c)
	}
	return nil
}

// plug connects a plugin to a daemon.
func plug(t *testing.T, d *daemon) *plugin {
	t.Helper()
	p := &plugin{}
	var err error
	if p.Stub, err = stub.New(p, stub.WithPluginName("test"), stub.WithPluginIdx("10"), stub.WithSocketPath(filepath.Join(d.dir, "nri.sock")), stub.WithOnClose(func() {})); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	eventually(t, "the plugin learns what there is", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.events) > 0
	})
	return p
}

func startNRI(t *testing.T) (*daemon, *kubelet) {
	return startCRIWith(t, func(d *daemon) {
		d.config += fmt.Sprintf("[cri.nri]\nenabled = true\nsocket = %q\nplugin_dir = %q\n", filepath.Join(d.dir, "nri.sock"), filepath.Join(d.dir, "plugins"))
	})
}

// TestPlugins: a plugin sees a pod's life, its container is as the plugin wants it, and one that joins late is told of what there is.
func TestPlugins(t *testing.T) {
	d, k := startNRI(t)
	k.pull(t)
	p := plug(t, d)
	if got := p.take(); !slices.Equal(got, []string{"synchronize 0 0"}) {
		t.Errorf("told of %q at first", got)
	}
	pod := k.podConfig(name(t))
	c := k.containerConfig(pod, `echo $FROM_PLUGIN; cat /from-plugin; head -c1 /dev/plugged | wc -c; trap "exit 5" TERM; while :; do sleep 0.05; done`)
	podID, id := k.start(t, pod, c)
	eventually(t, "the container's output", func() bool { return strings.Contains(k.log(t, id), "stdout F 1\n") })
	if log := k.log(t, id); !strings.Contains(log, " yes\n") || !strings.Contains(log, " Linux\n") {
		t.Errorf("the container is not as the plugin wants it: %q", log)
	}
	if st := k.status(t, id); st.Resources.Linux.CpuShares != 333 {
		t.Errorf("limits are told as %v", st.Resources)
	}
	_, err := k.UpdateContainerResources(t.Context(), &runtime.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtime.LinuxContainerResources{CpuShares: 500}})
	if st := k.status(t, id); err != nil || st.Resources.Linux.CpuShares != 501 {
		t.Errorf("limits after the change: %v, %v", st.Resources, err)
	}
	if _, err := k.UpdatePodSandboxResources(t.Context(), &runtime.UpdatePodSandboxResourcesRequest{PodSandboxId: podID, Resources: &runtime.LinuxContainerResources{CpuShares: 800}}); err != nil {
		t.Error(err)
	}
	late := plug(t, d)
	if got := late.take(); !slices.Equal(got, []string{"synchronize 1 1"}) {
		t.Errorf("the second plugin is told of %q", got)
	}
	late.Stop()
	u := &api.ContainerUpdate{}
	u.SetContainerId(id)
	u.SetLinuxCPUShares(700)
	if failed, err := p.UpdateContainers([]*api.ContainerUpdate{u}); err != nil || len(failed) > 0 {
		t.Errorf("what the plugin wants by itself: %v, %v", failed, err)
	}
	if st := k.status(t, id); st.Resources.Linux.CpuShares != 700 {
		t.Errorf("limits after the plugin's change: %v", st.Resources)
	}
	if _, err := k.StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: id, Timeout: 30}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: podID}); err != nil {
		t.Fatal(err)
	}
	want := []string{"run default", "create main", "created", "start", "started with a pid: true", "update to 500 shares", "update pod to 800 shares", "stopped with code 5", "stop pod", "remove", "remove pod"}
	if got := p.take(); !slices.Equal(got, want) {
		t.Errorf("the plugin saw %q", got)
	}
	k.removeAll(t, d)
}

// TestPluginsRefuse: what a plugin refuses is not made, and leaves nothing; a plugin that is gone is in nobody's way.
func TestPluginsRefuse(t *testing.T) {
	d, k := startNRI(t)
	k.pull(t)
	p := plug(t, d)
	pod := ownNetwork(k.podConfig(name(t)))
	pod.Annotations = map[string]string{"refuse": "pod"}
	_, err := k.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: pod})
	wantCode(t, err, "Aborted")
	if err != nil && !strings.Contains(err.Error(), "not this pod") {
		t.Errorf("the error does not say what the plugin said: %v", err)
	}
	k.checkNothing(t, d)
	for annotation, want := range map[string][2]string{
		"refuse": {"container", "Aborted"}, "cgroup": {k.cgroup, "InvalidArgument"}, "block-io": {"nobody's", "InvalidArgument"},
	} {
		pod.Annotations = map[string]string{annotation: want[0]}
		pod.Metadata.Attempt++
		_, _, err = k.tryStart(t.Context(), pod, k.containerConfig(pod, "true"))
		wantCode(t, err, want[1])
	}
	list, err := k.ListContainers(t.Context(), &runtime.ListContainersRequest{})
	if err != nil || len(list.Containers) > 0 {
		t.Errorf("containers that were refused are listed: %v, %v", list, err)
	}
	p.Stop()
	pod.Metadata.Attempt++
	if _, _, err := k.tryStart(t.Context(), pod, k.containerConfig(pod, "true")); err != nil {
		t.Errorf("without the plugin: %v", err)
	}
	d.kill() // and one that comes after a crash is told again
	d.start()
	k = dialCRI(t, d)
	if got := plug(t, d).take(); !strings.HasPrefix(got[0], "synchronize 4 ") {
		t.Errorf("after a crash the plugin is told of %q", got)
	}
	k.removeAll(t, d)
}

// TestPluginMovesContainer: a container is in the cgroup that a plugin names, with the limits of the class that it names, and both go with it.
func TestPluginMovesContainer(t *testing.T) {
	const disk = "/dev/loop0"
	d, k := startCRIWith(t, func(d *daemon) {
		d.config += fmt.Sprintf("[cri.nri]\nenabled = true\nsocket = %q\n", filepath.Join(d.dir, "nri.sock"))
		d.config += fmt.Sprintf("[cri.nri.block_io.slow]\n[[cri.nri.block_io.slow.device]]\npath = %q\nread_bps = 1048576\n", disk)
	})
	k.pull(t)
	plug(t, d)
	pod := k.podConfig(name(t))
	pod.Annotations = map[string]string{"cgroup": k.cgroup + "/moved"}
	throttled := "/sys/fs/cgroup/blkio" + k.cgroup + "/moved/blkio.throttle.read_bps_device"
	_, errDisk := os.Stat(disk)
	_, errV1 := os.Stat("/sys/fs/cgroup/blkio/blkio.throttle.read_bps_device")
	limited := errDisk == nil && errV1 == nil
	if limited {
		pod.Annotations["block-io"] = "slow"
	} else {
		t.Logf("limits of a disk are not tried: %v", errors.Join(errDisk, errV1))
	}
	_, id := k.start(t, pod, k.containerConfig(pod, "cat /proc/self/cgroup; exec sleep 1000"))
	eventually(t, "the container says where it is", func() bool { return strings.Contains(k.log(t, id), k.cgroup+"/moved\n") })
	if limited && readFile(t, throttled) != "7:0 1048576\n" {
		t.Errorf("the disk is limited to %q", readFile(t, throttled))
	}
	k.removeAll(t, d)
}

// TestPluginChangesWhatGoes: a plugin may want to change containers that are being removed, as it is told of one; it is in nobody's way then.
func TestPluginChangesWhatGoes(t *testing.T) {
	d, k := startNRI(t)
	k.pull(t)
	p := plug(t, d)
	pod := k.podConfig(name(t))
	podID, _ := k.start(t, pod, k.containerConfig(pod, "exec sleep 1000"))
	var ids []string
	for n := range 8 {
		c := k.containerConfig(pod, "true")
		c.Metadata.Name = fmt.Sprintf("c%d", n)
		made, err := k.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: podID, Config: c, SandboxConfig: pod})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, made.ContainerId)
	}
	p.removing = func(*api.Container) {
		for _, id := range ids {
			u := &api.ContainerUpdate{IgnoreFailure: true}
			u.SetContainerId(id)
			u.SetLinuxCPUShares(700)
			if _, err := p.UpdateContainers([]*api.ContainerUpdate{u}); err != nil {
				t.Errorf("cannot say what is to be changed: %v", err)
			}
		}
	}
	p.take()
	var group errgroup.Group
	for _, id := range ids {
		group.Go(func() error {
			_, err := k.RemoveContainer(t.Context(), &runtime.RemoveContainerRequest{ContainerId: id})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if got := p.take(); len(got) != len(ids) {
		t.Errorf("told of the removal of %d containers was the plugin %d times; it has been cut off", len(ids), len(got))
	}
	k.removeAll(t, d)
}

// log is what a container wrote.
func (k *kubelet) log(t *testing.T, id string) string {
	t.Helper()
	return readFile(t, k.status(t, id).LogPath)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
