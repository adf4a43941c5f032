package server

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Session is what must outlive a server for the mount to live on: the exchange of INIT, which the kernel sends but once,
// and which files are open in which way. It lies in a memory file that the keeper holds, one for each mount, so it lives
// exactly as long as the kernel's side. What a server stores is there for the next one, at whatever instruction it is
// killed.
//
// Layout: a sessionHeader in the first tableOffset bytes, then tableSlots openSlots.
type Session struct {
	mem    []byte
	header *sessionHeader
	slots  []openSlot

	mu   sync.Mutex
	next int   // slots from here on were never used
	free []int // slots below next that are not in use
}

const (
	sessionMagic = 0x534c495046555331
	initSize     = 4096
	tableOffset  = 64 << 10
	tableSlots   = 1 << 20
	sessionSize  = tableOffset + tableSlots*int(unsafe.Sizeof(openSlot{}))
)

type sessionHeader struct {
	magic                uint64
	requestLen, replyLen uint32 // written last: what they count is whole
	request, reply       [initSize]byte
}

// How a file is open. The kernel wants all descriptors of an inode to be of one kind.
const (
	slotFree uint32 = iota
	slotCached
	slotPassthrough
)

// openSlot is one open file. State is written last when it is filled and first when it is freed.
type openSlot struct {
	state      uint32
	generation uint32
	node       uint64
	unique     uint64 // of the request that opened it
	backing    int32  // the kernel's id of the backing file
	_          int32
}

// NewSession makes an empty session's memory file.
func NewSession() (*os.File, error) {
	fd, err := unix.MemfdCreate("slipway-fuse-session", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make the memory file for a FUSE session: %w", err)
	}
	f := os.NewFile(uintptr(fd), "slipway-fuse-session")
	if err := f.Truncate(int64(sessionSize)); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot size the memory file for a FUSE session: %w", err)
	}
	return f, nil
}

// OpenSession maps a session that NewSession made, in this process or another.
func OpenSession(f *os.File) (*Session, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read the FUSE session: %w", err)
	}
	if st.Size() != int64(sessionSize) {
		return nil, fmt.Errorf("cannot use a FUSE session of %d bytes, want %d: start the keeper anew: %w", st.Size(), sessionSize, errdefs.ErrFailedPrecondition)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, sessionSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map the FUSE session: %w", err)
	}
	s := &Session{mem: mem, header: (*sessionHeader)(unsafe.Pointer(&mem[0]))}
	s.slots = unsafe.Slice((*openSlot)(unsafe.Pointer(&mem[tableOffset])), tableSlots)
	switch s.header.magic {
	case 0:
		s.header.magic = sessionMagic
	case sessionMagic:
	default:
		return nil, fmt.Errorf("cannot use this FUSE session, another version made it: %w", errdefs.ErrFailedPrecondition)
	}
	s.scan()
	return s, nil
}

// scan finds the free slots. A slot's generation is 0 until its first use and slots are used in order.
func (s *Session) scan() {
	for s.next < len(s.slots) && s.slots[s.next].generation != 0 {
		if s.slots[s.next].state == slotFree {
			s.free = append(s.free, s.next)
		}
		s.next++
	}
}

// Close unmaps the session; the memory file stays.
func (s *Session) Close() error { return unix.Munmap(s.mem) }

// initExchange answers the saved INIT request and the flags of the reply that was agreed on, 0 before there is one.
func (s *Session) initExchange() (request []byte, flags uint64) {
	h := s.header
	request = h.request[:min(atomic.LoadUint32(&h.requestLen), initSize)]
	if atomic.LoadUint32(&h.replyLen) >= initReplyFlags2+4 {
		flags = uint64(binary.NativeEndian.Uint32(h.reply[initReplyFlags:])) |
			uint64(binary.NativeEndian.Uint32(h.reply[initReplyFlags2:]))<<32
	}
	return request, flags
}

func (s *Session) saveInitRequest(p []byte) {
	n := copy(s.header.request[:], p)
	atomic.StoreUint32(&s.header.requestLen, uint32(n))
}

func (s *Session) saveInitReply(p []byte) {
	n := copy(s.header.reply[:], p)
	atomic.StoreUint32(&s.header.replyLen, uint32(n))
}

// add notes an open file and answers its handle. A handle is never used twice, so that a release which is asked for
// again, after a take-over, hits no file that was opened since.
func (s *Session) add(node, unique uint64, state uint32, backing int32) (handle uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var i int
	if last := len(s.free) - 1; last >= 0 {
		i, s.free = s.free[last], s.free[:last]
	} else if s.next < len(s.slots) {
		i = s.next
		s.next++
	} else {
		return 0, fmt.Errorf("%d files are open: %w", len(s.slots), unix.ENFILE)
	}
	slot := &s.slots[i]
	slot.generation++
	if slot.generation == 0 { // wrapped; 0 means never used
		slot.generation = 1
	}
	slot.node, slot.unique, slot.backing = node, unique, backing
	atomic.StoreUint32(&slot.state, state)
	return handleOf(i, slot.generation), nil
}

// remove forgets an open file; false when the handle is of none.
func (s *Session) remove(handle uint64) (was openSlot, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := int(uint32(handle))
	if i >= s.next {
		return openSlot{}, false
	}
	slot := &s.slots[i]
	if slot.state == slotFree || slot.generation != uint32(handle>>32) {
		return openSlot{}, false
	}
	was = *slot
	atomic.StoreUint32(&slot.state, slotFree)
	s.free = append(s.free, i)
	return was, true
}

// each calls f for each open file, when a server takes over.
func (s *Session) each(f func(handle uint64, o openSlot)) {
	for i := range s.slots[:s.next] {
		if o := s.slots[i]; o.state != slotFree {
			f(handleOf(i, o.generation), o)
		}
	}
}

func handleOf(i int, generation uint32) uint64 { return uint64(generation)<<32 | uint64(i) }
