package pods

import "sync"

// Change is what happened to a container.
type Change uint8

// In the order of CRI's ContainerEventType.
const (
	ContainerCreated Change = iota
	ContainerStarted
	ContainerStopped
	ContainerDeleted
)

// Event is one change; ID is a container's.
type Event struct {
	ID, PodID string
	Change    Change
}

// watchQueue is how many changes a watcher may be behind before it is cut off.
const watchQueue = 1024

// watchers are those who want to know of changes.
type watchers struct {
	mu  sync.Mutex
	all map[chan Event]struct{}
}

// Watch answers a queue of changes from now on. It is closed when its reader falls too far behind. stop ends it.
func (m *Manager) Watch() (queue <-chan Event, stop func()) {
	w := &m.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[chan Event]struct{}{}
	}
	ch := make(chan Event, watchQueue)
	w.all[ch] = struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.drop(ch)
	}
}

// drop needs w.mu.
func (w *watchers) drop(ch chan Event) {
	if _, ok := w.all[ch]; ok {
		delete(w.all, ch)
		close(ch)
	}
}

func (m *Manager) notify(c *container, change Change) {
	w := &m.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.all {
		select {
		case ch <- Event{ID: c.id, PodID: c.pod.id, Change: change}:
		default:
			w.drop(ch)
		}
	}
}
