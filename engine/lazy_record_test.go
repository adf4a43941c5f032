package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/image/startprofile"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/storage"
)

// startedTask is a task and the driver of its image: both do what the test says.
type startedTask struct {
	mu      sync.Mutex
	status  shim.Status
	ended   chan struct{}
	busy    bool
	touched []storage.Touch
}

type startedTasks struct {
	Tasks // panics for what no test uses
	*startedTask
}

type startedDriver struct {
	storage.Starter
	*startedTask
}

func (s startedTasks) State(context.Context, string, string, string) (shim.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return shim.State{Status: s.status}, nil
}

func (s startedTasks) Wait(ctx context.Context, _, _, _ string) (shim.Exit, error) {
	select {
	case <-s.ended:
		return shim.Exit{}, nil
	case <-ctx.Done():
		return shim.Exit{}, ctx.Err()
	}
}

func (s startedDriver) Record(context.Context, string) error { return nil }

func (s startedDriver) Busy(context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy
}

func (s startedDriver) Touched(context.Context, string) ([]storage.Touch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.touched, nil
}

func (s *startedTask) set(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}

func (s *startedTask) touch(path string) {
	s.set(func() { s.touched = append(s.touched, storage.Touch{Path: path, Whole: true}) })
}

// TestStartIsOver tells when a start is over, and what then is kept of it.
func TestStartIsOver(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(s *startedTask)
		files int
		took  time.Duration
	}{
		"quiet": {func(s *startedTask) {
			s.set(func() { s.status = shim.Running })
			s.touch("a")
			time.Sleep(2 * time.Second)
			s.touch("b")
			time.Sleep(startQuiet + time.Second)
			s.touch("too late")
		}, 2, 2*time.Second + startQuiet},
		"waits for a registry": {func(s *startedTask) {
			s.set(func() { s.status, s.busy = shim.Running, true })
			s.touch("a")
			time.Sleep(20 * time.Second)
			s.touch("b")
			s.set(func() { s.busy = false })
		}, 2, 20*time.Second + startQuiet},
		"never quiet": {func(s *startedTask) {
			s.set(func() { s.status = shim.Running })
			for range 100 {
				s.touch(time.Now().Format("150405"))
				time.Sleep(time.Second)
			}
		}, 61, startLimit},
		"ends soon": {func(s *startedTask) {
			s.touch("a")
			close(s.ended)
		}, 1, 0},
		"started late": {func(s *startedTask) {
			time.Sleep(time.Minute)
			s.set(func() { s.status = shim.Running })
			s.touch("a")
		}, 1, time.Minute + startQuiet},
		"never started":          {func(*startedTask) {}, 0, createdLimit},
		"deleted before a start": {func(s *startedTask) { close(s.ended) }, 0, 0},
		"nothing touched":        {func(s *startedTask) { s.set(func() { s.status = shim.Running }) }, 0, startQuiet},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, err := startprofile.Open(t.TempDir(), slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				task := &startedTask{status: shim.Created, ended: make(chan struct{})}
				e := &Engine{tasks: startedTasks{startedTask: task}, profiles: store, recorded: map[string]bool{}, log: slog.New(slog.DiscardHandler), events: newBroker(nil), life: t.Context()}
				st := &starting{namespace: "test", driver: startedDriver{startedTask: task}, image: digest.FromString("image"), args: []string{"sh"},
					served: map[string]digest.Digest{"layer": digest.FromString("layer")}}
				r := e.record(t.Context(), st, "c")
				if r == nil || e.record(t.Context(), st, "other") != nil {
					t.Fatal("one start at a time is not noted")
				}
				begin := time.Now()
				r.created(nil)
				doing := make(chan struct{})
				go func() { defer close(doing); c.do(task) }()
				e.bg.Wait()
				if took := time.Since(begin); took < c.took || took > c.took+2*time.Second {
					t.Errorf("over after %v, want %v", took, c.took)
				}
				files := 0
				if p, err := store.Get(st.image, startprofile.Hash(st.args)); err == nil {
					files = len(p.Files)
				}
				if files != c.files {
					t.Errorf("%d files, want %d", files, c.files)
				}
				<-doing
				if again := e.record(t.Context(), st, "again"); again == nil {
					t.Error("the next start is not noted")
				} else {
					again.created(errors.New("no task"))
				}
			})
		})
	}
}

// TestBackgroundWaits for a start, and for a while for one that may come.
func TestBackgroundWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := startprofile.Open(t.TempDir(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		task := &startedTask{status: shim.Created, ended: make(chan struct{})}
		e := &Engine{tasks: startedTasks{startedTask: task}, profiles: store, recorded: map[string]bool{}, log: slog.New(slog.DiscardHandler), events: newBroker(nil), life: t.Context()}
		st := &starting{namespace: "test", driver: startedDriver{startedTask: task}, image: digest.FromString("image"), served: map[string]digest.Digest{"layer": ""}}
		e.record(t.Context(), st, "c").created(nil)
		after := func(d time.Duration, want bool) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if e.startsUnderWay() != want {
				t.Errorf("the background waits: %t", !want)
			}
		}
		after(0, true)
		after(heldLimit-time.Second, true)
		after(2*time.Second, false)
		task.set(func() { task.status = shim.Running })
		after(time.Second, true)
		after(startQuiet+time.Second, false)
		e.bg.Wait()
	})
}
