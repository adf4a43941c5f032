package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"
)

// The tests of this file go over what critest goes over, by kubelet's own client.

// kubeletClient is kubelet's client of the daemon's CRI.
func kubeletClient(t *testing.T, d *daemon) (internalapi.RuntimeService, internalapi.ImageManagerService) {
	t.Helper()
	rt, err := criclient.NewRemoteRuntimeServiceBuilder().WithEndpoint("unix://" + d.address).WithConnectionTimeout(patience).Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close(t.Context()) })
	images, err := criclient.NewRemoteImageServiceBuilder().WithEndpoint("unix://" + d.address).WithConnectionTimeout(patience).Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { images.Close(t.Context()) })
	return rt, images
}

// ground is one thing that a pod or container may ask for. got is a regular expression for what the script prints.
type ground struct {
	pod       func(*runtime.PodSandboxConfig)
	container func(*runtime.ContainerConfig)
	script    string
	got       string
}

// security changes what a container may.
func security(change func(*runtime.LinuxContainerSecurityContext)) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) { change(c.Linux.SecurityContext) }
}

func resources(r *runtime.LinuxContainerResources) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) { c.Linux.Resources = r }
}

func mountOf(m *runtime.Mount) func(*runtime.ContainerConfig) {
	return func(c *runtime.ContainerConfig) { c.Mounts = append(c.Mounts, m) }
}

const number = 1000

var userGround = map[string]ground{
	"user": {container: security(func(s *runtime.LinuxContainerSecurityContext) { s.RunAsUser = &runtime.Int64Value{Value: number} }), script: "id -u", got: "1000"},
	"user and group": {container: security(func(s *runtime.LinuxContainerSecurityContext) {
		s.RunAsUser, s.RunAsGroup = &runtime.Int64Value{Value: number}, &runtime.Int64Value{Value: 1001}
	}), script: "id -u; id -g", got: "1000\n1001"},
	"supplemental groups": {container: security(func(s *runtime.LinuxContainerSecurityContext) { s.SupplementalGroups = []int64{1234, 5678} }), script: "id -G", got: ".*1234 5678"},
	"no new privileges":   {container: security(func(s *runtime.LinuxContainerSecurityContext) { s.NoNewPrivs = true }), script: "grep NoNewPrivs /proc/self/status", got: `NoNewPrivs:\s1`},
	"dropped capabilities": {container: security(func(s *runtime.LinuxContainerSecurityContext) {
		s.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}}
	}), script: "grep CapEff /proc/self/status", got: `CapEff:\s0{16}`},
	"one capability": {container: security(func(s *runtime.LinuxContainerSecurityContext) {
		s.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}
	}), script: "grep CapEff /proc/self/status", got: `CapEff:\s0{12}1000`},
	"ambient capability": {container: security(func(s *runtime.LinuxContainerSecurityContext) {
		s.RunAsUser = &runtime.Int64Value{Value: number}
		s.Capabilities = &runtime.Capability{AddAmbientCapabilities: []string{"NET_ADMIN"}}
	}), script: "grep CapEff /proc/self/status", got: `CapEff:\s0{12}1000`},
	"privileged": {
		pod:       func(p *runtime.PodSandboxConfig) { p.Linux.SecurityContext.Privileged = true },
		container: security(func(s *runtime.LinuxContainerSecurityContext) { s.Privileged = true }),
		script:    "mount -t tmpfs tmpfs /tmp && echo mounted; test -w /proc/sys/kernel/domainname && echo writable", got: "mounted\nwritable",
	},
	"read-only root": {container: security(func(s *runtime.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }), script: "touch /x 2>&1 || true", got: ".*Read-only file system"},
	"masked and read-only paths": {container: security(func(s *runtime.LinuxContainerSecurityContext) {
		s.MaskedPaths, s.ReadonlyPaths = []string{"/bin/ls"}, []string{"/tmp"}
	}), script: "wc -c < /bin/ls; touch /tmp/x 2>&1 || true", got: "0\n.*Read-only file system"},
	"default seccomp profile": {container: security(func(s *runtime.LinuxContainerSecurityContext) {
		s.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
	}), script: "grep Seccomp: /proc/self/status", got: `Seccomp:\s2`},
	"no seccomp profile": {container: security(func(s *runtime.LinuxContainerSecurityContext) {
		s.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Unconfined}
	}), script: "grep Seccomp: /proc/self/status", got: `Seccomp:\s0`},
}

var podGround = map[string]ground{
	"host's network":     {script: "readlink /proc/self/ns/net", got: `HOST:net`},
	"network of its own": {pod: func(p *runtime.PodSandboxConfig) { ownNetwork(p) }, script: `test "$(readlink /proc/self/ns/net)" != 'HOST:net' && ls /sys/class/net`, got: "lo"},
	"host's processes": {
		pod: func(p *runtime.PodSandboxConfig) {
			p.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_NODE
		},
		container: security(func(s *runtime.LinuxContainerSecurityContext) { s.NamespaceOptions.Pid = runtime.NamespaceMode_NODE }),
		script:    "readlink /proc/self/ns/pid", got: "HOST:pid",
	},
	"host's IPC": {
		pod: func(p *runtime.PodSandboxConfig) {
			p.Linux.SecurityContext.NamespaceOptions.Ipc = runtime.NamespaceMode_NODE
		},
		container: security(func(s *runtime.LinuxContainerSecurityContext) { s.NamespaceOptions.Ipc = runtime.NamespaceMode_NODE }),
		script:    "readlink /proc/self/ns/ipc", got: "HOST:ipc",
	},
	"sysctl": {pod: func(p *runtime.PodSandboxConfig) {
		ownNetwork(p).Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}
	}, script: "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced", got: "1\n1"},
	"low ports without privilege": {pod: func(p *runtime.PodSandboxConfig) { ownNetwork(p) }, script: "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", got: "0"},
	"resolver": {pod: func(p *runtime.PodSandboxConfig) {
		p.DnsConfig = &runtime.DNSConfig{Servers: []string{"10.9.8.7"}, Searches: []string{"a.test", "b.test"}, Options: []string{"ndots:5"}}
	}, script: "cat /etc/resolv.conf", got: "search a.test b.test\nnameserver 10.9.8.7\noptions ndots:5"},
	"host name": {pod: func(p *runtime.PodSandboxConfig) { ownNetwork(p).Hostname = "pod-7" }, script: "hostname; echo $HOSTNAME; cat /etc/hostname", got: "pod-7\npod-7\npod-7"},
	"environment and directory": {container: func(c *runtime.ContainerConfig) {
		c.Envs, c.WorkingDir = []*runtime.KeyValue{{Key: "A", Value: []byte("b c")}}, "/tmp"
	}, script: `echo "$A"; pwd`, got: "b c\n/tmp"},
	"arguments": {container: func(c *runtime.ContainerConfig) { c.Command, c.Args = []string{"echo"}, []string{"a", "b"} }, got: "a b"},
	"terminal":  {container: func(c *runtime.ContainerConfig) { c.Tty = true }, script: "tty; echo $TERM", got: "/dev/pts/0\r?\nxterm\r?"},
	"device": {container: func(c *runtime.ContainerConfig) {
		c.Devices = []*runtime.Device{{HostPath: "/dev/null", ContainerPath: "/dev/nil", Permissions: "rwm"}}
	}, script: "echo x > /dev/nil && test -c /dev/nil && echo there", got: "there"},
	"oom score": {container: resources(&runtime.LinuxContainerResources{OomScoreAdj: 900}), script: "cat /proc/self/oom_score_adj", got: "900"},
	"memory and processors": {
		container: resources(&runtime.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512}),
		script:    "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null || true",
		got:       "67108864\n50000( 100000)?",
	},
	"recursively read-only volume": {container: mountOf(&runtime.Mount{HostPath: "/VOLUME", ContainerPath: "/v", Readonly: true, RecursiveReadOnly: true}), script: "touch /v/x 2>&1 || true", got: ".*Read-only file system"},
	"volume by a link":             {container: mountOf(&runtime.Mount{HostPath: "/VOLUME/link", ContainerPath: "/v"}), script: "cat /v/file", got: "content"},
	"private volume":               {container: mountOf(&runtime.Mount{HostPath: "/VOLUME", ContainerPath: "/v"}), script: "grep ' /v ' /proc/self/mountinfo | grep -c -e shared: -e master: || true", got: "0"},
	"volume with the host's later mounts": {container: mountOf(&runtime.Mount{HostPath: "/VOLUME", ContainerPath: "/v", Propagation: runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}),
		script: "grep ' /v ' /proc/self/mountinfo | grep -c master: || true", got: "1"},
}

// TestGround runs one container for each thing that can be asked for.
func TestGround(t *testing.T) {
	d, k := startCRI(t)
	rt, images := kubeletClient(t, d)
	if _, err := images.PullImage(t.Context(), &runtime.ImageSpec{Image: busybox}, nil, nil); err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(d.dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	unmount := sharedMount(t, volume)
	for path, text := range map[string]string{"target/file": "content\n"} {
		if err := os.MkdirAll(filepath.Join(volume, filepath.Dir(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(volume, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("target", filepath.Join(volume, "link")); err != nil {
		t.Fatal(err)
	}
	for _, all := range []map[string]ground{userGround, podGround} {
		for name, g := range all {
			t.Run(name, func(t *testing.T) {
				pod := k.podConfig(strings.ReplaceAll(name, " ", "-"))
				if g.pod != nil {
					g.pod(pod)
				}
				c := k.containerConfig(pod, hosts(t, g.script))
				if g.container != nil {
					g.container(c)
				}
				for _, m := range c.Mounts {
					m.HostPath = strings.Replace(m.HostPath, "/VOLUME", volume, 1)
				}
				got := runOnce(t, rt, pod, c)
				if want := "^" + hosts(t, g.got) + "$"; !regexp.MustCompile(want).MatchString(got) {
					t.Errorf("got %q, want %s", got, want)
				}
			})
		}
	}
	unmount()
	k.removeAll(t, d)
}

// hosts writes the host's namespace in the place of HOST:kind.
func hosts(t *testing.T, text string) string {
	t.Helper()
	return regexp.MustCompile("HOST:([a-z]+)").ReplaceAllStringFunc(text, func(s string) string {
		link, err := os.Readlink("/proc/self/ns/" + strings.TrimPrefix(s, "HOST:"))
		if err != nil {
			t.Fatal(err)
		}
		return regexp.QuoteMeta(link)
	})
}

// runOnce runs a container to its end, by kubelet's calls in its order, and answers what it wrote.
func runOnce(t *testing.T, rt internalapi.RuntimeService, pod *runtime.PodSandboxConfig, c *runtime.ContainerConfig) string {
	t.Helper()
	ctx := t.Context()
	podID, err := rt.RunPodSandbox(ctx, pod, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := rt.CreateContainer(ctx, podID, c, pod)
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	var st *runtime.ContainerStatus
	eventually(t, "the end of the container", func() bool {
		r, err := rt.ContainerStatus(ctx, id, false)
		if err != nil {
			t.Fatal(err)
		}
		st = r.Status
		return st.State == runtime.ContainerState_CONTAINER_EXITED
	})
	out := logText(readFile(t, st.LogPath))
	if st.ExitCode != 0 {
		t.Errorf("exit code %d, %s: %s", st.ExitCode, st.Message, out)
	}
	if err := rt.StopPodSandbox(ctx, podID); err != nil {
		t.Error(err)
	}
	if err := rt.RemovePodSandbox(ctx, podID); err != nil {
		t.Error(err)
	}
	return strings.TrimSuffix(out, "\n")
}

// logText is what was written, without when and where to.
func logText(log string) string {
	var text strings.Builder
	for line := range strings.Lines(log) {
		if parts := strings.SplitN(line, " ", 4); len(parts) == 4 {
			text.WriteString(parts[3])
		}
	}
	return text.String()
}

// TestOutOfMemory: a container whose limit is too low is told to have been killed for it.
func TestOutOfMemory(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	pod := k.podConfig(name(t))
	c := k.containerConfig(pod, "head -c 200000000 /dev/zero | tail -c 190000000 | wc -c; exit 3")
	c.Command = []string{"sh", "-c", "exec tail -c 190000000 /dev/zero"}
	c.Linux.Resources = &runtime.LinuxContainerResources{MemoryLimitInBytes: 20 << 20}
	_, id := k.start(t, pod, c)
	if st := k.awaitState(t, id, runtime.ContainerState_CONTAINER_EXITED); st.Reason != "OOMKilled" || st.ExitCode != 137 {
		t.Errorf("status %v", st)
	}
	k.removeAll(t, d)
}

// TestStopSignal: a container ends by the signal that it names, in the time that it is given; one that ignores it is killed.
func TestStopSignal(t *testing.T) {
	d, k := startCRI(t)
	rt, _ := kubeletClient(t, d)
	k.pull(t)
	pod := k.podConfig(name(t))
	c := k.containerConfig(pod, "trap 'exit 11' USR1; trap '' TERM; echo ready; while :; do sleep 0.02; done")
	c.StopSignal = runtime.Signal_SIGNAL_SIGUSR1
	podID, id := k.start(t, pod, c)
	k.awaitLog(t, id, "ready")
	if err := rt.StopContainer(t.Context(), id, 30); err != nil {
		t.Fatal(err)
	}
	if st := k.status(t, id); st.ExitCode != 11 || st.StopSignal != runtime.Signal_SIGNAL_SIGUSR1 {
		t.Errorf("status %v", st)
	}
	again := k.containerConfig(pod, "trap '' TERM; echo deaf; while :; do sleep 0.02; done")
	again.Metadata.Attempt, again.LogPath = 1, "again.log"
	id, err := rt.CreateContainer(t.Context(), podID, again, pod)
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	k.awaitLog(t, id, "deaf")
	if err := rt.StopContainer(t.Context(), id, 1); err != nil {
		t.Fatal(err)
	}
	if st := k.status(t, id); st.ExitCode != 137 {
		t.Errorf("status %v", st)
	}
	k.removeAll(t, d)
}

// TestLogRotation: after a rotation the log goes on in a new file, and nothing is lost or twice.
func TestLogRotation(t *testing.T) {
	d, k := startCRI(t)
	rt, _ := kubeletClient(t, d)
	k.pull(t)
	pod := k.podConfig(name(t))
	_, id := k.start(t, pod, k.containerConfig(pod, "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; sleep 0.005; done"))
	path := k.status(t, id).LogPath
	var whole strings.Builder
	for n := range 3 {
		k.awaitLog(t, id, string(rune('1'+n)))
		old := path + ".old"
		if err := os.Rename(path, old); err != nil {
			t.Fatal(err)
		}
		if err := rt.ReopenContainerLog(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		whole.WriteString(readFile(t, old))
	}
	k.awaitState(t, id, runtime.ContainerState_CONTAINER_EXITED)
	whole.WriteString(readFile(t, path))
	all := filepath.Join(d.dir, "whole.log")
	if err := os.WriteFile(all, []byte(whole.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	checkCount(t, all)
	if !strings.HasSuffix(whole.String(), " 300\n") {
		t.Error("the end of the log is missing")
	}
	k.removeAll(t, d)
}

// TestImages: an image has an ID, tags and digests, is found by each, and goes by any.
func TestImages(t *testing.T) {
	d, _ := startCRI(t)
	_, images := kubeletClient(t, d)
	ctx := t.Context()
	id, err := images.PullImage(ctx, &runtime.ImageSpec{Image: busybox}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := images.ListImages(ctx, nil)
	if err != nil || len(all) != 1 || all[0].Id != id || len(all[0].RepoTags) != 1 || len(all[0].RepoDigests) != 1 || all[0].Size == 0 || all[0].Pinned {
		t.Fatalf("images: %v, %v", all, err)
	}
	for _, name := range []string{busybox, id, all[0].RepoDigests[0], strings.TrimSuffix(busybox, ":latest"), strings.TrimPrefix(id, "sha256:")[:12]} {
		if st, err := images.ImageStatus(ctx, &runtime.ImageSpec{Image: name}, true); err != nil || st.Image.GetId() != id {
			t.Errorf("status by %s: %v, %v", name, st, err)
		}
	}
	if again, err := images.PullImage(ctx, &runtime.ImageSpec{Image: all[0].RepoDigests[0]}, nil, nil); err != nil || again != id {
		t.Errorf("pulled by its digest: %s, %v", again, err)
	}
	info, err := images.ImageFsInfo(ctx)
	if err != nil || len(info.ImageFilesystems) != 1 || info.ImageFilesystems[0].UsedBytes.GetValue() == 0 {
		t.Errorf("ImageFsInfo: %v, %v", info, err)
	}
	if err := images.RemoveImage(ctx, &runtime.ImageSpec{Image: all[0].RepoDigests[0]}); err != nil {
		t.Fatal(err)
	}
	if st, err := images.ImageStatus(ctx, &runtime.ImageSpec{Image: busybox}, false); err != nil || st.Image != nil {
		t.Errorf("after the removal: %v, %v", st, err)
	}
	if err := images.RemoveImage(ctx, &runtime.ImageSpec{Image: busybox}); err != nil {
		t.Errorf("removed again: %v", err)
	}
	for _, bad := range []string{"", "UPPER CASE", strings.TrimSuffix(busybox, ":latest") + ":nothing"} {
		if _, err := images.PullImage(ctx, &runtime.ImageSpec{Image: bad}, nil, nil); err == nil {
			t.Errorf("pulled %q", bad)
		}
	}
}

// TestRuntimeTells: version, state and configuration as kubelet asks for them when it starts.
func TestRuntimeTells(t *testing.T) {
	d, _ := startCRI(t)
	rt, _ := kubeletClient(t, d)
	v, err := rt.Version(t.Context(), "")
	if err != nil || v.RuntimeName != "slipway" || v.RuntimeApiVersion != "v1" {
		t.Errorf("version: %v, %v", v, err)
	}
	st, err := rt.Status(t.Context(), true)
	if err != nil || len(st.Status.Conditions) != 2 || !st.Status.Conditions[0].Status || !st.Status.Conditions[1].Status || len(st.RuntimeHandlers) == 0 {
		t.Errorf("status: %v, %v", st, err)
	}
	if c, err := rt.RuntimeConfig(t.Context()); err != nil || c.Linux.CgroupDriver != runtime.CgroupDriver_CGROUPFS {
		t.Errorf("configuration: %v, %v", c, err)
	}
	if err := rt.UpdateRuntimeConfig(t.Context(), &runtime.RuntimeConfig{NetworkConfig: &runtime.NetworkConfig{PodCidr: "10.0.0.0/24"}}); err != nil {
		t.Error(err)
	}
	if _, _, err := rt.ExecSync(t.Context(), "nothing", []string{"true"}, time.Second); err == nil {
		t.Error("executed in what is not there")
	}
}

// sharedMount makes dir a mount whose later mounts others may see.
func sharedMount(t *testing.T, dir string) (unmount func()) {
	t.Helper()
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unmount = func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }
	t.Cleanup(unmount)
	if err := syscall.Mount("", dir, "", syscall.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	return unmount
}
