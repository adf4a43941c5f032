package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
)

// output runs a container to its end and answers what it wrote.
func (k *kubelet) output(t *testing.T, pod *runtime.PodSandboxConfig, c *runtime.ContainerConfig) string {
	t.Helper()
	_, id := k.start(t, pod, c)
	st := k.awaitState(t, id, runtime.ContainerState_CONTAINER_EXITED)
	log, err := os.ReadFile(st.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(log)) {
		if parts := strings.SplitN(line, " ", 4); len(parts) == 4 {
			text.WriteString(parts[3])
		}
	}
	if st.ExitCode != 0 {
		t.Errorf("exit code %d, %s: %s", st.ExitCode, st.Message, text.String())
	}
	return text.String()
}

// TestImageVolumes: an image, or a directory in one, is mounted read-only.
func TestImageVolumes(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	pod := k.podConfig(name(t))
	c := k.containerConfig(pod, "ls /whole/bin/busybox /part/busybox && ! touch /whole/x 2>/dev/null")
	c.Mounts = []*runtime.Mount{
		{ContainerPath: "/whole", Image: &runtime.ImageSpec{Image: busybox}, Readonly: true},
		{ContainerPath: "/part", Image: &runtime.ImageSpec{Image: busybox}, ImageSubPath: "bin", Readonly: true},
	}
	if got := k.output(t, pod, c); got != "/part/busybox\n/whole/bin/busybox\n" && got != "/whole/bin/busybox\n/part/busybox\n" {
		t.Errorf("got %q", got)
	}
	pods, err := k.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"nothing", "../..", "/bin"} {
		bad := k.containerConfig(pod, "true")
		bad.Metadata.Name = "bad"
		bad.Mounts = []*runtime.Mount{{ContainerPath: "/part", Image: &runtime.ImageSpec{Image: busybox}, ImageSubPath: sub}}
		_, err := k.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: pods.Items[0].Id, Config: bad, SandboxConfig: pod})
		wantCode(t, err, "InvalidArgument")
	}
	// Whoever begins anew finds nothing in the way, and nothing lost.
	d.kill()
	d.start()
	k = dialCRI(t, d)
	k.removeAll(t, d)
}

// TestDescribedDevices: a vendor's description adds what it says to the container (CDI).
func TestDescribedDevices(t *testing.T) {
	d, k := startCRIWith(t, func(d *daemon) {
		d.config += fmt.Sprintf("cdi_spec_dirs = [%q]\n", filepath.Join(d.dir, "cdi"))
	})
	k.pull(t)
	if err := os.Mkdir(filepath.Join(d.dir, "cdi"), 0o755); err != nil {
		t.Fatal(err)
	}
	description := `{"cdiVersion":"0.6.0","kind":"vendor.com/thing","devices":[{"name":"one","containerEdits":{"env":["THING=one"],"deviceNodes":[{"path":"/dev/thing","hostPath":"/dev/null"}]}}]}`
	if err := os.WriteFile(filepath.Join(d.dir, "cdi", "vendor.json"), []byte(description), 0o644); err != nil {
		t.Fatal(err)
	}
	pod := k.podConfig(name(t))
	c := k.containerConfig(pod, `echo $THING; test -c /dev/thing && echo there`)
	c.CDIDevices = []*runtime.CDIDevice{{Name: "vendor.com/thing=one"}}
	if got := k.output(t, pod, c); got != "one\nthere\n" {
		t.Errorf("got %q", got)
	}
	k.removeAll(t, d)
}

// TestMappedUsers: a pod with a user namespace has one root file system of its own ids, and volumes mapped to them.
func TestMappedUsers(t *testing.T) {
	d, k := startCRI(t)
	k.pull(t)
	maps := []*runtime.IDMapping{{ContainerId: 0, HostId: 300000, Length: 65536}}
	pod := ownNetwork(k.podConfig(name(t)))
	pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtime.UserNamespace{Uids: maps, Gids: maps}
	volume := filepath.Join(d.dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	c := k.containerConfig(pod, `cat /proc/self/uid_map | tr -s ' '; touch /volume/made /own; ls -n /volume/made | cut -d' ' -f1-6 | tr -s ' ' | cut -d' ' -f3`)
	c.Mounts = []*runtime.Mount{{HostPath: volume, ContainerPath: "/volume", UidMappings: maps, GidMappings: maps}}
	if got := k.output(t, pod, c); got != " 0 300000 65536\n0\n" {
		t.Errorf("got %q", got)
	}
	if uid := owner(t, filepath.Join(volume, "made")); uid != 0 {
		t.Errorf("what the container's root made in the mapped volume belongs to %d on the host", uid)
	}
	k.removeAll(t, d)
}

// TestPauseProcess: [cri] pause holds every pod with a process of an image, which is pulled when it is not there.
func TestPauseProcess(t *testing.T) {
	pause := pauseImage(t)
	d, k := startCRIWith(t, func(d *daemon) { d.config += fmt.Sprintf("pause = true\npause_image = %q\n", pause) })
	if images, err := k.images.ListImages(t.Context(), &runtime.ListImagesRequest{}); err != nil || len(images.Images) != 0 {
		t.Errorf("there are images to begin with: %v, %v", images, err)
	}
	pod := ownNetwork(k.podConfig(name(t)))
	podID, err := k.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	k.pull(t)
	_, id := k.start(t, pod, k.containerConfig(pod, "exec sleep 1000")) // the same pod, asked for again
	k.awaitState(t, id, runtime.ContainerState_CONTAINER_RUNNING)
	list, err := k.ListContainers(t.Context(), &runtime.ListContainersRequest{})
	if err != nil || len(list.Containers) != 1 {
		t.Errorf("the pod's own process is listed as a container: %v, %v", list, err)
	}
	st, err := k.images.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: pause}})
	if err != nil || !st.Image.GetPinned() {
		t.Errorf("the image of the pods' process is not pinned: %v, %v", st, err)
	}
	if _, err := k.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: podID.PodSandboxId}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.images.RemoveImage(t.Context(), &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: pause}}); err != nil {
		t.Fatal(err)
	}
	k.removeAll(t, d)
}

// pauseImage pushes an image whose process does nothing.
func pauseImage(t *testing.T) string {
	t.Helper()
	image, err := ociimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	image.Config.Cmd = []string{"sleep", "100000"}
	hub.Push("library/pause:latest", image)
	return hub.Host() + "/library/pause:latest"
}

// TestRuntimeClassOfAnotherShim: containers of containerd's own shim have logs in Kubernetes' format too, which go on after a rotation.
func TestRuntimeClassOfAnotherShim(t *testing.T) {
	binary, err := exec.LookPath("containerd-shim-runc-v2")
	if err != nil {
		t.Skip("needs containerd-shim-runc-v2")
	}
	d, k := startCRIWith(t, func(d *daemon) {
		d.config += fmt.Sprintf("pause_image = %q\n[cri.runtimes.other]\ntype = \"io.containerd.other.v2\"\n[shim.runtimes]\n\"io.containerd.other.v2\" = %q\n", pauseImage(t), binary)
	})
	k.pull(t)
	pod := k.podConfig(name(t))
	p, err := k.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: pod, RuntimeHandler: "other"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := k.CreateContainer(t.Context(), &runtime.CreateContainerRequest{
		PodSandboxId: p.PodSandboxId, SandboxConfig: pod, Config: k.containerConfig(pod, "echo one; while ! test -e /go; do sleep 0.02; done; echo two; exit 4"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatal(err)
	}
	log := k.status(t, made.ContainerId).LogPath
	holds := func(path, text string) func() bool {
		return func() bool {
			data, _ := os.ReadFile(path)
			return strings.Contains(string(data), " stdout F "+text+"\n")
		}
	}
	eventually(t, "first line of the log", holds(log, "one"))
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.ReopenContainerLog(t.Context(), &runtime.ReopenContainerLogRequest{ContainerId: made.ContainerId}); err != nil {
		t.Error(err)
	}
	if out, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: made.ContainerId, Cmd: []string{"touch", "/go"}}); err != nil || out.ExitCode != 0 {
		t.Errorf("ExecSync: %v, %v", out, err)
	}
	if st := k.awaitState(t, made.ContainerId, runtime.ContainerState_CONTAINER_EXITED); st.ExitCode != 4 {
		t.Errorf("status %v", st)
	}
	eventually(t, "second line in the new log", holds(log, "two"))
	k.removeAll(t, d)
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Uid
}

// pullVolumes has containers made of an image that declares volumes: with content, without, hidden by tests, and where a link leads.
func (k *kubelet) pullVolumes(t *testing.T) {
	t.Helper()
	image, err := ociimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	owned := ociimage.Dir("data", 0o1770)
	owned.Uid, owned.Gid = 33, 44
	image.Layers = append(image.Layers, ociimage.Layer{Files: []ociimage.File{
		owned, ociimage.Regular("data/file", 0o640, "content"), ociimage.Dir("hidden", 0o755), ociimage.Regular("hidden/image's", 0o644, ""),
		ociimage.Dir("real", 0o700), ociimage.Regular("real/x", 0o644, "linked"), ociimage.Symlink("link", "/real"),
	}})
	image.Config.Volumes = map[string]struct{}{"/data": {}, "/made/here": {}, "/hidden": {}, "/link": {}}
	hub.Push("library/volumes:latest", image)
	k.image, k.layers = hub.Host()+"/library/volumes:latest", 2
	if err := k.pullImage(t, k.image, nil); err != nil {
		t.Fatal(err)
	}
}

// TestDeclaredVolumes: what an image declares to be a volume is a directory of its own, which can be written whatever the root file system
// is, holds what the image has there, and goes with its container.
func TestDeclaredVolumes(t *testing.T) {
	d, k := startCRI(t)
	k.pullVolumes(t)
	own := filepath.Join(d.dir, "own")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	pod := k.podConfig(name(t))
	script := `stat -c "%u %g %a" /data; echo $(cat /data/file /link/x); ls /hidden; ls -A /made/here | wc -l
		for f in /data/new /made/here/new /real/new /hidden/new; do touch $f; done; touch /new 2>/dev/null; echo $?; stat -c %d / /data | uniq | wc -l`
	want := "33 44 1770\ncontentlinked\n0\n%d\n2\n"
	c := k.containerConfig(pod, script)
	c.Mounts = []*runtime.Mount{{HostPath: own, ContainerPath: "/hidden/"}}
	if got := k.output(t, pod, c); got != fmt.Sprintf(want, 0) {
		t.Errorf("got %q", got)
	}
	pod = k.podConfig(name(t))
	readonly := k.containerConfig(pod, script)
	readonly.Linux.SecurityContext.ReadonlyRootfs = true
	readonly.Mounts = c.Mounts
	if err := os.Remove(filepath.Join(own, "new")); err != nil {
		t.Fatalf("the container's own volume has nothing of it: %v", err)
	}
	if got := k.output(t, pod, readonly); got != fmt.Sprintf(want, 1) {
		t.Errorf("with a root that cannot be written: %q", got)
	}
	if n := len(d.declared()); n != 2 {
		t.Errorf("two containers have %d directories of volumes", n)
	}
	// Of what a daemon that died was making nobody knows, and it goes; what containers have stays.
	if err := os.MkdirAll(filepath.Join(d.root, "volumes", "0badc0de", "0", "some"), 0o755); err != nil {
		t.Fatal(err)
	}
	d.kill()
	d.start()
	k2 := dialCRI(t, d)
	k2.layers = k.layers
	if left := d.declared(); len(left) != 2 {
		t.Errorf("after a restart there are %q", left)
	}
	k2.removeAll(t, d)
}
