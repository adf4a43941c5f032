package pods

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func testManager(t *testing.T) *Manager {
	t.Helper()
	m := &Manager{pods: map[string]*pod{}, containers: map[string]*container{}, names: map[string]string{}}
	m.life, m.stop = context.WithCancel(context.Background())
	t.Cleanup(func() { m.Close() })
	return m
}

// TestOnce: a call that gives up leaves its making going on and says where that stands; the same call again joins, and gets what the first began.
func TestOnce(t *testing.T) {
	m := testManager(t)
	reached, proceed := make(chan struct{}), make(chan struct{})
	times := 0
	slow := func(ctx context.Context, k *making) (string, error) {
		times++
		k.at("climbing")
		close(reached)
		select {
		case <-proceed:
			return "id", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	impatient, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := m.once(impatient, "name", "make it", "print", slow)
		first <- err
	}()
	<-reached
	cancel()
	if err := <-first; !errdefs.IsAborted(err) || !strings.Contains(err.Error(), "still climbing") {
		t.Errorf("who gives up is told: %v", err)
	}
	late, done := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer done()
	if _, err := m.once(late, "name", "make it", "print", slow); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who is late is told: %v", err)
	}
	if _, err := m.once(t.Context(), "name", "make it", "another", slow); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another of the same name is told: %v", err)
	}
	close(proceed)
	if id, err := m.once(t.Context(), "name", "make it", "print", slow); err == nil && id != "id" || times > 2 {
		t.Errorf("the repeated call got %q, %v after %d makings", id, err, times)
	}
}

func TestOnceNamesTheStageThatFailed(t *testing.T) {
	m := testManager(t)
	_, err := m.once(t.Context(), "name", "make it", "", func(_ context.Context, k *making) (string, error) {
		k.at("climbing")
		return "", errdefs.ErrOutOfRange
	})
	if !errdefs.IsOutOfRange(err) || !strings.HasPrefix(err.Error(), "cannot make it: climbing: ") {
		t.Errorf("got %v", err)
	}
}

// TestCloseEndsMakings: a daemon that stops waits for nobody's making.
func TestCloseEndsMakings(t *testing.T) {
	m := testManager(t)
	begun := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		_, err := m.once(t.Context(), "name", "make it", "", func(ctx context.Context, _ *making) (string, error) {
			close(begun)
			<-ctx.Done()
			return "", ctx.Err()
		})
		failed <- err
	}()
	<-begun
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := m.once(t.Context(), "name", "make it", "", nil); !errdefs.IsUnavailable(err) {
		t.Errorf("after Close: %v", err)
	}
}

func TestSignalNumber(t *testing.T) {
	for name, want := range map[string]uint32{"SIGTERM": 15, "SIGKILL": 9, "SIGRTMIN": 34, "SIGRTMIN+3": 37, "SIGRTMAX-1": 63, "SIGRTMAX": 64, "2": 2} {
		if got, err := signalNumber(name); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", name, got, err, want)
		}
	}
	for _, name := range []string{"", "TERM", "SIGRTMIN+x", "SIGRTMIN-1", "SIGRTMAX+1", "0", "-1", "65", "99999999999999999999"} {
		if got, err := signalNumber(name); err == nil {
			t.Errorf("%q is %d", name, got)
		}
	}
	for _, test := range [][3]string{{"", "", "SIGTERM"}, {"", "quit", "SIGQUIT"}, {"SIGUSR1", "QUIT", "SIGUSR1"}, {"", "3", "3"}} {
		if got := stopSignal(test[0], test[1]); got != test[2] {
			t.Errorf("stop signal of %q and %q is %q, want %q", test[0], test[1], got, test[2])
		}
	}
}

func TestFind(t *testing.T) {
	all := map[string]*int{"abc": new(int), "abd": new(int), "xyz": new(int), "ab": new(int)}
	for id, ok := range map[string]bool{"abc": true, "x": true, "ab": true, "xyz": true, "a": false, "q": false, "": false} {
		if _, err := find(all, "thing", id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}
