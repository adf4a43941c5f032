package server

import (
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
	"golang.org/x/sys/unix"
)

// generation of all nodes: a node id is never used for another file.
const generation = 1

// fileSystem answers requests. What it does not implement is ENOSYS, and the kernel asks no more: opening directories,
// flushing, seeking for holes and access(2), all of which it can do by itself.
type fileSystem struct {
	fuse.RawFileSystem
	layers *layers
	opens  *opens
	log    *slog.Logger

	backing   func(l Layer, node int, size int64) (int32, bool) // registers a backing file, if there is one
	requests  atomic.Int64                                      // all but reads
	panicking atomic.Int64
}

func (f *fileSystem) String() string { return "slipway" }

// node finds inode id in its layer. The caller says a.users.Done().
func (f *fileSystem) node(cancel <-chan struct{}, id uint64) (a *attached, l Layer, n index.Node, number int, status fuse.Status) {
	f.requests.Add(1)
	slot, number := splitID(id)
	a, l, err := f.layers.use(slot)
	if err != nil {
		return nil, nil, n, 0, f.status(err)
	}
	if status := f.await(cancel, a, l, number); !status.Ok() {
		a.users.Done()
		return nil, nil, n, 0, status
	}
	if number >= l.Len() {
		a.users.Done()
		return nil, nil, n, 0, fuse.Status(unix.ESTALE)
	}
	return a, l, l.Node(number), number, fuse.OK
}

// status is what a program sees of an error. A layer that is gone is ESTALE.
func (f *fileSystem) status(err error) fuse.Status {
	if errors.Is(err, errdefs.ErrNotFound) {
		return fuse.Status(unix.ESTALE)
	}
	f.log.Error("a request to a lazy layer failed", "error", err)
	return fuse.EIO
}

func (f *fileSystem) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId == fuse.FUSE_ROOT_ID {
		return f.lookupLayer(cancel, name, out)
	}
	a, l, n, dir, status := f.node(cancel, h.NodeId)
	if !status.Ok() {
		return status
	}
	defer a.users.Done()
	if !n.Mode.IsDir() {
		return fuse.ENOTDIR
	}
	if len(name) > 255 {
		return fuse.Status(unix.ENAMETOOLONG)
	}
	i, ok, status := f.find(cancel, a, l, dir, name)
	if !status.Ok() {
		return status
	}
	if !ok {
		*out = fuse.EntryOut{EntryValid: forever} // node id 0: the kernel remembers that there is none
		return fuse.OK
	}
	return f.entry(l, a.slot, i, out)
}

// lookupLayer finds an attached layer. The kernel may not remember the answer: layers come and go.
func (f *fileSystem) lookupLayer(cancel <-chan struct{}, name string, out *fuse.EntryOut) fuse.Status {
	a := f.layers.find(name)
	if a == nil {
		return fuse.ENOENT
	}
	b, l, err := f.layers.use(a.slot)
	if err != nil {
		return f.status(err)
	}
	defer b.users.Done()
	status := f.await(cancel, b, l, 0)
	if status.Ok() {
		status = f.entry(l, b.slot, 0, out)
		out.EntryValid = 0
	}
	return status
}

func (f *fileSystem) entry(l Layer, slot uint32, i int, out *fuse.EntryOut) fuse.Status {
	n := l.Node(i)
	out.NodeId, out.Generation = nodeID(slot, i), generation
	out.EntryValid, out.AttrValid = valid(l), valid(l)
	fillAttr(&out.Attr, out.NodeId, &n)
	return fuse.OK
}

func (f *fileSystem) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == fuse.FUSE_ROOT_ID {
		out.AttrValid = forever
		rootAttr(&out.Attr)
		return fuse.OK
	}
	a, l, n, _, status := f.node(cancel, in.NodeId)
	if !status.Ok() {
		return status
	}
	defer a.users.Done()
	out.AttrValid = valid(l)
	fillAttr(&out.Attr, in.NodeId, &n)
	return fuse.OK
}

func (f *fileSystem) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	a, _, n, _, status := f.node(cancel, h.NodeId)
	if !status.Ok() {
		return nil, status
	}
	defer a.users.Done()
	if unixMode(n.Mode)&unix.S_IFMT != unix.S_IFLNK || len(n.Link) >= unix.PathMax {
		return nil, fuse.EINVAL
	}
	return []byte(n.Link), fuse.OK
}

func (f *fileSystem) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if h.NodeId == fuse.FUSE_ROOT_ID {
		return 0, fuse.ENOATTR
	}
	a, _, n, _, status := f.node(cancel, h.NodeId)
	if !status.Ok() {
		return 0, status
	}
	defer a.users.Done()
	value, ok := n.Xattrs[name]
	if !ok {
		return 0, fuse.ENOATTR
	}
	return answerXattr(dest, value)
}

func (f *fileSystem) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if h.NodeId == fuse.FUSE_ROOT_ID {
		return 0, fuse.OK
	}
	a, _, n, _, status := f.node(cancel, h.NodeId)
	if !status.Ok() {
		return 0, status
	}
	defer a.users.Done()
	var names strings.Builder
	for name := range n.Xattrs {
		names.WriteString(name)
		names.WriteByte(0)
	}
	return answerXattr(dest, names.String())
}

func answerXattr(dest []byte, value string) (uint32, fuse.Status) {
	if len(value) > 64<<10 {
		return 0, fuse.Status(unix.E2BIG)
	}
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE // go-fuse: the size, for those who asked for it alone
	}
	return uint32(copy(dest, value)), fuse.OK
}

func (f *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, NameLen: 255}
	return fuse.OK
}

func (f *fileSystem) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

func (f *fileSystem) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(cancel, in, func(e fuse.DirEntry, _ func(*fuse.EntryOut)) bool { return out.AddDirEntry(e) })
}

func (f *fileSystem) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.readDir(cancel, in, func(e fuse.DirEntry, fill func(*fuse.EntryOut)) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if fill != nil {
			fill(entry)
		}
		return true
	})
}

// readDir lists a directory from in.Offset on. Offsets are places in the list, with "." and ".." first, so any server can go
// on where another one was. add is false when the buffer is full; fill is nil for the dots.
func (f *fileSystem) readDir(cancel <-chan struct{}, in *fuse.ReadIn, add func(e fuse.DirEntry, fill func(*fuse.EntryOut)) bool) fuse.Status {
	at := min(in.Offset, math.MaxInt32)
	for ; at < 2; at++ {
		if !add(fuse.DirEntry{Name: [...]string{".", ".."}[at], Mode: unix.S_IFDIR, Ino: in.NodeId, Off: at + 1}, nil) {
			return fuse.OK
		}
	}
	if in.NodeId == fuse.FUSE_ROOT_ID {
		for _, a := range f.layers.list() {
			// Slots only grow, so they are offsets that stay true while layers come and go.
			off := uint64(a.slot) + 2
			if off <= at {
				continue
			}
			if !add(fuse.DirEntry{Name: a.id, Mode: unix.S_IFDIR, Ino: nodeID(a.slot, 0), Off: off}, nil) {
				break
			}
		}
		return fuse.OK
	}
	a, l, n, dir, status := f.node(cancel, in.NodeId)
	if !status.Ok() {
		return status
	}
	defer a.users.Done()
	if !n.Mode.IsDir() {
		return fuse.ENOTDIR
	}
	if status := f.awaitAll(cancel, a, l); !status.Ok() {
		return status
	}
	for name, i := range l.ReadDir(dir, int(at-2)) {
		at++
		e := fuse.DirEntry{Name: name, Mode: unixMode(l.Node(i).Mode), Ino: nodeID(a.slot, i), Off: at}
		if !add(e, func(out *fuse.EntryOut) { f.entry(l, a.slot, i, out) }) {
			break
		}
	}
	return fuse.OK
}
