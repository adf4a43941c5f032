package server

import (
	"sync"
)

// opens knows how each inode is open. The kernel demands that all descriptors of an inode are of one kind (cached, or passed
// through to one backing id), and answers EIO to an open that breaks this; so the first open decides, and the decision
// stands until the last of them is closed, whichever server is there by then.
type opens struct {
	session *Session
	release func(backing int32) // closes a backing id

	mu     sync.Mutex
	inodes map[uint64]*inodeOpens
	before map[uint64]uint64 // request to handle, of files opened before this server: their opens may be asked for again
}

type inodeOpens struct {
	cached, passed int
	backing        int32
}

// opened is how one open was answered.
type opened struct {
	handle  uint64
	passed  bool
	backing int32
}

func newOpens(s *Session, release func(int32)) *opens {
	o := &opens{session: s, release: release, inodes: map[uint64]*inodeOpens{}, before: map[uint64]uint64{}}
	s.each(func(handle uint64, slot openSlot) {
		o.count(slot.node, slot.state == slotPassthrough, slot.backing)
		o.before[slot.unique&^uniqueResend] = handle
	})
	return o
}

// open notes one more descriptor of node. offer registers a backing file; it is asked when nothing is open yet.
func (o *opens) open(node, unique uint64, offer func() (int32, bool)) (opened, error) {
	if unique&uniqueResend != 0 {
		if done, ok := o.again(node, unique&^uniqueResend); ok {
			return done, nil
		}
	}
	o.mu.Lock()
	_, decided := o.inodes[node]
	o.mu.Unlock()
	var backing int32
	offered := false
	if !decided {
		backing, offered = offer()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if in := o.inodes[node]; in != nil { // decided by now, perhaps by another open just now
		if offered {
			o.release(backing)
		}
		offered, backing = in.passed > 0, in.backing
	}
	state := slotCached
	if offered {
		state = slotPassthrough
	}
	handle, err := o.session.add(node, unique&^uniqueResend, state, backing)
	if err != nil {
		if offered && o.inodes[node] == nil {
			o.release(backing)
		}
		return opened{}, err
	}
	o.count(node, offered, backing)
	return opened{handle: handle, passed: offered, backing: backing}, nil
}

// again finds an open that the server before had noted and perhaps not answered.
func (o *opens) again(node, unique uint64) (opened, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	handle, ok := o.before[unique]
	in := o.inodes[node]
	if !ok || in == nil {
		return opened{}, false
	}
	return opened{handle: handle, passed: in.passed > 0, backing: in.backing}, true
}

func (o *opens) count(node uint64, passed bool, backing int32) {
	in := o.inodes[node]
	if in == nil {
		in = &inodeOpens{}
		o.inodes[node] = in
	}
	if passed {
		in.passed++
		in.backing = backing
	} else {
		in.cached++
	}
}

// close forgets a descriptor. One that is not there was closed before, by a server that could not say so any more.
func (o *opens) close(handle uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	was, ok := o.session.remove(handle)
	if !ok {
		return
	}
	delete(o.before, was.unique)
	in := o.inodes[was.node]
	if was.state == slotPassthrough {
		in.passed--
	} else {
		in.cached--
	}
	if in.cached+in.passed > 0 {
		return
	}
	delete(o.inodes, was.node)
	if was.state == slotPassthrough {
		o.release(in.backing)
	}
}

// of counts the descriptors of nodes for which match holds.
func (o *opens) of(match func(node uint64) bool) (cached, passed int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for node, in := range o.inodes {
		if match(node) {
			cached += in.cached
			passed += in.passed
		}
	}
	return cached, passed
}
