package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func wantCode(t *testing.T, err error, want string) {
	t.Helper()
	if got := status.Code(err).String(); got != want {
		t.Errorf("got code %s, want %s: %v", got, want, err)
	}
}

// TestBadPods: what cannot be is refused with the right code, and nothing is left of it.
func TestBadPods(t *testing.T) {
	d, k := startCRI(t)
	for name, test := range map[string]struct {
		change  func(c *runtime.PodSandboxConfig)
		handler string
		want    codes.Code
	}{
		"unknown runtime class":   {handler: "nobody", want: codes.NotFound},
		"no metadata":             {change: func(c *runtime.PodSandboxConfig) { c.Metadata = nil }, want: codes.InvalidArgument},
		"no name":                 {change: func(c *runtime.PodSandboxConfig) { c.Metadata.Name = "" }, want: codes.InvalidArgument},
		"name with a slash":       {change: func(c *runtime.PodSandboxConfig) { c.Metadata.Name = "../a" }, want: codes.InvalidArgument},
		"namespace with a slash":  {change: func(c *runtime.PodSandboxConfig) { c.Metadata.Namespace = "a/b" }, want: codes.InvalidArgument},
		"name of two lines":       {change: func(c *runtime.PodSandboxConfig) { c.Metadata.Name = "a\nb" }, want: codes.InvalidArgument},
		"annotation bomb":         {change: func(c *runtime.PodSandboxConfig) { c.Annotations = map[string]string{"a": strings.Repeat("b", 9<<20)} }, want: codes.InvalidArgument},
		"sysctl of the host":      {change: func(c *runtime.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"kernel.panic": "1"} }, want: codes.InvalidArgument},
		"sysctl that is not":      {change: func(c *runtime.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.ipv4.nothing": "1"} }, want: codes.InvalidArgument},
		"sysctl that leads out":   {change: func(c *runtime.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net/../kernel/panic": "1"} }, want: codes.InvalidArgument},
		"host name with a NUL":    {change: func(c *runtime.PodSandboxConfig) { c.Hostname = strings.Repeat("x", 100) }, want: codes.InvalidArgument},
		"network of a container":  {change: func(c *runtime.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.Network = 1 }, want: codes.InvalidArgument},
		"resolver of two lines":   {change: func(c *runtime.PodSandboxConfig) { c.DnsConfig = &runtime.DNSConfig{Servers: []string{"1.1.1.1\nx"}} }, want: codes.InvalidArgument},
		"name that plugins split": {change: func(c *runtime.PodSandboxConfig) { c.Metadata.Name = "a;K8S_POD_NAME=b" }, want: codes.InvalidArgument},
		"relative log directory":  {change: func(c *runtime.PodSandboxConfig) { c.LogDirectory = "logs" }, want: codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			c := ownNetwork(k.podConfig("bad"))
			if test.change != nil {
				test.change(c)
			}
			_, err := k.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: c, RuntimeHandler: test.handler})
			wantCode(t, err, test.want.String())
		})
	}
	if err := os.Remove(filepath.Join(d.dir, "cni/net.d/10-net.conflist")); err != nil {
		t.Fatal(err)
	}
	_, err := k.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: ownNetwork(k.podConfig("bad"))})
	wantCode(t, err, "FailedPrecondition")
	if r, err := k.Status(t.Context(), &runtime.StatusRequest{}); err != nil || r.Status.Conditions[1].Status {
		t.Errorf("the network is said to be ready without configuration: %v, %v", r, err)
	}
	if _, err := k.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: k.podConfig("fine")}); err != nil {
		t.Errorf("a pod in the host's network needs none: %v", err)
	}
	k.removeAll(t, d)
}

func TestBadContainers(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	pod := k.podConfig(name(t))
	made, err := k.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	profile := filepath.Join(d.dir, "profile.json")
	if err := os.WriteFile(profile, []byte(`{"defaultAction": 7`), 0o600); err != nil {
		t.Fatal(err)
	}
	security := func(change func(*runtime.LinuxContainerSecurityContext)) func(*runtime.ContainerConfig) {
		return func(c *runtime.ContainerConfig) { change(c.Linux.SecurityContext) }
	}
	for name, test := range map[string]struct {
		change func(c *runtime.ContainerConfig)
		want   codes.Code
	}{
		"name with a slash":      {func(c *runtime.ContainerConfig) { c.Metadata.Name = "a/../b" }, codes.InvalidArgument},
		"no image":               {func(c *runtime.ContainerConfig) { c.Image = nil }, codes.InvalidArgument},
		"image that is not here": {func(c *runtime.ContainerConfig) { c.Image.Image = "nowhere/nothing:1" }, codes.NotFound},
		"mount of nothing": {func(c *runtime.ContainerConfig) {
			c.Mounts = []*runtime.Mount{{HostPath: "/nothing/there", ContainerPath: "/x"}}
		}, codes.InvalidArgument},
		"log path that leads out": {func(c *runtime.ContainerConfig) { c.LogPath = "../../etc/passwd" }, codes.InvalidArgument},
		"bad seccomp JSON": {security(func(s *runtime.LinuxContainerSecurityContext) {
			s.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: profile}
		}), codes.InvalidArgument},
		"no seccomp file": {security(func(s *runtime.LinuxContainerSecurityContext) {
			s.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost, LocalhostRef: "/nothing"}
		}), codes.InvalidArgument},
		"unknown capability": {security(func(s *runtime.LinuxContainerSecurityContext) {
			s.Capabilities = &runtime.Capability{AddCapabilities: []string{"FLY"}}
		}), codes.InvalidArgument},
		"privileged in a pod that is not": {security(func(s *runtime.LinuxContainerSecurityContext) { s.Privileged = true }), codes.InvalidArgument},
		"unknown user":                    {security(func(s *runtime.LinuxContainerSecurityContext) { s.RunAsUsername = "nobody-here" }), codes.InvalidArgument},
		"group without user": {security(func(s *runtime.LinuxContainerSecurityContext) {
			s.RunAsGroup = &runtime.Int64Value{Value: 5}
		}), codes.InvalidArgument},
		"no such device": {func(c *runtime.ContainerConfig) {
			c.Devices = []*runtime.Device{{HostPath: "/dev/nothing", ContainerPath: "/dev/x", Permissions: "rwm"}}
		}, codes.InvalidArgument},
		"device that nobody describes": {func(c *runtime.ContainerConfig) { c.CDIDevices = []*runtime.CDIDevice{{Name: "vendor.com/gpu=9"}} }, codes.InvalidArgument},
		"annotation bomb":              {func(c *runtime.ContainerConfig) { c.Annotations = map[string]string{"a": strings.Repeat("b", 9<<20)} }, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			c := k.containerConfig(pod, "true")
			test.change(c)
			_, err := k.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: made.PodSandboxId, Config: c, SandboxConfig: pod})
			wantCode(t, err, test.want.String())
		})
	}
	list, err := k.ListContainers(t.Context(), &runtime.ListContainersRequest{})
	if err != nil || len(list.Containers) > 0 {
		t.Errorf("containers that were refused are listed: %v, %v", list, err)
	}
	k.removeAll(t, d)
}

// TestLogOnFullDisk: a container whose log cannot be written does not start, says why, and can be tried again.
func TestLogOnFullDisk(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	full := filepath.Join(d.dir, "full")
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", full, "tmpfs", 0, "size=4k,nr_inodes=2"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(full, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(filepath.Join(full, "fill"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pod := k.podConfig(name(t))
	pod.LogDirectory = full
	_, id, err := k.tryStart(t.Context(), pod, k.containerConfig(pod, "true"))
	wantCode(t, err, "ResourceExhausted")
	if st := k.status(t, id); st.State != runtime.ContainerState_CONTAINER_EXITED || st.Reason != "StartError" || st.ExitCode != 128 {
		t.Errorf("status %v", st)
	}
	if err := os.Remove(filepath.Join(full, "fill")); err != nil {
		t.Fatal(err)
	}
	again := k.containerConfig(pod, "true")
	again.Metadata.Attempt = 1
	pods, err := k.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	made, err := k.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: pods.Items[0].Id, Config: again, SandboxConfig: pod})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatal(err)
	}
	k.awaitState(t, made.ContainerId, runtime.ContainerState_CONTAINER_EXITED)
	if err := os.RemoveAll(filepath.Join(full, pod.Metadata.Name+".log")); err != nil {
		t.Error(err)
	}
	pods, err = k.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		if _, err := k.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			t.Error(err)
		}
	}
}
