package pods

import (
	"sync"
	"time"
)

// Change is what happened to a container or a pod.
type Change uint8

// In the order of CRI's ContainerEventType.
const (
	ContainerCreated Change = iota
	ContainerStarted
	ContainerStopped
	ContainerDeleted
)

// Event is one change. ID is a container's, or that of the pod itself.
type Event struct {
	ID, PodID string
	At        time.Time
	Change    Change
	Pod       *Pod // as it was, of a pod that is deleted
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
	m.watchers.tell(Event{ID: c.id, PodID: c.pod.id, At: time.Now(), Change: change})
}

// notifyPod is notify for what happened to a pod, as other runtimes tell of a pod's own container.
func (m *Manager) notifyPod(p *pod, change Change) {
	ev := Event{ID: p.id, PodID: p.id, At: time.Now(), Change: change}
	if change == ContainerDeleted {
		m.mu.Lock()
		last := m.viewPod(p)
		m.mu.Unlock()
		ev.Pod = &last
	}
	m.watchers.tell(ev)
}

func (w *watchers) tell(ev Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.all {
		select {
		case ch <- ev:
		default:
			w.drop(ch)
		}
	}
}
