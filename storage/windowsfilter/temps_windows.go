package windowsfilter

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// temps notes the directories that hcsshim makes in the system's temporary directory while it imports layers, so that the next start deletes
// those that a crash left. hcsshim does not tell their names, and others use it too: they are seen by looking before and after.
type temps struct {
	dir string     // of the notes: files with one path each
	mu  sync.Mutex // from before a directory is made until it is noted
}

// openTemps deletes what notes in dir say, and the notes.
func openTemps(dir string) (*temps, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make a directory for notes: %w", err)
	}
	notes, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot clean up after a crash: %w", err)
	}
	for _, n := range notes {
		note := filepath.Join(dir, n.Name())
		text, err := os.ReadFile(note)
		if err != nil {
			return nil, fmt.Errorf("cannot clean up after a crash: %w", err)
		}
		// A crash may have cut the note, and the note is not to delete anything else. What the process that is dying has open still is
		// left to the next start.
		if path := string(text); isTemp(path) && os.RemoveAll(path) != nil {
			continue
		}
		if err := os.Remove(note); err != nil {
			return nil, fmt.Errorf("cannot clean up after a crash: %w", err)
		}
	}
	return &temps{dir: dir}, nil
}

// isTemp says whether path is a name that hcsshim makes up, os.MkdirTemp("", "hcs").
func isTemp(path string) bool {
	digits, ok := strings.CutPrefix(filepath.Base(path), "hcs")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == "" && filepath.Clean(path) == filepath.Join(os.TempDir(), filepath.Base(path))
}

// list answers the directories there are.
func (*temps) list() (map[string]bool, error) {
	entries, err := os.ReadDir(os.TempDir())
	all := map[string]bool{}
	for _, e := range entries {
		if path := filepath.Join(os.TempDir(), e.Name()); e.IsDir() && isTemp(path) {
			all[path] = true
		}
	}
	return all, err
}

// during runs an import, which makes a directory before it reads the first byte of tar, and has deleted it when it returns.
func (t *temps) during(tar io.Reader, run func(tar io.Reader) error) (err error) {
	t.mu.Lock()
	unlock := sync.OnceFunc(t.mu.Unlock)
	defer unlock()
	before, err := t.list()
	if err != nil {
		return fmt.Errorf("cannot look into the temporary directory: %w", err)
	}
	note := filepath.Join(t.dir, rand.Text())
	defer func() {
		if removeErr := os.Remove(note); removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}()
	first := sync.OnceValue(func() error {
		defer unlock()
		return t.note(note, before)
	})
	return run(readFunc(func(b []byte) (int, error) {
		if err := first(); err != nil {
			return 0, err
		}
		return tar.Read(b)
	}))
}

// note writes down the one directory that is there and was not before. Where there are two, one is somebody else's.
func (t *temps) note(file string, before map[string]bool) error {
	after, err := t.list()
	if err != nil {
		return fmt.Errorf("cannot look into the temporary directory: %w", err)
	}
	var made []string
	for path := range after {
		if !before[path] {
			made = append(made, path)
		}
	}
	if len(made) != 1 {
		return nil
	}
	return os.WriteFile(file, []byte(made[0]), 0o600)
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }
