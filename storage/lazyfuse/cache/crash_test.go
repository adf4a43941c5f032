package cache

import (
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/testsuite/powercut"
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

// theStory is the story with its ends, for powercut.
var theStory = powercut.Story{
	Tell: func(t *testing.T, dir string, step func(string) error, tell func(string)) error {
		return story(t, open(t, dir, Options{step: step}), tell)
	},
	Look: func(t *testing.T, dir string, told []string, powerLost bool) {
		c := open(t, dir, Options{})
		checkStory(t, c, told)
		finishStory(t, c)
	},
	Steps: 29,
}

func TestCrash(t *testing.T)     { theStory.Kill(t) }
func TestPowerLoss(t *testing.T) { theStory.CutPower(t) }

// finishStory tells the story to its end and checks the result.
func finishStory(t *testing.T, c *Cache) {
	t.Helper()
	var told []string
	if err := story(t, c, func(line string) { told = append(told, line) }); err != nil {
		t.Errorf("told again: %v", err)
	}
	checkStory(t, c, told)
}
