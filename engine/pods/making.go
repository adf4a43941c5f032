package pods

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// makeTimeout bounds the making of a pod or container whose caller has long gone.
const makeTimeout = 10 * time.Minute

// makings are the pods and containers being made, by name. A call that times out leaves its making going on, and one that is repeated
// joins it: kubelet gives up after two minutes and asks again.
type makings struct {
	mu     sync.Mutex
	byName map[string]*making
}

// making is one under way.
type making struct {
	what  string // as errors call it
	print string // of what was asked for
	begun time.Time
	done  chan struct{} // closed when id and err are set
	id    string
	err   error

	mu    sync.Mutex
	stage string
}

// at says what is being done now.
func (k *making) at(stage string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stage = stage
}

func (k *making) now() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stage
}

// once runs fn for name, or joins the one that runs for the same thing. fn does not end with the caller.
func (m *Manager) once(ctx context.Context, name, what, print string, fn func(context.Context, *making) (string, error)) (string, error) {
	if m.life.Err() != nil {
		return "", fmt.Errorf("the daemon is ending: %w", errdefs.ErrUnavailable)
	}
	m.makings.mu.Lock()
	k := m.makings.byName[name]
	if k == nil {
		k = &making{what: what, print: print, begun: time.Now(), done: make(chan struct{}), stage: "beginning"}
		if m.makings.byName == nil {
			m.makings.byName = map[string]*making{}
		}
		m.makings.byName[name] = k
		free, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeTimeout)
		m.wait.Go(func() {
			defer cancel()
			defer context.AfterFunc(m.life, cancel)() // the next daemon clears away what this one does not come to
			k.id, k.err = fn(free, k)
			if k.err != nil {
				k.err = fmt.Errorf("cannot %s: %s: %w", k.what, k.now(), k.err)
			}
			m.makings.mu.Lock()
			delete(m.makings.byName, name)
			m.makings.mu.Unlock()
			close(k.done)
		})
	}
	m.makings.mu.Unlock()
	if k.print != print {
		return "", fmt.Errorf("cannot %s: another of that name is being made (now %s, for %s): %w", what, k.now(), k.age(), errdefs.ErrAlreadyExists)
	}
	select {
	case <-k.done:
		return k.id, k.err
	case <-ctx.Done():
		kind := error(errdefs.ErrAborted)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			kind = context.DeadlineExceeded
		}
		return "", fmt.Errorf("cannot %s in time: it is still %s, for %s now, and goes on; the same call again joins it: %w", what, k.now(), k.age(), kind)
	}
}

func (k *making) age() time.Duration { return time.Since(k.begun).Round(time.Millisecond) }
