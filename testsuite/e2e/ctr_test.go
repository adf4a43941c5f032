package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// ctr is one of containerd's command lines, against one daemon.
type ctr struct {
	d       *daemon
	program string
	two     bool // containerd 2: pull, push, import and export go over the Transfer service unless told otherwise
}

// eachCtr runs a test with Debian's ctr and with one of containerd 2.
func eachCtr(t *testing.T, test func(t *testing.T, c ctr)) {
	t.Run("debian", func(t *testing.T) {
		program, err := exec.LookPath("ctr")
		if err != nil {
			t.Skip("needs Debian's package containerd for its ctr")
		}
		d := startDaemon(t)
		test(t, ctr{d: d, program: program})
	})
	t.Run("containerd2", func(t *testing.T) {
		d := startDaemon(t)
		test(t, ctr{d: d, program: ctr2(t), two: true})
	})
}

// ctr2 finds or builds a ctr of containerd 2 and keeps it for the next run.
func ctr2(t *testing.T) string {
	t.Helper()
	program, err := buildCtr2()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

var buildCtr2 = sync.OnceValues(func() (string, error) {
	for _, candidate := range []string{os.Getenv("CTR2"), "/var/tmp/peers/ctr"} {
		if _, err := os.Stat(candidate); err == nil {
			return candidate, nil
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/var/tmp"
	}
	program := filepath.Join(cache, "slipway-e2e", "ctr2")
	// go build does nothing when the program is up to date.
	out, err := exec.Command("go", "build", "-o", program, "github.com/containerd/containerd/v2/cmd/ctr").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cannot build ctr: %w\n%s", err, out)
	}
	return program, nil
})

func (c ctr) args(args []string) []string {
	return append([]string{"--address", c.d.address, "--namespace", "e2e"}, args...)
}

func (c ctr) run(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, nil, c.program, c.args(args)...)
}

func (c ctr) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return try(t, nil, c.program, c.args(args)...)
}

// clear removes all images and what only they held.
func (c ctr) clear(t *testing.T) {
	t.Helper()
	if refs := strings.Fields(c.run(t, "images", "ls", "-q")); len(refs) > 0 {
		c.run(t, append([]string{"images", "rm", "--sync"}, refs...)...)
	}
}

// column is the values of a table's column, by its heading.
func column(table, heading string) []string {
	lines := strings.Split(strings.TrimSpace(table), "\n")
	at := -1
	for i, h := range strings.Fields(lines[0]) {
		if h == heading {
			at = i
		}
	}
	var values []string
	for _, line := range lines[1:] {
		if fields := strings.Fields(line); at >= 0 && at < len(fields) {
			values = append(values, fields[at])
		}
	}
	return values
}

func TestCtrRunsContainers(t *testing.T) {
	eachCtr(t, func(t *testing.T, c ctr) {
		c.run(t, "images", "pull", "--plain-http", busybox)
		id := name(t)
		if out := c.run(t, "run", "--rm", busybox, id, "echo", "hello"); out != "hello\n" {
			t.Errorf("echo hello in a container wrote %q", out)
		}
		if _, err := c.try(t, "run", "--rm", busybox, id, "sh", "-c", "exit 7"); exitCode(err) != 7 {
			t.Errorf("exit 7 in a container: %v", err)
		}
		if _, err := c.try(t, "run", "--rm", busybox, id, "/no/such/program"); exitCode(err) == 0 {
			t.Error("a program that does not exist ran")
		}

		c.run(t, "run", "-d", busybox, id, "sleep", "1000")
		if got := column(c.run(t, "tasks", "ls"), "STATUS"); len(got) != 1 || got[0] != "RUNNING" {
			t.Errorf("status of tasks: %q", got)
		}
		if out := c.run(t, "tasks", "exec", "--exec-id", "e1", id, "cat", "/proc/1/cmdline"); out != "sleep\x001000\x00" {
			t.Errorf("init as an executed process sees it: %q", out)
		}
		if _, err := c.try(t, "tasks", "exec", "--exec-id", "e2", id, "sh", "-c", "exit 3"); exitCode(err) != 3 {
			t.Errorf("exit 3 in an executed process: %v", err)
		}
		if out := c.run(t, "tasks", "ps", id); len(column(out, "PID")) != 1 {
			t.Errorf("processes of the task:\n%s", out)
		}
		c.run(t, "tasks", "pause", id)
		if got := column(c.run(t, "tasks", "ls"), "STATUS"); len(got) != 1 || got[0] != "PAUSED" {
			t.Errorf("status after pause: %q", got)
		}
		c.run(t, "tasks", "resume", id)
		if out := c.run(t, "tasks", "metrics", id); !strings.Contains(out, "memory") {
			t.Errorf("metrics:\n%s", out)
		}
		if _, err := c.try(t, "tasks", "rm", id); err == nil {
			t.Error("a running task was deleted")
		}
		if _, err := c.try(t, "containers", "rm", id); err == nil {
			t.Error("a container with a running task was deleted")
		}
		c.run(t, "tasks", "kill", "-s", "SIGKILL", id)
		eventually(t, "end of the killed task", func() bool {
			got := column(c.run(t, "tasks", "ls"), "STATUS")
			return len(got) == 1 && got[0] == "STOPPED"
		})
		if _, err := c.try(t, "tasks", "kill", id); err == nil {
			t.Error("a task that has ended was killed again")
		}
		if _, err := c.try(t, "tasks", "rm", id); exitCode(err) != 137 && err != nil {
			t.Errorf("delete of a killed task: %v", err)
		}
		c.run(t, "containers", "rm", id)
		c.d.checkNoContainers(t, id)
		c.clear(t)
		c.d.checkEmpty(t, id)
	})
}

func TestCtrMovesImages(t *testing.T) {
	eachCtr(t, func(t *testing.T, c ctr) {
		modes := [][]string{nil}
		if c.two {
			modes = append(modes, []string{"--local"})
		}
		for _, mode := range modes {
			images := func(verb string, args ...string) string {
				return c.run(t, append(append([]string{"images", verb}, mode...), args...)...)
			}
			images("pull", "--plain-http", busybox)
			if len(c.d.onDisk("layers")) == 0 || len(c.d.onDisk("blobs")) == 0 {
				t.Fatal("the test does not know where the daemon keeps layers and blobs")
			}
			archive := filepath.Join(t.TempDir(), "image.tar")
			images("export", archive, busybox)
			other := strings.Replace(busybox, "library/busybox", "pushed/"+name(t), 1)
			c.run(t, "images", "tag", busybox, other)
			images("push", "--plain-http", other)
			c.clear(t)
			c.d.checkEmpty(t)

			images("import", archive)
			if refs := strings.Fields(c.run(t, "images", "ls", "-q")); len(refs) != 1 || refs[0] != busybox {
				t.Errorf("%v: after import: %q", mode, refs)
			}
			if out := c.run(t, "run", "--rm", busybox, name(t), "echo", "imported"); out != "imported\n" {
				t.Errorf("%v: imported image wrote %q", mode, out)
			}
			c.clear(t)
			images("pull", "--plain-http", other)
			if out := c.run(t, "run", "--rm", other, name(t), "echo", "pushed"); out != "pushed\n" {
				t.Errorf("%v: pushed image wrote %q", mode, out)
			}
			if out := c.run(t, "images", "check"); !strings.Contains(out, "complete") {
				t.Errorf("%v: check of images:\n%s", mode, out)
			}
			c.clear(t)
			c.d.checkEmpty(t)
		}
	})
}

// TestCtrBringsCredentials needs the streams on which the daemon asks its client for them.
func TestCtrBringsCredentials(t *testing.T) {
	eachCtr(t, func(t *testing.T, c ctr) {
		private := registry.Start(t)
		private.Push("lib/secret:v1", ociimage.Image{Layers: []ociimage.Layer{{Files: []ociimage.File{ociimage.Regular("f", 0o644, "f")}}}})
		ref := private.Host() + "/lib/secret:v1"
		private.RequireToken(registry.Token{Username: "alice", Password: "open sesame"})
		if _, err := c.try(t, "images", "pull", "--plain-http", ref); err == nil {
			t.Error("a private image was pulled by nobody")
		}
		if _, err := c.try(t, "images", "pull", "--plain-http", "--user", "alice:wrong", ref); err == nil {
			t.Error("a private image was pulled with a wrong password")
		}
		c.run(t, "images", "pull", "--plain-http", "--user", "alice:open sesame", ref)
		private.RequireBasic(registry.Basic{Username: "bob", Password: "b"})
		pushed := private.Host() + "/lib/other:v1"
		c.run(t, "images", "tag", ref, pushed)
		c.run(t, "images", "push", "--plain-http", "--user", "bob:b", pushed)
		c.clear(t)
		c.d.checkEmpty(t)
	})
}

func TestCtrPullFailsClearly(t *testing.T) {
	eachCtr(t, func(t *testing.T, c ctr) {
		_, err := c.try(t, "images", "pull", "--plain-http", hub.Host()+"/no/such:image")
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), "not found") {
			t.Errorf("pull of an image that is not there: %v", err)
		}
		c.d.checkEmpty(t)
	})
}

// TestCtrSetsContainersUp goes through what a container can be given.
func TestCtrSetsContainersUp(t *testing.T) {
	eachCtr(t, func(t *testing.T, c ctr) {
		c.run(t, "images", "pull", "--plain-http", busybox)
		c.run(t, "images", "pull", "--plain-http", "--snapshotter", "native", busybox)
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte("from the host"), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			flags, args string
			want        string
		}{
			{"--env A=B", "sh -c echo${IFS}$A", "B"},
			{"--cwd /tmp", "pwd", "/tmp"},
			{"--read-only", "sh -c touch${IFS}/x||echo${IFS}refused", "refused"},
			{"--privileged", "sh -c ls${IFS}/dev|grep${IFS}-c${IFS}kmsg", "1"},
			{"--seccomp", "echo seccomp", "seccomp"},
			{"--snapshotter native", "echo native", "native"},
			{"--mount type=bind,src=" + file + ",dst=/mnt,options=rbind:ro", "cat /mnt", "from the host"},
			{"--uidmap 0:100000:65536 --gidmap 0:100000:65536", "sh -c tr${IFS}-s${IFS}'\\x20'</proc/self/uid_map", " 0 100000 65536"},
			{"--memory-limit 50000000 --cpus 0.5", "echo limited", "limited"},
		} {
			args := append([]string{"run", "--rm"}, strings.Fields(tt.flags)...)
			args = append(args, busybox, name(t))
			got, err := c.try(t, append(args, strings.SplitN(tt.args, " ", 3)...)...)
			if err != nil || strings.TrimRight(got, "\n") != tt.want {
				t.Errorf("%s %s: wrote %q, %v; want %q", tt.flags, tt.args, got, err, tt.want)
			}
		}
		log := filepath.Join(t.TempDir(), "log")
		id := name(t)
		c.run(t, "run", "-d", "--log-uri", "file://"+log, busybox, id, "echo", "logged")
		eventually(t, "the log", func() bool {
			data, _ := os.ReadFile(log)
			return string(data) == "logged\n"
		})
		c.run(t, "tasks", "rm", "-f", id)
		c.run(t, "containers", "rm", id)
		c.clear(t)
		c.d.checkEmpty(t, id)
	})
}

func TestCtrSeesEventsInOrder(t *testing.T) {
	eachCtr(t, func(t *testing.T, c ctr) {
		c.run(t, "images", "pull", "--plain-http", busybox)
		id := name(t)
		watch := exec.Command(c.program, c.args([]string{"events"})...)
		out, err := watch.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := watch.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = watch.Process.Kill()
			_ = watch.Wait()
		}()
		lines := make(chan string, 1000)
		go func() {
			defer close(lines)
			for s := bufio.NewScanner(out); s.Scan(); {
				lines <- s.Text()
			}
		}()
		// The subscription has begun when it shows an event.
		seen := make(chan struct{})
		var once sync.Once
		go func() {
			for i := 0; ; i++ {
				select {
				case <-seen:
					return
				default:
					_, _ = try(t, nil, c.program, "--address", c.d.address, "namespaces", "create", fmt.Sprintf("probe%d", i))
				}
			}
		}()
		var topics []string
		started := false
		for line := range lines {
			if !started {
				started = true
				once.Do(func() { close(seen) })
				go func() { _, _ = c.try(t, "run", "--rm", busybox, id, "true") }()
			}
			if fields := strings.Fields(line); strings.Contains(line, id) {
				for _, f := range fields {
					if strings.HasPrefix(f, "/") && strings.Count(f, "/") == 2 {
						topics = append(topics, f)
						break
					}
				}
			}
			if strings.Contains(line, "/containers/delete") {
				break
			}
		}
		want := []string{"/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"}
		at := 0
		for _, topic := range topics {
			if at < len(want) && topic == want[at] {
				at++
			}
		}
		if at != len(want) {
			t.Errorf("events of the container: %q, want in this order %q", topics, want)
		}
	})
}

func TestCtrLooksAround(t *testing.T) {
	eachCtr(t, func(t *testing.T, c ctr) {
		c.run(t, "images", "pull", "--plain-http", busybox)
		for _, args := range [][]string{
			{"version"}, {"plugins", "ls"}, {"namespaces", "ls"}, {"content", "ls"}, {"leases", "ls"}, {"snapshots", "ls"},
			{"snapshots", "tree"}, {"images", "ls"}, {"containers", "ls"},
		} {
			if out := c.run(t, args...); out == "" {
				t.Errorf("%q writes nothing", args)
			}
		}
		c.run(t, "namespaces", "label", "e2e", "a=b")
		c.run(t, "images", "label", busybox, "a=b")
		if out := c.run(t, "images", "ls"); !strings.Contains(out, "a=b") {
			t.Errorf("label of the image is not there:\n%s", out)
		}
		lease := strings.TrimSpace(c.run(t, "leases", "create"))
		c.run(t, "leases", "rm", lease)
		c.run(t, "images", "convert", "--uncompress", busybox, "converted:1")
		mounted := t.TempDir()
		c.run(t, "images", "mount", busybox, mounted)
		if _, err := os.Stat(filepath.Join(mounted, "bin/busybox")); err != nil {
			t.Error(err)
		}
		c.run(t, "images", "unmount", "--rm", mounted)
		if _, err := c.try(t, "namespaces", "rm", "e2e"); err == nil {
			t.Error("a namespace with an image in it was removed")
		}
	})
}
