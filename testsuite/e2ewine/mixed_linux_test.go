package e2ewine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
	"github.com/slipwayd/slipway/testsuite/winimage"
)

// TestMixedCluster: of one index, the daemon of a Linux node runs the image for Linux and this machine, and that of a Windows node the one for Windows
// and its build. Both run here side by side, the latter under wine; it needs root.
func TestMixedCluster(t *testing.T) {
	linux, windows := os.Getenv("SLIPWAY_BIN"), os.Getenv("SLIPWAY_E2E_EXE")
	if linux == "" || windows == "" {
		t.Skip("SLIPWAY_BIN names no directory with slipwayd, or SLIPWAY_E2E_EXE none with slipwayd.exe: see ci/e2e-wine")
	}
	r := registry.Start(t)
	r.Push("mixed:1", mixedIndex(t))
	dir, err := os.MkdirTemp("", "mixed") // shorter than the test's: sockets' paths are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	wine, err := filepath.Abs("../../ci/wine-exec")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []node{
		{what: "linux/amd64", dir: dir + "/l", address: dir + "/l/sock", program: func(name string) []string { return []string{filepath.Join(linux, name)} }},
		{what: osVersion, dir: dir + "/w", address: `\\.\pipe\slipway-` + filepath.Base(dir), path: winePath, program: func(name string) []string {
			return []string{wine, filepath.Join(windows, name+".exe")}
		}},
	} {
		n.T = t
		n.start()
		if out, err := n.slipway("run", "--rm", r.Host()+"/mixed:1"); err != nil || !strings.Contains(out, "this is "+n.what) {
			t.Errorf("the node for %s runs: %q, %v", n.what, out, err)
		}
		if out, err := n.slipway("images"); err != nil || !strings.Contains(out, "mixed") {
			t.Errorf("images of the node for %s: %q, %v", n.what, out, err)
		}
	}
}

func mixedIndex(t *testing.T) ociimage.Index {
	t.Helper()
	busybox, err := ociimage.Busybox()
	if err != nil {
		t.Skip(err)
	}
	x := ociimage.Index{}
	for _, arch := range []string{"arm64", "amd64"} {
		img := busybox
		img.Platform = ocispec.Platform{OS: "linux", Architecture: arch}
		img.Config.Cmd = []string{"echo", "this is linux/" + arch}
		x.Images = append(x.Images, img)
	}
	for _, version := range []string{"10.0.17763.6000", osVersion, "10.0.26100.1"} {
		x.Images = append(x.Images, winimage.Image(version, "cmd", "/c", "echo this is "+version))
	}
	return x
}

// node is a daemon with directories of its own and its command line.
type node struct {
	*testing.T
	what, dir, address string
	path               func(string) string // how its programs name a file of this system; nil for as it is
	program            func(name string) []string
}

// winePath is where a file is for programs under wine.
func winePath(path string) string { return "Z:" + strings.ReplaceAll(path, "/", `\`) }

func (n *node) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	line := append(n.program(name), args...)
	return exec.CommandContext(ctx, line[0], line[1:]...)
}

func (n *node) slipway(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(n.Context(), time.Minute)
	defer cancel()
	out, err := n.command(ctx, "slipway", append([]string{"--address", n.address}, args...)...).CombinedOutput()
	return string(out), err
}

// start runs the daemon until the test ends.
func (n *node) start() {
	n.Helper()
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		n.Fatal(err)
	}
	config := filepath.Join(n.dir, "config.toml")
	if err := os.WriteFile(config, []byte("[cri]\nenabled = false\n"), 0o600); err != nil {
		n.Fatal(err)
	}
	path := n.path
	if path == nil {
		path = func(p string) string { return p }
	}
	cmd := n.command(context.Background(), "slipwayd", "--config", path(config), "--root", path(n.dir+"/root"), "--state", path(n.dir+"/state"), "--address", n.address)
	log, err := os.Create(filepath.Join(n.dir, "log"))
	if err != nil {
		n.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		n.endOthers()
		if text, err := os.ReadFile(log.Name()); err == nil && n.Failed() {
			n.Logf("the log of %s:\n%s", n.what, text)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		out, err := n.slipway("info")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.Fatalf("the daemon for %s does not answer: %v: %s", n.what, err, out)
		}
	}
}

// endOthers ends the shim and the server of lazy layers, whose command lines name the node's directory. No container is left.
func (n *node) endOthers() {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		n.Error(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if (strings.Contains(string(line), "slipway-shim") || strings.Contains(string(line), "slipway-fuse")) && strings.Contains(strings.ReplaceAll(string(line), `\`, "/"), n.dir+"/state") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	_ = syscall.Unmount(filepath.Join(n.dir, "state/lazy/mnt"), syscall.MNT_DETACH)
}
