package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/durable"
)

// layerReads is how many reads of one layer may be under way. More wait their turn; other layers do not notice.
const layerReads = 512

// layers is what is attached, kept in attached.json of the state directory. A slot is never given twice, so a node id that
// the kernel remembers never comes to mean another layer's file.
type layers struct {
	path string
	open OpenFunc

	change sync.Mutex // held while attached.json is rewritten
	mu     sync.RWMutex
	next   uint32 // the slot of the next layer
	byID   map[string]*attached
	bySlot map[uint32]*attached
}

// attached is one layer of the mount. It is opened at its first use: a server that takes over has its first answer at once.
type attached struct {
	id, dir string
	slot    uint32
	ctx     context.Context // done when the layer is detached
	cancel  context.CancelFunc
	turn    chan struct{} // holds a token for each read under way
	users   sync.WaitGroup

	touched *touches

	mu     sync.Mutex
	layer  Layer
	gone   bool
	counts struct{ reads, bytes, errors, opens, passed atomic.Int64 }
}

type stateFile struct {
	Next   uint32                `json:"next"`
	Layers map[string]stateLayer `json:"layers"`
}

type stateLayer struct {
	Slot uint32 `json:"slot"`
	Dir  string `json:"dir"`
}

func loadLayers(state string, open OpenFunc) (*layers, error) {
	l := &layers{path: filepath.Join(state, "attached.json"), open: open, next: 1, byID: map[string]*attached{}, bySlot: map[uint32]*attached{}}
	data, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read which layers are attached: %w", err)
	}
	var s stateFile
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("cannot read %s, remove it when nothing is mounted: %v: %w", l.path, err, errdefs.ErrDataLoss)
	}
	l.next = max(s.Next, 1)
	for id, a := range s.Layers {
		l.put(newAttached(id, a.Dir, a.Slot))
	}
	return l, nil
}

func newAttached(id, dir string, slot uint32) *attached {
	a := &attached{id: id, dir: dir, slot: slot, turn: make(chan struct{}, layerReads), touched: newTouches()}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a
}

func (l *layers) put(a *attached) {
	l.byID[a.id], l.bySlot[a.slot] = a, a
	l.next = max(l.next, a.slot+1)
}

// save writes what is attached. The caller holds change.
func (l *layers) save() error {
	s := stateFile{Layers: map[string]stateLayer{}}
	l.mu.RLock()
	s.Next = l.next
	for id, a := range l.byID {
		s.Layers[id] = stateLayer{Slot: a.slot, Dir: a.dir}
	}
	l.mu.RUnlock()
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := durable.Replace(l.path, data); err != nil {
		return fmt.Errorf("cannot write which layers are attached: %w", err)
	}
	return nil
}

// attach adds a layer, durable when it returns nil. The same layer again is AlreadyExists.
func (l *layers) attach(id, dir string) error {
	if id == "" || id == "." || id == ".." || len(id) > 255 || strings.ContainsAny(id, "/\x00") {
		return fmt.Errorf("cannot attach a layer named %q: no file name: %w", id, errdefs.ErrInvalidArgument)
	}
	l.change.Lock()
	defer l.change.Unlock()
	if l.find(id) != nil {
		return fmt.Errorf("cannot attach layer %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if l.next == math.MaxInt32 {
		return fmt.Errorf("cannot attach layer %s: all slots were used, start the keeper anew: %w", id, errdefs.ErrFailedPrecondition)
	}
	a := newAttached(id, dir, l.next)
	if _, err := a.opened(l.open); err != nil {
		a.close()
		return err
	}
	l.mu.Lock()
	l.put(a)
	l.mu.Unlock()
	if err := l.save(); err != nil {
		l.drop(a)
		a.close()
		return err
	}
	return nil
}

// detach removes a layer. Reads that are under way are interrupted; the layer is closed when it returns.
func (l *layers) detach(id string) error {
	l.change.Lock()
	defer l.change.Unlock()
	a := l.find(id)
	if a == nil {
		return fmt.Errorf("cannot detach layer %s: %w", id, errdefs.ErrNotFound)
	}
	l.drop(a)
	if err := l.save(); err != nil {
		l.mu.Lock()
		l.put(a)
		l.mu.Unlock()
		return err
	}
	a.close()
	return nil
}

func (l *layers) drop(a *attached) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byID, a.id)
	delete(l.bySlot, a.slot)
}

func (l *layers) find(id string) *attached {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.byID[id]
}

// names answers the ids of all layers by slot, the order of the root directory.
func (l *layers) list() []*attached {
	l.mu.RLock()
	defer l.mu.RUnlock()
	all := make([]*attached, 0, len(l.bySlot))
	for _, a := range l.bySlot {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *attached) int { return int(a.slot) - int(b.slot) })
	return all
}

// use answers the layer in slot; the caller says done when it needs it no more.
func (l *layers) use(slot uint32) (a *attached, layer Layer, err error) {
	l.mu.RLock()
	a = l.bySlot[slot]
	if a != nil {
		a.users.Add(1) // under the lock: detach waits for users after it took the layer out
	}
	l.mu.RUnlock()
	if a == nil {
		return nil, nil, fmt.Errorf("no layer has slot %d: %w", slot, errdefs.ErrNotFound)
	}
	if layer, err = a.opened(l.open); err != nil {
		a.users.Done()
		return nil, nil, err
	}
	return a, layer, nil
}

// close closes all layers; they stay attached.
func (l *layers) close() {
	for _, a := range l.list() {
		l.drop(a)
		a.close()
	}
}

func (a *attached) opened(open OpenFunc) (Layer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone {
		return nil, fmt.Errorf("cannot open layer %s: it is detached: %w", a.id, errdefs.ErrNotFound)
	}
	if a.layer == nil {
		layer, err := open(a.id, a.dir)
		if err != nil {
			return nil, fmt.Errorf("cannot open layer %s: %w", a.id, err)
		}
		a.layer = layer
	}
	return a.layer, nil
}

// close waits until nobody uses the layer and closes it.
func (a *attached) close() {
	a.cancel()
	a.users.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = true
	if a.layer != nil {
		_ = a.layer.Close()
		a.layer = nil
	}
}
