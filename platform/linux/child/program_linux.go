package child

import (
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Program is a list of steps, each a system call or a test of the child's memory, with what to do when it fails. Steps
// follow one another unless they jump to a label. All memory they name is kept by the Program; none of it may be changed
// before Start has returned.
type Program struct {
	buffers
	ours   *os.File
	theirs *os.File
	socket int // theirs
	linked bool
}

// buffers are what programs of containers have most of. The next program uses those of one that is closed.
type buffers struct {
	steps  []Step
	memory []uint64
	labels []int32          // where each is placed
	text   []byte           // strings; it never moves
	keep   []unsafe.Pointer // what else steps have addresses of
	fds    []int            // descriptors that the child must not close
}

var used = sync.Pool{New: func() any {
	return &buffers{steps: make([]Step, 0, 640), memory: make([]uint64, 0, 2048), text: make([]byte, 0, 32<<10), keep: make([]unsafe.Pointer, 0, 128)}
}}

// A Word is 64 bits of the child's memory, as argument: its value.
type Word int

// At, as an argument, is the address of a Word.
type At Word

// A Label is a place to jump to.
type Label int32

// A Step can be told more about by its methods until the next is added.
type Step struct {
	what   string // for errors: "cannot WHAT", or all of a Fail
	kind   kind
	words  uint8 // bit i: args[i] is an index into memory and stands for what is there
	at     uint8 // bit i: args[i] is an index into memory and stands for where it is
	number uintptr
	args   [6]uintptr
	into   int32 // word for the result
	next   Label // after success
	on     [3]handler
}

type handler struct {
	errno int32
	to    Label
}

type kind uint8

const (
	call kind = iota
	set
	check
	fail
)

const (
	following Label = -1 // the next step
	nowhere   int32 = -1
	// AnyError stands for each error without a handler before it.
	AnyError = syscall.Errno(math.MaxInt32 - 1)
)

// New makes a program, and a socket between this process and the child. Close it.
func New() (*Program, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a socket: %w", err)
	}
	p := &Program{buffers: *used.Get().(*buffers)}
	p.theirs, p.socket = os.NewFile(uintptr(pair[1]), "child"), pair[1]
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		p.theirs.Close()
		return nil, err
	}
	p.ours = os.NewFile(uintptr(pair[0]), "child")
	p.Keep(pair[1])
	p.Words(1) // where a failure is told from
	return p, nil
}

// Close frees the socket and the program's memory. A child that waits for us then fails.
func (p *Program) Close() {
	p.ours.Close()
	p.theirs.Close()
	if p.steps == nil {
		return
	}
	b := p.buffers
	p.buffers = buffers{}
	clear(b.steps)
	clear(b.keep)
	b.steps, b.memory, b.labels, b.text, b.keep, b.fds = b.steps[:0], b.memory[:0], b.labels[:0], b.text[:0], b.keep[:0], b.fds[:0]
	used.Put(&b)
}

// Socket is the child's end, for its arguments.
func (p *Program) Socket() int { return p.socket }

// Keep leaves descriptor fd open in the child, which closes all others that it does not have as standard streams.
func (p *Program) Keep(fd int) { p.fds = append(p.fds, fd) }

// Words makes n words of memory that are zero, and answers the first.
func (p *Program) Words(n int) Word {
	w := Word(len(p.memory))
	p.memory = slices.Grow(p.memory, n)[:len(p.memory)+n]
	clear(p.memory[w:])
	return w
}

// Label makes a label. Place it.
func (p *Program) Label() Label {
	p.labels = append(p.labels, math.MaxInt32)
	return Label(len(p.labels) - 1)
}

// Place puts l before the next step.
func (p *Program) Place(l Label) { p.labels[l] = int32(len(p.steps)) }

// Call adds a system call. An argument is an int, a uintptr, a Word, an At, a string (its address, with a zero byte after it)
// or an unsafe.Pointer.
func (p *Program) Call(what string, number uintptr, args ...any) *Step {
	p.steps = append(p.steps, Step{what: what, number: number, into: nowhere, next: following})
	s := &p.steps[len(p.steps)-1]
	for i, a := range args {
		switch a := a.(type) {
		case int:
			s.args[i] = uintptr(a)
		case uintptr:
			s.args[i] = a
		case Word:
			s.args[i] = uintptr(a)
			s.words |= 1 << i
		case At:
			s.args[i] = uintptr(a)
			s.at |= 1 << i
		case string:
			s.args[i] = uintptr(p.String(a))
		case unsafe.Pointer:
			p.keep = append(p.keep, a)
			s.args[i] = uintptr(a)
		default:
			panic(fmt.Sprintf("a %T is no argument of a system call", a)) // a mistake of the caller that every run shows
		}
	}
	return s
}

// Set puts value, an argument as of Call, into w.
func (p *Program) Set(w Word, value any) *Step {
	s := p.Call("", 0, value).Into(w)
	s.kind = set
	return s
}

// Check fails with EINVAL unless the bits of w under mask are those of want.
func (p *Program) Check(what string, w Word, mask, want uint64) *Step {
	s := p.Call(what, 0, w, uintptr(mask), uintptr(want))
	s.kind = check
	return s
}

// Equal is Check of two words.
func (p *Program) Equal(what string, a, b Word) *Step {
	s := p.Call(what, 0, a, uintptr(math.MaxUint64), b)
	s.kind = check
	return s
}

// Fail ends the child with this error.
func (p *Program) Fail(text string) { p.Call(text, 0).kind = fail }

// Jump goes to l.
func (p *Program) Jump(l Label) { p.Set(0, 0).Then(l) }

// Into stores the call's result.
func (s *Step) Into(w Word) *Step {
	s.into = int32(w)
	return s
}

// Then jumps after success.
func (s *Step) Then(l Label) *Step {
	s.next = l
	return s
}

// On jumps after that error. At most three for each step.
func (s *Step) On(errno syscall.Errno, l Label) *Step {
	for i := range s.on {
		if s.on[i].errno == 0 {
			s.on[i] = handler{int32(errno), l}
			return s
		}
	}
	panic("too many handlers of errors for one step")
}

// Ignore goes on with the next step after these errors.
func (s *Step) Ignore(errnos ...syscall.Errno) *Step {
	for _, e := range errnos {
		s.On(e, following)
	}
	return s
}

// String answers the address of s with a zero byte behind, kept with the program. It must not hold a zero byte itself.
func (p *Program) String(s string) unsafe.Pointer {
	if cap(p.text)-len(p.text) <= len(s) {
		if cap(p.text) > 0 {
			p.keep = append(p.keep, unsafe.Pointer(unsafe.SliceData(p.text)))
		}
		p.text = make([]byte, 0, max(cap(p.text), len(s)+1))
	}
	from := len(p.text)
	p.text = append(append(p.text, s...), 0)
	return unsafe.Pointer(&p.text[from])
}

// Strings answers the address of a list as execve(2) takes it.
func (p *Program) Strings(list []string) unsafe.Pointer {
	addresses := make([]unsafe.Pointer, len(list)+1)
	for i, s := range list {
		addresses[i] = p.String(s)
	}
	p.keep = append(p.keep, unsafe.Pointer(&addresses[0]))
	return unsafe.Pointer(&addresses[0])
}

// Wait has the child wait for Process.Continue, and fail when this process is gone instead.
func (p *Program) Wait() {
	got := p.Words(2)
	p.Call("hear from the parent", unix.SYS_READ, p.Socket(), At(got), 8).Into(got + 1)
	p.Check("go on without the parent", got+1, math.MaxUint64, 8)
}

// given is what a child says with a descriptor. It is neither ready nor a failure: no step has that number.
const given = math.MaxUint64 - 1

// Give hands the descriptor in w to this process (unix(7), SCM_RIGHTS): see Process.Given.
func (p *Program) Give(what string, w Word) {
	word, data, rights, message := p.Words(1), p.Words(2), p.Words(3), p.Words(7)
	p.memory[word] = given
	p.Set(data, At(word)) // struct iovec
	p.memory[data+1] = 8
	p.memory[rights] = unix.SizeofCmsghdr + 4 // struct cmsghdr, whose length leaves out the padding
	p.memory[rights+1] = unix.SOL_SOCKET | unix.SCM_RIGHTS<<32
	p.Set(rights+2, w)
	p.Set(message+2, At(data)) // struct msghdr
	p.memory[message+3] = 1
	p.Set(message+4, At(rights))
	p.memory[message+5] = 24
	p.Call(what, unix.SYS_SENDMSG, p.Socket(), At(message), unix.MSG_NOSIGNAL)
}

// Outline lists what the steps do that can fail, in order.
func (p *Program) Outline() []string {
	var all []string
	for i := range p.steps {
		if what := p.steps[i].what; what != "" {
			all = append(all, what)
		}
	}
	return all
}

// Ready tells Process.Ready, and closes the socket.
func (p *Program) Ready() {
	word := p.Words(1)
	p.memory[word] = ready
	p.Call("tell the parent", unix.SYS_WRITE, p.Socket(), At(word), 8)
	p.Call("close the socket", unix.SYS_CLOSE, p.Socket())
}

// link resolves labels and addresses.
func (p *Program) link() {
	if p.linked {
		return
	}
	p.linked = true
	for i := range p.steps {
		s := &p.steps[i]
		for j := range s.args {
			if s.at>>j&1 != 0 {
				s.args[j] = uintptr(unsafe.Pointer(&p.memory[s.args[j]]))
			}
		}
		s.next = p.resolve(s.next, i)
		for j := range s.on {
			if s.on[j].errno != 0 {
				s.on[j].to = p.resolve(s.on[j].to, i)
			}
		}
	}
	slices.Sort(p.fds)
}

func (p *Program) resolve(l Label, i int) Label {
	if l == following {
		return Label(i + 1)
	}
	return Label(p.labels[l])
}
