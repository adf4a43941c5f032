package content_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/testsuite/powercut"
)

// storyBlobs are the blobs of story by name.
var storyBlobs = map[string][]byte{
	"one":   bytes.Repeat([]byte("one"), 50_000),
	"two":   bytes.Repeat([]byte("two"), 1000),
	"three": bytes.Repeat([]byte("three"), 1000),
	"four":  bytes.Repeat([]byte("four"), 20_000),
}

func storyDigest(name string) digest.Digest { return digest.FromBytes(storyBlobs[name]) }

// story makes a store do all that it does on disk, and can be told again after a crash at any point. tell is called with
// "have NAME", "deleting NAME", "lost NAME" and "half NAME" as they become true.
func story(t *testing.T, s *content.FS, tell func(string)) error {
	ctx := t.Context()
	for _, name := range []string{"one", "two"} {
		if err := storyWrite(t, s, name, len(storyBlobs[name])); err != nil {
			return err
		}
		tell("have " + name)
	}
	tell("deleting two")
	if err := s.Delete(ctx, storyDigest("two")); err != nil {
		return err
	}
	tell("lost two")
	for _, name := range []string{"three", "four"} {
		if err := storyWrite(t, s, name, len(storyBlobs[name])/2); err != nil {
			return err
		}
	}
	tell("half four")
	if err := s.Abort(ctx, "three"); err != nil {
		return err
	}
	tell("finishing four")
	if err := storyWrite(t, s, "four", len(storyBlobs["four"])); err != nil {
		return err
	}
	tell("have four")
	return nil
}

// storyWrite resumes an ingest up to size, and commits when that is all of it.
func storyWrite(t *testing.T, s *content.FS, name string, size int) error {
	data, dgst := storyBlobs[name], storyDigest(name)
	w, err := s.Writer(t.Context(), name, ocispec.Descriptor{Digest: dgst})
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	st, err := w.Status()
	for offset := int(st.Offset); err == nil && offset < size; offset += 10_000 {
		_, err = w.Write(data[offset:min(offset+10_000, size)])
	}
	if err != nil || size < len(data) {
		return errors.Join(err, w.Close())
	}
	err = w.Commit(t.Context(), int64(size), dgst)
	if errdefs.IsFailedPrecondition(err) { // a power failure has damaged the ingest
		if err := s.Abort(t.Context(), name); err != nil {
			return err
		}
		return storyWrite(t, s, name, size)
	}
	return err
}

// checkStory checks what has to be true of a store at any time, and what was told last of each blob.
func checkStory(t *testing.T, s *content.FS, told []string, powerLost bool) {
	t.Helper()
	if err := s.Walk(t.Context(), func(b content.Blob) error { return s.Verify(t.Context(), b.Digest) }); err != nil {
		t.Errorf("a blob is not whole: %v", err)
	}
	last := map[string]string{}
	for _, line := range told {
		verb, name, _ := strings.Cut(line, " ")
		last[name] = verb
	}
	for name, verb := range last {
		_, err := s.Info(t.Context(), storyDigest(name))
		switch {
		case verb == "have" && err != nil:
			t.Errorf("committed blob %s: %v", name, err)
		case verb == "lost" && !errdefs.IsNotFound(err):
			t.Errorf("deleted blob %s: %v", name, err)
		}
		if verb == "half" && !powerLost {
			st, err := s.Status(t.Context(), name)
			if err != nil || st.Offset < int64(len(storyBlobs[name])/2) {
				t.Errorf("half of %s was written, and now there are %d bytes: %v", name, st.Offset, err)
			}
		}
	}
}

// finishStory tells the story to its end and checks that nothing but its result is left in dir.
func finishStory(t *testing.T, s *content.FS, dir string) {
	t.Helper()
	var told []string
	if err := story(t, s, func(line string) { told = append(told, line) }); err != nil {
		t.Errorf("told again: %v", err)
		return
	}
	checkStory(t, s, told, false)
	if left, err := os.ReadDir(filepath.Join(dir, "ingest")); err != nil || len(left) != 0 {
		t.Errorf("left in ingest: %v, %v", left, err)
	}
	if blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256")); err != nil || len(blobs) != 2 {
		t.Errorf("blobs at the end: %v, %v", blobs, err)
	}
}

// theStory is the story with its ends, for powercut.
var theStory = powercut.Story{
	Tell: func(t *testing.T, dir string, step func(string) error, tell func(string)) error {
		s := open(t, dir)
		s.SetStep(step)
		return story(t, s, tell)
	},
	Look: func(t *testing.T, dir string, told []string, powerLost bool) {
		s := open(t, dir)
		checkStory(t, s, told, powerLost)
		finishStory(t, s, dir)
	},
	Steps: 29,
}

func TestCrash(t *testing.T)     { theStory.Kill(t) }
func TestPowerLoss(t *testing.T) { theStory.CutPower(t) }

// TestFailures lets each step of the story fail, and goes on with the same store.
func TestFailures(t *testing.T) {
	for failing := 1; ; failing++ {
		dir := t.TempDir()
		s := open(t, dir)
		n, name := 0, ""
		s.SetStep(func(step string) error {
			if n++; n == failing {
				name = step
				return io.ErrShortWrite
			}
			return nil
		})
		var told []string
		err := story(t, s, func(line string) { told = append(told, line) })
		if name == "" {
			if err != nil {
				t.Fatal(err)
			}
			return // there are no more steps
		}
		// What is left of a committed ingest does not make the commit fail.
		if err == nil && !strings.HasPrefix(name, "ingest: remove") {
			t.Errorf("the failure of %q went unnoticed", name)
		}
		s.SetStep(nil)
		checkStory(t, s, told, false)
		if err != nil {
			finishStory(t, s, dir)
		}
		if t.Failed() {
			t.Fatalf("after step %d, %q, failed (%v)", failing, name, err)
		}
	}
}
