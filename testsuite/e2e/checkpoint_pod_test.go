package e2e

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runTwo runs a pod with two containers that count.
func (k *kubelet) runTwo(t *testing.T, pod *runtime.PodSandboxConfig) (podID string, configs []*runtime.ContainerConfig, ids []string) {
	t.Helper()
	p, err := k.RunPodSandbox(t.Context(), &runtime.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"main", "side"} {
		c := k.containerConfig(pod, "mkdir -p /tmp; rm -r /var/spool; "+counts)
		c.Metadata.Name, c.LogPath = name, pod.Metadata.Name+"-"+name+".log"
		made, err := k.CreateContainer(t.Context(), &runtime.CreateContainerRequest{PodSandboxId: p.PodSandboxId, Config: c, SandboxConfig: pod})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
			t.Fatal(err)
		}
		k.awaitLog(t, made.ContainerId, "ready")
		configs, ids = append(configs, c), append(ids, made.ContainerId)
	}
	return p.PodSandboxId, configs, ids
}

// count is how far a container's program has come.
func (k *kubelet) count(t *testing.T, id string) int {
	t.Helper()
	n := 0
	eventually(t, "the container tells how far it has come", func() bool {
		out, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"cat", "/tmp/count"}})
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(out.Stdout)))
		}
		return err == nil && n > 0
	})
	return n
}

// tree is what a directory has, and when each file was changed.
func tree(t *testing.T, dir string) map[string]time.Time {
	t.Helper()
	found := map[string]time.Time{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			found[path] = info.ModTime()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestCheckpointPod(t *testing.T) {
	needCriu(t)
	d, k := startCRI(t)
	k.pull(t)
	pod := ownNetwork(k.podConfig(name(t)))
	podID, configs, ids := k.runTwo(t, pod)
	dir := t.TempDir()
	before := k.count(t, ids[1])
	for before < 20 {
		before = k.count(t, ids[1])
	}
	if _, err := k.CheckpointPod(t.Context(), &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: dir, ContainerIds: ids}); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		k.runs(t, id)
	}
	written := tree(t, dir)
	k.badCheckpoints(t, podID, ids, dir)
	if _, err := k.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: podID}); err != nil {
		t.Fatal(err)
	}
	pod.Metadata.Uid += "-2"
	k.badRestores(t, d, pod, configs, dir)

	restored, err := k.RestorePod(t.Context(), &runtime.RestorePodRequest{CheckpointPath: dir, Config: pod, ContainerConfigs: configs})
	if err != nil {
		t.Fatal(err)
	}
	if len(restored.RestoredContainers) != 2 || restored.PodSandboxId == podID {
		t.Fatalf("restored: %v", restored)
	}
	for i, c := range restored.RestoredContainers {
		if c.Name != configs[i].Metadata.Name || k.status(t, c.ContainerId).State != runtime.ContainerState_CONTAINER_CREATED {
			t.Errorf("restored: %v, in state %v", c, k.status(t, c.ContainerId).State)
		}
	}
	d.kill() // it is to know what it was to start
	d.start()
	for _, c := range restored.RestoredContainers {
		if _, err := k.StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
			t.Fatal(err)
		}
		k.runs(t, c.ContainerId)
		if n := k.count(t, c.ContainerId); n < 10 {
			t.Errorf("container %s counts from %d", c.Name, n)
		}
		out, err := k.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: c.ContainerId, Cmd: []string{"sh", "-c", "cat /changed; ls -d /var/spool"}})
		if err != nil || string(out.Stdout) != "mine\n" {
			t.Errorf("what it had written and removed: %v, %v", out, err)
		}
		if log := k.log(t, c.ContainerId); strings.Count(log, "ready") > 1 {
			t.Errorf("it began anew: %s", log)
		}
	}
	if got := tree(t, dir); !reflect.DeepEqual(got, written) {
		t.Errorf("the checkpoint was changed: %v, it was %v", got, written)
	}
	k.removeAll(t, d)
}

// badCheckpoints asks for what is refused; containers go on, and nothing is left.
func (k *kubelet) badCheckpoints(t *testing.T, podID string, ids []string, full string) {
	t.Helper()
	other := k.podConfig(name(t) + "-other")
	other.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_NODE
	otherPod, foreign := k.start(t, other, k.containerConfig(other, "sleep 1000"))
	empty := t.TempDir()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, test := range map[string]struct {
		want codes.Code
		r    *runtime.CheckpointPodRequest
	}{
		"no pod":               {codes.NotFound, &runtime.CheckpointPodRequest{PodSandboxId: "x", OutputPath: empty, ContainerIds: ids}},
		"no containers":        {codes.InvalidArgument, &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: empty}},
		"a container twice":    {codes.InvalidArgument, &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: empty, ContainerIds: []string{ids[0], ids[0]}}},
		"another's container":  {codes.InvalidArgument, &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: empty, ContainerIds: []string{foreign}}},
		"an unknown container": {codes.NotFound, &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: empty, ContainerIds: []string{"x"}}},
		"the host's PIDs":      {codes.FailedPrecondition, &runtime.CheckpointPodRequest{PodSandboxId: otherPod, OutputPath: empty, ContainerIds: []string{foreign}}},
		"options":              {codes.InvalidArgument, &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: empty, ContainerIds: ids, Options: map[string]string{"a": "b"}}},
		"a relative path":      {codes.InvalidArgument, &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: "x", ContainerIds: ids}},
		"no directory":         {codes.InvalidArgument, &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: empty + "/x", ContainerIds: ids}},
		"a file":               {codes.InvalidArgument, &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: file, ContainerIds: ids}},
		"a full directory":     {codes.InvalidArgument, &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: full, ContainerIds: ids}},
	} {
		if _, err := k.CheckpointPod(t.Context(), test.r); status.Code(err) != test.want {
			t.Errorf("%s: %v, want %v", what, err, test.want)
		}
	}
	if left := children(empty); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if _, err := k.RemovePodSandbox(t.Context(), &runtime.RemovePodSandboxRequest{PodSandboxId: otherPod}); err != nil {
		t.Fatal(err)
	}
	k.runs(t, ids[0])
}

// badRestores asks for what is refused; nothing of the pod is left.
func (k *kubelet) badRestores(t *testing.T, d *daemon, pod *runtime.PodSandboxConfig, configs []*runtime.ContainerConfig, dir string) {
	t.Helper()
	with := func(change func(*runtime.ContainerConfig)) []*runtime.ContainerConfig {
		c := k.containerConfig(pod, "")
		c.Metadata.Name, c.Command = "side", configs[1].Command
		change(c)
		return []*runtime.ContainerConfig{configs[0], c}
	}
	partial := t.TempDir() // without what the containers had changed
	if err := os.CopyFS(partial, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(partial, "pod/side/rootfs-diff.tar")); err != nil {
		t.Fatal(err)
	}
	for what, r := range map[string]*runtime.RestorePodRequest{
		"no containers":       {CheckpointPath: dir},
		"one of two":          {CheckpointPath: dir, ContainerConfigs: configs[:1]},
		"one twice":           {CheckpointPath: dir, ContainerConfigs: []*runtime.ContainerConfig{configs[0], configs[0]}},
		"another name":        {CheckpointPath: dir, ContainerConfigs: with(func(c *runtime.ContainerConfig) { c.Metadata.Name = "x" })},
		"another command":     {CheckpointPath: dir, ContainerConfigs: with(func(c *runtime.ContainerConfig) { c.Command = []string{"sh"} })},
		"another directory":   {CheckpointPath: dir, ContainerConfigs: with(func(c *runtime.ContainerConfig) { c.WorkingDir = "/bin" })},
		"another environment": {CheckpointPath: dir, ContainerConfigs: with(func(c *runtime.ContainerConfig) { c.Envs = []*runtime.KeyValue{{Key: "A", Value: []byte("b")}} })},
		"an empty directory":  {CheckpointPath: t.TempDir(), ContainerConfigs: configs},
		"no directory":        {CheckpointPath: dir + "/x", ContainerConfigs: configs},
		"a relative path":     {CheckpointPath: "x", ContainerConfigs: configs},
		"half a checkpoint":   {CheckpointPath: partial, ContainerConfigs: configs},
		"options":             {CheckpointPath: dir, ContainerConfigs: configs, Options: map[string]string{"a": "b"}},
	} {
		r.Config = pod
		if _, err := k.RestorePod(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want InvalidArgument", what, err)
		}
		k.checkNothing(t, d)
	}
	if _, err := k.RestorePod(t.Context(), &runtime.RestorePodRequest{CheckpointPath: dir, Config: pod, RuntimeHandler: "unknown", ContainerConfigs: configs}); err == nil {
		t.Error("a pod of an unknown runtime class was restored")
	}
	k.checkNothing(t, d)
}

// TestCheckpointPodCutShort ends the daemon, or the call, while a checkpoint of a pod is made.
func TestCheckpointPodCutShort(t *testing.T) {
	needCriu(t)
	d, k := startCRI(t)
	k.pull(t)
	podID, _, ids := k.runTwo(t, k.podConfig(name(t)))
	for i, what := range []string{"daemon", "call", "shim", "daemon", "call"} {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		told := make(chan error, 1)
		go func() {
			_, err := k.CheckpointPod(ctx, &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: dir, ContainerIds: ids})
			told <- err
		}()
		eventually(t, "the checkpoint has begun", func() bool { return len(children(dir)) > 0 || len(told) > 0 })
		time.Sleep(time.Duration(i) * 50 * time.Millisecond) // to come to other moments; any is as good
		switch what {
		case "daemon":
			d.kill()
			d.start()
		case "shim":
			for _, pid := range d.shims() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		case "call":
			cancel()
		}
		<-told
		cancel()
		for _, id := range ids {
			k.runs(t, id)
		}
		eventually(t, "nothing half is left", func() bool {
			return len(pathsWith(dir, "part-")) == 0 && len(pathsWith(filepath.Join(d.state, "pods"), "checkpoint-")) == 0 && len(children(filepath.Join(d.root, "checkpoint"))) == 0
		})
	}
	if _, err := k.CheckpointPod(t.Context(), &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: t.TempDir(), ContainerIds: ids}); err != nil {
		t.Error(err)
	}
	k.removeAll(t, d)
}

// TestRestorePodCutShort ends the daemon, or the call, while a pod is restored: then it is there whole, or nothing of it.
func TestRestorePodCutShort(t *testing.T) {
	needCriu(t)
	d, k := startCRI(t)
	k.pull(t)
	pod := ownNetwork(k.podConfig(name(t)))
	podID, configs, ids := k.runTwo(t, pod)
	dir := t.TempDir()
	if _, err := k.CheckpointPod(t.Context(), &runtime.CheckpointPodRequest{PodSandboxId: podID, OutputPath: dir, ContainerIds: ids}); err != nil {
		t.Fatal(err)
	}
	k.removeAll(t, d)
	for i, what := range []string{"daemon", "call", "daemon", "call", "daemon", "call"} {
		ctx, cancel := context.WithCancel(t.Context())
		told := make(chan error, 1)
		go func() {
			_, err := k.RestorePod(ctx, &runtime.RestorePodRequest{CheckpointPath: dir, Config: pod, ContainerConfigs: configs})
			told <- err
		}()
		eventually(t, "the restore has begun", func() bool { return len(children(filepath.Join(d.state, "pods"))) > 0 || len(told) > 0 })
		time.Sleep(time.Duration(i) * 7 * time.Millisecond) // to come to other moments; any is as good
		if what == "daemon" {
			d.kill()
			d.start()
		}
		cancel()
		<-told
		eventually(t, "the pod is whole, or not there", func() bool {
			pods, err := k.ListPodSandbox(t.Context(), &runtime.ListPodSandboxRequest{})
			if err != nil {
				return false
			}
			list, err := k.ListContainers(t.Context(), &runtime.ListContainersRequest{})
			return err == nil && len(list.Containers) == 2*len(pods.Items) && len(children(filepath.Join(d.state, "pods"))) == len(pods.Items)
		})
		k.removeAll(t, d)
	}
	again, err := k.RestorePod(t.Context(), &runtime.RestorePodRequest{CheckpointPath: dir, Config: pod, ContainerConfigs: configs})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.RestorePod(t.Context(), &runtime.RestorePodRequest{CheckpointPath: dir, Config: pod, ContainerConfigs: configs}); status.Code(err) != codes.AlreadyExists {
		t.Errorf("restored twice: %v", err)
	}
	if k.status(t, again.RestoredContainers[0].ContainerId).State != runtime.ContainerState_CONTAINER_CREATED {
		t.Error("the second call took away what the first had made")
	}
	k.removeAll(t, d)
}
