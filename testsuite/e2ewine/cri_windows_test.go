package e2ewine

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Microsoft/hcsshim"
	"github.com/Microsoft/hcsshim/hcn"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/testsuite/registry"
)

// kubelet is a client of the daemon as the kubelet of a Windows node is one.
type kubelet struct {
	*testing.T
	d *daemon
	runtime.RuntimeServiceClient
	images runtime.ImageServiceClient
	logs   string // directory of pods' logs
	before []string
}

// natNetwork has pods attached to the daemon's own network.
const natNetwork = "[cri]\ncni_conf_dir = ''\n"

// startCRI starts a daemon. What its test leaves of pods is removed, and nothing but images must be left then.
func startCRI(t *testing.T, conf string) *kubelet {
	t.Helper()
	d := newDaemonWith(t, conf)
	k := &kubelet{T: t, d: d, logs: filepath.Join(filepath.Dir(d.root), "logs"), before: onHost(t)}
	k.dial()
	if err := os.MkdirAll(k.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.removeAll)
	return k
}

// dial follows each start of the daemon.
func (k *kubelet) dial() {
	conn := k.d.Conn()
	k.RuntimeServiceClient, k.images = runtime.NewRuntimeServiceClient(conn), runtime.NewImageServiceClient(conn)
}

// onHost are the things of Windows that pods are made with.
func onHost(t testing.TB) []string {
	t.Helper()
	var all []string
	systems, err := hcsshim.GetContainers(hcsshim.ComputeSystemQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range systems {
		all = append(all, "compute system "+s.ID)
	}
	namespaces, err := hcn.ListNamespaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range namespaces {
		all = append(all, "network namespace "+n.Id)
	}
	endpoints, err := hcn.ListEndpoints()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range endpoints {
		all = append(all, "endpoint "+e.Name)
	}
	return all
}

func (k *kubelet) removeAll() {
	k.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pods, err := k.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		k.Error(err)
	}
	for _, p := range pods.GetItems() {
		if _, err := k.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			k.Errorf("cannot stop pod %s: %v", p.Id, err)
		}
		if _, err := k.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			k.Errorf("cannot remove pod %s: %v", p.Id, err)
		}
	}
	k.checkNothing()
}

// checkNothing fails when anything but images is left.
func (k *kubelet) checkNothing() {
	k.Helper()
	if left, err := os.ReadDir(filepath.Join(k.d.state, "pods")); err != nil || len(left) > 0 {
		k.Errorf("directories of pods are left: %v, %v", left, err)
	}
	for _, thing := range onHost(k) {
		if !slices.Contains(k.before, thing) {
			k.Errorf("left on the host: %s", thing)
		}
	}
	if n, err := hcn.GetNetworkByName("slipway-nat"); err == nil {
		if err := n.Delete(); err != nil {
			k.Error(err)
		}
	}
}

// push puts an image into a registry of its own and answers its name.
func (k *kubelet) push(img registry.Buildable) (string, *registry.Registry) {
	k.Helper()
	r := registry.Start(k)
	r.Push("windows/test:1", img)
	return r.Host() + "/windows/test:1", r
}

func (k *kubelet) pull(ref string, auth *runtime.AuthConfig) error {
	_, err := k.images.PullImage(k.d.ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: ref}, Auth: auth})
	return err
}

// hello pulls the image that most tests run.
func (k *kubelet) hello() string {
	k.Helper()
	ref, _ := k.push(hello())
	if err := k.pull(ref, nil); err != nil {
		k.Fatal(err)
	}
	return ref
}

// pod is one as kubelet asks for it on Windows: the section of Linux is filled in as well.
func (k *kubelet) pod(name string) *runtime.PodSandboxConfig {
	return &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: name, Uid: name + "-uid", Namespace: "default"}, LogDirectory: k.logs, Hostname: name,
		DnsConfig: &runtime.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"default.svc.cluster.local"}},
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent:    "/kubepods/" + name,
			SecurityContext: &runtime.LinuxSandboxSecurityContext{Seccomp: &runtime.SecurityProfile{}, NamespaceOptions: &runtime.NamespaceOption{}},
		},
		Windows: &runtime.WindowsPodSandboxConfig{SecurityContext: &runtime.WindowsSandboxSecurityContext{}},
	}
}

func (k *kubelet) container(name, image string, command ...string) *runtime.ContainerConfig {
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name}, Image: &runtime.ImageSpec{Image: image}, Command: command, LogPath: name + ".log",
		Windows: &runtime.WindowsContainerConfig{Resources: &runtime.WindowsContainerResources{}, SecurityContext: &runtime.WindowsContainerSecurityContext{}},
	}
}

func (k *kubelet) run(pod *runtime.PodSandboxConfig, handler string) string {
	k.Helper()
	p, err := k.RunPodSandbox(k.d.ctx, &runtime.RunPodSandboxRequest{Config: pod, RuntimeHandler: handler})
	if err != nil {
		k.Fatal(err)
	}
	return p.PodSandboxId
}

func (k *kubelet) create(podID string, pod *runtime.PodSandboxConfig, c *runtime.ContainerConfig) (string, error) {
	made, err := k.CreateContainer(k.d.ctx, &runtime.CreateContainerRequest{PodSandboxId: podID, Config: c, SandboxConfig: pod})
	return made.GetContainerId(), err
}

// begin creates and starts a container.
func (k *kubelet) begin(podID string, pod *runtime.PodSandboxConfig, c *runtime.ContainerConfig) string {
	k.Helper()
	id, err := k.create(podID, pod, c)
	if err != nil {
		k.Fatal(err)
	}
	if _, err := k.StartContainer(k.d.ctx, &runtime.StartContainerRequest{ContainerId: id}); err != nil {
		k.Fatal(err)
	}
	return id
}

// status answers what is known of a container, and its runtime document.
func (k *kubelet) status(id string) (*runtime.ContainerStatus, document) {
	k.Helper()
	r, err := k.ContainerStatus(k.d.ctx, &runtime.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		k.Fatal(err)
	}
	var more struct{ RuntimeSpec document }
	if err := json.Unmarshal([]byte(r.Info["info"]), &more); err != nil {
		k.Fatal(err)
	}
	return r.Status, more.RuntimeSpec
}

// document is what tests look at in one.
type document struct {
	Hostname string
	Process  struct {
		User struct{ Username string }
		Args []string
	}
	Windows struct {
		HyperV         *struct{}
		CredentialSpec any
		Network        struct{ NetworkNamespace string }
	}
}

// ended waits until a container has.
func (k *kubelet) ended(id string) (st *runtime.ContainerStatus) {
	k.Helper()
	k.d.eventually("the container does not end", func() error {
		st, _ = k.status(id)
		return wants(st.State.String(), "EXITED")
	})
	return st
}

// sync is ExecSync of cmd's command line.
func (k *kubelet) sync(id, line string) (out string, code int32) {
	k.Helper()
	r, err := k.ExecSync(k.d.ctx, &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"cmd", "/c", line}})
	if err != nil {
		k.Fatal(err)
	}
	return string(r.Stdout) + string(r.Stderr), r.ExitCode
}

// log waits for a line in a container's log.
func (k *kubelet) log(name, want string) {
	k.Helper()
	k.d.eventually("the log does not come", func() error {
		text, err := os.ReadFile(filepath.Join(k.logs, name+".log"))
		if err != nil {
			return err
		}
		return wants(string(text), want)
	})
}

// refused checks the kind of an error and what it says.
func (k *kubelet) refused(err error, kind func(error) bool, words string) {
	k.Helper()
	if !kind(err) || !strings.Contains(err.Error(), words) {
		k.Errorf("%v, want another kind, or words with %q", err, words)
	}
}
