package cache

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const storySize = 50_000

var storyNames = []string{"a", "b", "c"}

// story makes a cache do all that it does on disk, and can be told again after a crash at any point. tell is called with
// "have NAME BYTES" as it becomes true that so many bytes from the start are durable, and with "removing NAME" before they go.
func story(t *testing.T, c *Cache, tell func(string)) error {
	put := func(name string, to int) error {
		e, err := c.Acquire(keyOf(name, storySize), storySize)
		if err != nil {
			return err
		}
		defer e.Release()
		for at := 0; at < to; at += 10_000 {
			end := min(at+10_000, to)
			if _, err := e.WriteAt(body(name, storySize)[at:end], int64(at)); err != nil {
				return err
			}
		}
		return nil
	}
	sync := func(lines ...string) error {
		if err := c.Sync(); err != nil {
			return err
		}
		for _, line := range lines {
			tell(line)
		}
		return nil
	}
	for _, do := range []func() error{
		func() error { return put("a", 20_000) },
		func() error { return put("b", storySize) },
		func() error { return sync("have a 20000", "have b 50000") },
		func() error { return put("a", 30_000) },
		func() error { tell("removing a"); tell("removing b"); return nil },
		func() error { return sync() },
		func() error { c.evict(1 << 40); return nil },
		func() error { return put("b", 10_000) }, // the same name, with gaps this time
		func() error { return put("c", storySize) },
		func() error { return c.compact(true) },
		func() error { return sync("have b 10000", "have c 50000") },
		func() error { return put("b", storySize) },
		func() error { return c.compact(true) },
		func() error { return sync("have b 50000") },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// checkStory checks that every byte that can be read is right, and that what was told last of each content holds.
func checkStory(t *testing.T, c *Cache, told []string) {
	t.Helper()
	want := map[string]int{}
	for _, line := range told {
		verb, rest, _ := strings.Cut(line, " ")
		name, n, _ := strings.Cut(rest, " ")
		want[name], _ = strconv.Atoi(n)
		if verb == "removing" {
			want[name] = 0
		}
	}
	for _, name := range storyNames {
		e, err := c.Find(keyOf(name, storySize))
		if errdefs.IsNotFound(err) && want[name] == 0 {
			continue
		}
		if err != nil {
			t.Errorf("content %s: %v", name, err)
			continue
		}
		if n := check(t, e, name); n < want[name] {
			t.Errorf("%d bytes of %s are left of %d", n, name, want[name])
		}
		e.Release()
	}
}

const (
	crashStep = "SLIPWAY_TEST_CRASH_STEP"
	crashDir  = "SLIPWAY_TEST_CRASH_DIR"
)

// TestCrashChild is the process that TestCrash kills.
func TestCrashChild(t *testing.T) {
	at, err := strconv.Atoi(os.Getenv(crashStep))
	if err != nil {
		t.Skip("a part of TestCrash")
	}
	dir := os.Getenv(crashDir)
	log, err := os.OpenFile(filepath.Join(dir, "told"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	steps := make(chan int, 1) // syncs take steps side by side
	steps <- 0
	c := open(t, filepath.Join(dir, "cache"), Options{step: func(string) error {
		n := <-steps + 1
		if n == at {
			self, err := os.FindProcess(os.Getpid())
			if err != nil {
				return err
			}
			if err := self.Kill(); err != nil {
				return err
			}
			select {} // until it is dead
		}
		steps <- n
		return nil
	}})
	if err := story(t, c, func(line string) { fmt.Fprintln(log, line) }); err != nil {
		t.Fatal(err)
	}
}

// TestCrash kills a process before each step of the story, and looks at what the next one finds.
func TestCrash(t *testing.T) {
	for step := 1; ; step++ {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
		cmd.Env = append(os.Environ(), crashStep+"="+strconv.Itoa(step), crashDir+"="+dir)
		out, err := cmd.CombinedOutput()
		if err == nil {
			if step < 30 {
				t.Fatalf("the story has only %d steps: %s", step-1, out)
			}
			return // ran to the end
		}
		if !strings.Contains(err.Error(), "killed") && !strings.Contains(err.Error(), "exit status 1") || bytes.Contains(out, []byte("FAIL")) {
			t.Fatalf("step %d: %v\n%s", step, err, out)
		}
		told, _ := os.ReadFile(filepath.Join(dir, "told")) // not there before the first word
		c := open(t, filepath.Join(dir, "cache"), Options{})
		checkStory(t, c, lines(told))
		finishStory(t, c)
		if t.Failed() {
			t.Fatalf("after a crash before step %d", step)
		}
	}
}

// finishStory tells the story to its end and checks the result.
func finishStory(t *testing.T, c *Cache) {
	t.Helper()
	var told []string
	if err := story(t, c, func(line string) { told = append(told, line) }); err != nil {
		t.Errorf("told again: %v", err)
	}
	checkStory(t, c, told)
}

func lines(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}
