//go:build linux

package linux_test

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux"
)

func TestRestoredIsAdopted(t *testing.T) {
	needCriu(t)
	root := t.TempDir()
	e := newExecutor(t, root)
	in, out := fifo(t), fifo(t)
	s := platformSpec(t, "before", ociSpec("before", remembers...))
	s.IO = platform.IO{Stdin: in, Stdout: out}
	c, err := e.Create(t.Context(), s)
	if err == nil {
		err = c.Init().Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	await(t, out, "ready")
	dir := checkpoint(t, c, platform.CheckpointOptions{Exit: true})
	if _, err := c.Init().Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Bundle, s.Checkpoint = t.TempDir(), dir
	if c, err = e.Create(t.Context(), s); err == nil {
		err = c.Init().Start(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	pid := c.Init().Pid()
	e.Close()
	e = newExecutor(t, root)
	if c, err = e.Adopt(t.Context(), "before"); err != nil {
		t.Fatal(err)
	}
	if got := c.Init().Pid(); got != pid || !c.Init().Started() {
		t.Errorf("adopted with pid %d, want %d, started %v", got, pid, c.Init().Started())
	}
	if code, err := execute(t, c, "sh", "-c", "exit 3"); code != 3 || err != nil {
		t.Errorf("executed in it: %d, %v", code, err)
	}
	again := checkpoint(t, c, platform.CheckpointOptions{}) // of what was restored
	if _, err := os.Stat(filepath.Join(again, "inventory.img")); err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(in, "after\n"); err != nil {
		t.Fatal(err)
	}
	await(t, out, "before after")
	if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status != 7 {
		t.Errorf("it ends with %+v, %v", exit, err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestRestoreThatFails leaves nothing, whether it is started, killed or forgotten.
func TestRestoreThatFails(t *testing.T) {
	needContainers(t)
	fake := t.TempDir() // a CRIU that does nothing
	if err := os.WriteFile(filepath.Join(fake, "criu"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", fake+":"+os.Getenv("PATH"))
	images := t.TempDir()
	for name, data := range map[string]string{"inventory.img": "", "descriptors.json": `["","",""]`} {
		if err := os.WriteFile(filepath.Join(images, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	e := newExecutor(t, root)
	s := platformSpec(t, "restored", ociSpec("restored", "true"))
	s.Checkpoint = images
	for name, then := range map[string]func(c platform.Container) platform.Container{
		"started": func(c platform.Container) platform.Container {
			if err := c.Init().Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("Start: %v", err)
			}
			return c
		},
		"killed": func(c platform.Container) platform.Container {
			if err := c.Init().Signal(t.Context(), 15, false); !errdefs.IsNotFound(err) {
				t.Errorf("a signal to what does not run: %v", err)
			}
			if err := c.Init().Signal(t.Context(), 9, true); err != nil {
				t.Error(err)
			}
			if exit, err := c.Init().Wait(t.Context()); err != nil || exit.Status != 137 {
				t.Errorf("exit %+v, %v", exit, err)
			}
			if err := c.Init().Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("Start after the end: %v", err)
			}
			return c
		},
		"forgotten": func(c platform.Container) platform.Container { return c },
		"adopted": func(platform.Container) platform.Container {
			e.Close()
			e = newExecutor(t, root)
			c, err := e.Adopt(t.Context(), "restored")
			if err != nil {
				t.Fatal(err)
			}
			return c
		},
	} {
		c, err := e.Create(t.Context(), s)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if pid := c.Init().Pid(); pid != 0 || c.Init().Started() {
			t.Errorf("%s: before Start it has pid %d", name, pid)
		}
		if err := then(c).Delete(t.Context()); err != nil {
			t.Errorf("%s: Delete: %v", name, err)
		}
		if left, err := e.List(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("%s: left: %v, %v", name, left, err)
		}
	}
}

// FuzzInheritedFiles: whatever a checkpoint calls its streams, CRIU gets no other settings by it.
func FuzzInheritedFiles(f *testing.F) {
	for _, seed := range []string{"", "pipe:[12]", "file[1b:3f2]", "file[1b:3f2]\naction-script /x", "file[1b 3]", "file[:]", "file[+1:0x2]", "file[1:2]]"} {
		f.Add(seed)
	}
	whole := regexp.MustCompile(`^inherit-fd fd\[[012]\]:file\[[0-9a-f]+:[0-9a-f]+\]$`)
	f.Fuzz(func(t *testing.T, name string) {
		for _, line := range linux.InheritedFiles([]string{"", name, name, name}) {
			if !whole.MatchString(line) {
				t.Errorf("%q", line)
			}
		}
	})
}
