package client_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/spec"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// imageRef is a busybox image in a registry that TestMain serves.
var imageRef string

// TestMain gives the examples a daemon of their own, and leaves them out where there can be none.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		fmt.Println("examples left out: they need root on Linux")
		_ = flag.Set("test.run", "^Test")
		return m.Run()
	}
	dir, err := os.MkdirTemp("/var/tmp", "slipway-client.")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	stop, err := startDaemon(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	img, err := ociimage.Busybox()
	if err != nil {
		log.Fatal(err)
	}
	r := registry.New()
	if err := r.Listen("127.0.0.1:0"); err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	r.Push("library/busybox:latest", img)
	imageRef = r.Host() + "/library/busybox"
	return m.Run()
}

// startDaemon builds the programs and runs a daemon below dir.
func startDaemon(dir string) (stop func(), err error) {
	build := exec.Command("go", "build", "-tags", "seccomp", "-o", dir+"/", "../cmd/slipwayd", "../cmd/slipway-shim")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	socket := filepath.Join(dir, "state", "slipway.sock")
	if err := os.Setenv("SLIPWAY_ADDRESS", socket); err != nil {
		return nil, err
	}
	var output bytes.Buffer
	d := exec.Command(dir+"/slipwayd", "--root", dir+"/root", "--state", dir+"/state", "--address", socket)
	d.Stdout, d.Stderr = &output, &output
	if err := d.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = d.Process.Signal(syscall.SIGTERM)
		_ = d.Wait()
		stopShims(dir)
	}
	c, err := client.New(socket)
	if err != nil {
		return stop, err
	}
	defer c.Close()
	for range 200 {
		if _, _, err = c.Version(context.Background()); err == nil {
			return stop, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return nil, errors.Join(err, errors.New(output.String()))
}

// stopShims ends what runs from dir: the shim outlives its daemon.
func stopShims(dir string) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, l := range links {
		if exe, err := os.Readlink(l); err == nil && strings.HasPrefix(exe, dir) {
			var pid int
			if _, err := fmt.Sscanf(l, "/proc/%d/exe", &pid); err == nil {
				if p, err := os.FindProcess(pid); err == nil {
					_ = p.Kill()
				}
			}
		}
	}
}

func Example() {
	ctx := context.Background()
	c, err := client.New(client.Address())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	img, err := c.Pull(ctx, imageRef, client.PullOptions{})
	if err != nil {
		log.Fatal(err)
	}
	detail, err := c.Detail(ctx, img, nil)
	if err != nil {
		log.Fatal(err)
	}
	ct, err := c.CreateContainer(ctx, client.ContainerOptions{
		ID: "example", Image: detail, Spec: []spec.Opt{spec.Args("sh", "-c", "echo hello; exit 3")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer ct.Delete(ctx)
	task, err := ct.NewTask(ctx, client.Streams{Stdout: os.Stdout})
	if err != nil {
		log.Fatal(err)
	}
	exit, err := task.Run(ctx)
	fmt.Println(exit.Code, err)
	// Output:
	// hello
	// 3 <nil>
}

func ExampleTask_NewProcess() {
	ctx := context.Background()
	c, err := client.New(client.Address())
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	img, err := c.Pull(ctx, imageRef, client.PullOptions{})
	if err != nil {
		log.Fatal(err)
	}
	detail, err := c.Detail(ctx, img, nil)
	if err != nil {
		log.Fatal(err)
	}
	ct, err := c.CreateContainer(ctx, client.ContainerOptions{ID: "example-exec", Image: detail, Spec: []spec.Opt{spec.Args("sleep", "60")}})
	if err != nil {
		log.Fatal(err)
	}
	defer ct.Delete(ctx)
	task, err := ct.NewTask(ctx, client.Streams{})
	if err != nil {
		log.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		log.Fatal(err)
	}
	p, err := task.NewProcess(ctx, "greet", &specs.Process{Args: []string{"cat"}, Cwd: "/", Env: ct.Spec.Process.Env},
		client.Streams{Stdin: strings.NewReader("through cat\n"), Stdout: os.Stdout})
	if err != nil {
		log.Fatal(err)
	}
	if err := p.Start(ctx); err != nil {
		log.Fatal(err)
	}
	if err := p.CloseStdin(ctx); err != nil { // cat ends when its input does
		log.Fatal(err)
	}
	exit, err := p.Wait(ctx)
	fmt.Println(exit.Code, err)
	_, _ = p.Delete(ctx)
	_ = task.Kill(ctx, uint32(syscall.SIGKILL), true)
	exit, _ = task.Wait(ctx)
	fmt.Println(exit.Code)
	_, _ = task.Delete(ctx)
	// Output:
	// through cat
	// 0 <nil>
	// 137
}
