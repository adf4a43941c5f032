package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// mostStall is how long a read may take while what serves it is killed (criterion 19), asserted in soak only.
const mostStall = 2 * time.Second

// stalls notes the longest time that opening and reading a container's files takes, from the outside; each opening asks the server.
type stalls struct {
	stop func() // ends it, and waits

	mu      sync.Mutex
	longest time.Duration
	reads   int
	err     error
}

// watchStalls begins to read the files below a directory of the container whose command line holds mark.
func watchStalls(t *testing.T, mark, dir string) *stalls {
	t.Helper()
	root := ""
	eventually(t, "the container's process", func() bool {
		root = rootOf(mark)
		_, err := os.Stat(filepath.Join(root, dir))
		return root != "" && err == nil
	})
	names, err := filepath.Glob(filepath.Join(root, dir, "*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("files of %s: %v, %v", root, names, err)
	}
	s, over, reading := &stalls{}, make(chan struct{}), sync.WaitGroup{}
	s.stop = sync.OnceFunc(func() { close(over); reading.Wait() })
	t.Cleanup(s.stop)
	reading.Go(func() {
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for i := 0; ; i++ {
			select {
			case <-over:
				return
			case <-pace.C:
				s.read(names[i%len(names)])
			}
		}
	})
	return s
}

// rootOf is the root of a process by its command line, its mount namespace's as it sees it; "" when there is none.
func rootOf(mark string) string {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err != nil || !bytes.HasPrefix(line, []byte("sh\x00-c\x00")) || !bytes.Contains(line, []byte(mark)) {
			continue
		}
		return filepath.Join(filepath.Dir(f), "root")
	}
	return ""
}

func (s *stalls) read(name string) {
	begin := time.Now()
	f, err := os.Open(name)
	if err == nil {
		_, err = f.ReadAt(make([]byte, 512), 0)
		_ = f.Close()
	}
	took := time.Since(begin)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	s.longest = max(s.longest, took)
	if s.err == nil && err != nil {
		s.err = fmt.Errorf("read %d: %w", s.reads, err)
	}
}

// end tells what there was.
func (s *stalls) end(t *testing.T) {
	t.Helper()
	s.stop()
	t.Logf("%d reads, the longest took %v", s.reads, s.longest)
	if s.err != nil {
		t.Error(s.err)
	}
	if soak && s.longest > mostStall {
		t.Errorf("a read took %v, more than %v", s.longest, mostStall)
	}
}
