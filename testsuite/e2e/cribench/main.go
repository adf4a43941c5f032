// Command cribench measures a CRI runtime as its kubelet sees it: pods started each second, what a hundred of them take, ExecSync, and
// the processor time of a relist. It prints one line of JSON, so that a script compares runtimes in the same run.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type result struct {
	Name           string
	PodsPerSecond  float64 // RunPodSandbox, CreateContainer, StartContainer; by Parallel callers
	Parallel, Pods int
	MemoryKB       int64   // PSS that all processes but the containers' own programs grew by with the pods
	ExecP50MS      float64 // milliseconds
	RelistCPUMS    float64 // processor time of the daemon for ListPodSandbox, ListContainers and stats of all pods
}

type bench struct {
	runtime.RuntimeServiceClient
	image string
	pid   int
	mark  string
}

func main() {
	endpoint := flag.String("endpoint", "", "gRPC target of the runtime, such as unix:///run/slipway/slipway.sock")
	image := flag.String("image", "", "image with sleep and true in it")
	pid := flag.Int("pid", 0, "the daemon's")
	pods := flag.Int("pods", 100, "how many")
	parallel := flag.Int("parallel", 1, "callers side by side")
	name := flag.String("name", "slipway", "of the runtime, in the result")
	compare := flag.Bool("table", false, "read results of slipway and one other from standard input, and print a table of them")
	flag.Parse()
	err := error(nil)
	if *compare {
		err = table(os.Stdin, os.Stdout)
	} else {
		err = run(*endpoint, *image, result{Name: *name, Pods: *pods, Parallel: *parallel}, *pid)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cribench:", err)
		os.Exit(1)
	}
}

// settle is how long daemons have to give memory back: it is what stays that counts.
const settle = 5 * time.Second

func run(endpoint, image string, r result, pid int) error {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	b := &bench{runtime.NewRuntimeServiceClient(conn), image, pid, fmt.Sprintf("bench-%d", os.Getpid())}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := b.ready(ctx); err != nil {
		return err
	}
	if _, err := runtime.NewImageServiceClient(conn).PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: image}}); err != nil {
		return err
	}
	warm, _, err := b.start(ctx, -1)
	if err == nil {
		_, err = b.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: warm})
	}
	if err != nil {
		return err
	}
	time.Sleep(settle)
	before := memory(pid)
	ids, containers, took, err := b.startAll(ctx, r.Pods, r.Parallel)
	if err == nil {
		r.PodsPerSecond = float64(r.Pods) / took.Seconds()
		time.Sleep(settle)
		r.MemoryKB = memory(pid) - before
		r.ExecP50MS, err = b.exec(ctx, containers[0])
	}
	if err == nil {
		r.RelistCPUMS, err = b.relist(ctx)
	}
	for _, id := range ids {
		if _, rerr := b.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: id}); rerr != nil && err == nil {
			err = rerr
		}
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// ready waits until the runtime answers: its socket is there before that.
func (b *bench) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := b.Version(ctx, &runtime.VersionRequest{})
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (b *bench) startAll(ctx context.Context, pods, parallel int) (ids, containers []string, took time.Duration, err error) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	next := make(chan int, pods)
	for n := range pods {
		next <- n
	}
	close(next)
	begun := time.Now()
	for range parallel {
		wait.Go(func() {
			for n := range next {
				pod, c, serr := b.start(ctx, n)
				mu.Lock()
				if pod != "" {
					ids = append(ids, pod)
				}
				if containers = append(containers, c); serr != nil && err == nil {
					err = serr
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return ids, containers, time.Since(begun), err
}

func (b *bench) start(ctx context.Context, n int) (podID, id string, err error) {
	ns := &runtime.NamespaceOption{Network: runtime.NamespaceMode_NODE, Pid: runtime.NamespaceMode_CONTAINER}
	pod := &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: fmt.Sprintf("%s-%d", b.mark, n), Uid: "u", Namespace: "bench"},
		Linux:    &runtime.LinuxPodSandboxConfig{SecurityContext: &runtime.LinuxSandboxSecurityContext{NamespaceOptions: ns}},
	}
	p, err := b.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return "", "", err
	}
	c := &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: "main"}, Image: &runtime.ImageSpec{Image: b.image}, Command: []string{"sleep", "3600"},
		Linux: &runtime.LinuxContainerConfig{SecurityContext: &runtime.LinuxContainerSecurityContext{
			NamespaceOptions: ns, Seccomp: &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault},
		}},
	}
	made, err := b.CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: p.PodSandboxId, Config: c, SandboxConfig: pod})
	if err != nil {
		return p.PodSandboxId, "", err
	}
	_, err = b.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: made.ContainerId})
	return p.PodSandboxId, made.ContainerId, err
}

func (b *bench) exec(ctx context.Context, id string) (float64, error) {
	var times []time.Duration
	for range 30 {
		begun := time.Now()
		r, err := b.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
		if err != nil || r.ExitCode != 0 {
			return 0, fmt.Errorf("ExecSync: %v, %w", r, err)
		}
		times = append(times, time.Since(begun))
	}
	slices.Sort(times)
	return float64(times[len(times)/2].Microseconds()) / 1000, nil
}

func (b *bench) relist(ctx context.Context) (float64, error) {
	const rounds = 20
	before := cpu(b.pid)
	for range rounds {
		if _, err := b.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{}); err != nil {
			return 0, err
		}
		if _, err := b.ListContainers(ctx, &runtime.ListContainersRequest{}); err != nil {
			return 0, err
		}
		if _, err := b.ListContainerStats(ctx, &runtime.ListContainerStatsRequest{}); err != nil {
			return 0, err
		}
	}
	return float64((cpu(b.pid) - before).Microseconds()) / 1000 / rounds, nil
}
