// Package powercut stops a program at each of its steps, by SIGKILL (Story.Kill) and by loss of power (Story.CutPower), and has the
// test look at what is on disk then.
//
// A Story is a program that works in one directory, says before each of its effects on disk that it is about to take it, and says
// aloud what somebody may from then on rely on ("have A", "removing B"): the words are the test's own, and what it looks for is
// that they hold.
//
// Kill runs the test's binary anew for each step, with the same test's name, and has that process kill itself: what the kernel was
// given is there afterwards. CutPower tells the story once on an ext4 of its own in a file that is mounted through a loop device: what
// that file holds at a moment is what a power failure would leave then, so before each step a copy of it is mounted and looked at.
//
// It imports nothing of ours, and is for tests only. A test that dies may leave a mount below its temporary directory.
package powercut

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Story is a program and what must be true of what it leaves.
type Story struct {
	// Tell runs the program in dir, which may hold what an earlier telling left. It calls step before each effect on disk, in any goroutine,
	// and tell, in its own, with what has become true. What it opens it closes by t.Cleanup, when steps may still come.
	Tell func(t *testing.T, dir string, step func(name string) error, tell func(line string)) error
	// Look is given what a telling left in dir and what it told before it was stopped. After a loss of power only what was made
	// durable needs to be there. It may write.
	Look func(t *testing.T, dir string, told []string, powerLost bool)
	// Steps are those that there are at least.
	Steps int
}

// stepVariable and dirVariable make a process the one that Kill kills: before that step, in that directory.
const (
	stepVariable = "SLIPWAY_POWERCUT_STEP"
	dirVariable  = "SLIPWAY_POWERCUT_DIR"
)

// Kill kills a process before each step of the story. The test may do nothing else: it is what that process runs.
func (s Story) Kill(t *testing.T) {
	if at, err := strconv.Atoi(os.Getenv(stepVariable)); err == nil {
		s.dieAt(t, at, os.Getenv(dirVariable))
		return
	}
	for step := 1; ; step++ {
		dir := t.TempDir()
		child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		child.Env = append(os.Environ(), stepVariable+"="+strconv.Itoa(step), dirVariable+"="+dir)
		out, err := child.CombinedOutput()
		switch {
		case err == nil && step <= s.Steps:
			t.Fatalf("the story has only %d steps: %s", step-1, out)
		case err == nil:
			return // told to the end
		case child.ProcessState.Exited() && child.ProcessState.ExitCode() != 1, bytes.Contains(out, []byte("FAIL")): // 1 is how Windows kills
			t.Fatalf("step %d: %v\n%s", step, err, out)
		}
		s.Look(t, filepath.Join(dir, "told in"), lines(t, filepath.Join(dir, "told")), false)
		if t.Failed() {
			t.Fatalf("after a crash before step %d", step)
		}
	}
}

// dieAt tells the story up to a step.
func (s Story) dieAt(t *testing.T, at int, dir string) {
	told, err := os.Create(filepath.Join(dir, "told"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { told.Close() })
	var mu sync.Mutex
	n := 0
	die := func(string) error {
		mu.Lock() // nobody goes on while this process is dying
		if n++; n == at {
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = self.Kill()
			}
			if err != nil {
				return err
			}
			select {}
		}
		mu.Unlock()
		return nil
	}
	if err := s.Tell(t, filepath.Join(dir, "told in"), die, func(line string) { fmt.Fprintln(told, line) }); err != nil {
		t.Fatal(err)
	}
}

func lines(t *testing.T, path string) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
}
