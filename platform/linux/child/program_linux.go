package child

import (
	"fmt"
	"math"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Program is a list of steps, each a system call or a test of the child's memory, with what to do when it fails. Steps
// follow one another unless they jump to a label. All that they name is in the program: it is written for the addresses that its
// parts will have in the child.
type Program struct {
	buffers
	ours   *os.File
	theirs *os.File
	words  int
	files  []*os.File // that the child keeps, from descriptor socket on
}

// buffers are what programs of containers have most of. The next program uses those of one that is closed.
type buffers struct {
	steps  []Step
	whats  []string // of the steps
	labels []int32  // where each is placed
	text   []byte   // strings and other data
	sent   []byte   // header, steps and text as the child gets them
}

var used = sync.Pool{New: func() any {
	return &buffers{steps: make([]Step, 0, 640), whats: make([]string, 0, 640), text: make([]byte, 0, 32<<10), sent: make([]byte, 0, 96<<10)}
}}

// Where the parts of a program are in a child (starter.h), and with that how long they may be.
const (
	stepsAt = 0x1000000000
	wordsAt = 0x1010000000
	textAt  = 0x1020000000
)

// socket is the child's descriptor of the socket to this process.
const socket = 4

// A Word is 64 bits of the child's memory, as argument: its value.
type Word int

// At, as an argument, is the address of a Word.
type At Word

// A Label is a place to jump to.
type Label int32

// A Step can be told more about by its methods until the next is added. (starter.h: struct step.)
type Step struct {
	number uint64
	args   [6]uint64
	into   int32 // word for the result
	next   Label // after success
	on     [3]handler
	kind   kind
	words  uint8 // bit i: args[i] is an index into memory and stands for what is there
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

// failed is no error of the kernel's.
const failed = syscall.Errno(math.MaxInt32)

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
	p := &Program{buffers: *used.Get().(*buffers), theirs: os.NewFile(uintptr(pair[1]), "child")}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		p.theirs.Close()
		return nil, err
	}
	p.ours = os.NewFile(uintptr(pair[0]), "child")
	p.Keep(p.theirs)
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
	clear(b.whats)
	b.steps, b.whats, b.labels, b.text, b.sent = b.steps[:0], b.whats[:0], b.labels[:0], b.text[:0], b.sent[:0]
	if cap(b.sent) <= maxKept {
		used.Put(&b)
	}
}

// maxKept bounds what one large program leaves for the next.
const maxKept = 1 << 20

// Keep gives file to the child, and answers the descriptor that it is there. The caller keeps it open until the child has started.
func (p *Program) Keep(file *os.File) int {
	p.files = append(p.files, file)
	return socket + len(p.files) - 1
}

// Words makes n words of memory that are zero, and answers the first.
func (p *Program) Words(n int) Word {
	w := Word(p.words)
	p.words += n
	return w
}

// Label makes a label. Place it.
func (p *Program) Label() Label {
	p.labels = append(p.labels, math.MaxInt32)
	return Label(len(p.labels) - 1)
}

// Place puts l before the next step.
func (p *Program) Place(l Label) { p.labels[l] = int32(len(p.steps)) }

// Call adds a system call. An argument is an int, a uintptr, a Word, an At, or a string (its address, with a zero byte after it).
func (p *Program) Call(what string, number uintptr, args ...any) *Step {
	p.whats = append(p.whats, what)
	p.steps = append(p.steps, Step{number: uint64(number), into: nowhere, next: following})
	s := &p.steps[len(p.steps)-1]
	for i, a := range args {
		switch a := a.(type) {
		case int:
			s.args[i] = uint64(a)
		case uintptr:
			s.args[i] = uint64(a)
		case Word:
			s.args[i] = uint64(a)
			s.words |= 1 << i
		case At:
			s.args[i] = wordsAt + 8*uint64(a)
		case string:
			s.args[i] = uint64(p.String(a))
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

// String answers the address of s with a zero byte behind. It must not hold a zero byte itself.
func (p *Program) String(s string) uintptr {
	at := textAt + uintptr(len(p.text))
	p.text = append(append(p.text, s...), 0)
	return at
}

// Data answers the address of a copy of v, which holds no pointer but those that other methods answered, as uintptr.
func Data[T any](p *Program, v ...T) uintptr {
	p.text = append(p.text, make([]byte, -len(p.text)&7)...)
	at := textAt + uintptr(len(p.text))
	if len(v) > 0 {
		p.text = append(p.text, bytesOf(v)...)
	}
	return at
}

func bytesOf[T any](v []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(*new(T))))
}

// Strings answers the address of a list as execve(2) takes it.
func (p *Program) Strings(list []string) uintptr {
	addresses := make([]uintptr, len(list)+1)
	for i, s := range list {
		addresses[i] = p.String(s)
	}
	return Data(p, addresses...)
}

// Wait has the child wait for Process.Continue, and fail when this process is gone instead.
func (p *Program) Wait() {
	got := p.Words(2)
	p.Call("hear from the parent", unix.SYS_READ, socket, At(got), 8).Into(got + 1)
	p.Check("go on without the parent", got+1, math.MaxUint64, 8)
}

// given is what a child says with a descriptor. It is neither ready nor a failure: no step has that number.
const given = math.MaxUint64 - 1

// Give hands the descriptor in w to this process (unix(7), SCM_RIGHTS): see Process.Given.
func (p *Program) Give(what string, w Word) {
	rights, message := p.Words(3), p.Words(7)
	p.Set(rights, unix.SizeofCmsghdr+4) // struct cmsghdr, whose length leaves out the padding
	p.Set(rights+1, unix.SOL_SOCKET|unix.SCM_RIGHTS<<32)
	p.Set(rights+2, w)
	p.Set(message+2, Data(p, Data(p, uint64(given)), 8)) // struct msghdr, with a struct iovec
	p.Set(message+3, 1)
	p.Set(message+4, At(rights))
	p.Set(message+5, 24)
	p.Call(what, unix.SYS_SENDMSG, socket, At(message), unix.MSG_NOSIGNAL)
}

// Outline lists what the steps do that can fail, in order.
func (p *Program) Outline() []string {
	var all []string
	for _, what := range p.whats {
		if what != "" {
			all = append(all, what)
		}
	}
	return all
}

// ready is what a child says at the end of its program; a failure is the number of the step and, in the upper half, the error.
const ready = math.MaxUint64

// Ready tells Process.Ready, and closes the socket.
func (p *Program) Ready() {
	p.Call("tell the parent", unix.SYS_WRITE, socket, Data(p, uint64(ready)), 8)
	p.Call("close the socket", unix.SYS_CLOSE, socket)
}

// header is what comes before the steps and the text (starter.h).
type header struct{ steps, words, text uint64 }

// encode answers the program as the child hears it.
func (p *Program) encode() ([]byte, error) {
	if len(p.sent) > 0 {
		return p.sent, nil
	}
	for i := range p.steps {
		s := &p.steps[i]
		s.next = p.resolve(s.next, i)
		for j := range s.on {
			if s.on[j].errno != 0 {
				s.on[j].to = p.resolve(s.on[j].to, i)
			}
		}
	}
	steps := bytesOf(p.steps)
	if len(steps) >= wordsAt-stepsAt || p.words*8 >= textAt-wordsAt || len(p.text) >= maxText {
		return nil, unix.E2BIG
	}
	p.sent = append(p.sent, bytesOf([]header{{steps: uint64(len(p.steps)), words: uint64(p.words), text: uint64(len(p.text))}})...)
	p.sent = append(append(p.sent, steps...), p.text...)
	return p.sent, nil
}

// maxText is more than any execve(2) takes.
const maxText = 64 << 20

func (p *Program) resolve(l Label, i int) Label {
	if l == following {
		return Label(i + 1)
	}
	return Label(p.labels[l])
}
