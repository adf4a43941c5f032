package seccomp

import "syscall"

// The instructions a filter is made of (linux/bpf_common.h).
const (
	opLoad  = 0x20 // BPF_LD | BPF_W | BPF_ABS
	opAnd   = 0x54 // BPF_ALU | BPF_AND | BPF_K
	opJump  = 0x05 // BPF_JMP | BPF_JA
	opEqual = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	opAbove = 0x25 // BPF_JMP | BPF_JGT | BPF_K
	opFrom  = 0x35 // BPF_JMP | BPF_JGE | BPF_K
	opRet   = 0x06 // BPF_RET | BPF_K

	maxInstructions = 4096 // BPF_MAXINSNS
	maxSkip         = 255  // what a conditional jump can skip
)

// Offsets in struct seccomp_data (linux/seccomp.h).
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// An instruction is a struct sock_filter.
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// A label is a place in a program: how many instructions there are from it to the end. The last has label 1.
type label int

// An assembler writes a program from its end to its start, so that every jump's target, which is always ahead, is known.
type assembler struct {
	reversed []instruction
	rets     map[uint32]label // the nearest instruction that returns this value
}

func newAssembler() *assembler { return &assembler{rets: map[uint32]label{}} }

func (a *assembler) put(i instruction) label {
	a.reversed = append(a.reversed, i)
	return label(len(a.reversed))
}

// skip is how many instructions lie between one that is put now and the target.
func (a *assembler) skip(to label) int { return len(a.reversed) - int(to) }

// ret returns the place of an instruction that returns value, near enough for the few conditional jumps put next.
func (a *assembler) ret(value uint32) label {
	if l, ok := a.rets[value]; ok && a.skip(l) < maxSkip-8 {
		return l
	}
	l := a.put(instruction{code: opRet, k: value})
	a.rets[value] = l
	return l
}

// near returns a place that goes on at the target and that a conditional jump can reach, with slack instructions between.
func (a *assembler) near(to label, slack int) label {
	if a.skip(to)+slack <= maxSkip {
		return to
	}
	if i := a.reversed[to-1]; i.code == opRet { // as short as the jump to it
		l := a.put(i)
		a.rets[i.k] = l
		return l
	}
	return a.put(instruction{code: opJump, k: uint32(a.skip(to))})
}

// branch puts a conditional jump on the accumulator.
func (a *assembler) branch(op uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	yes = a.near(yes, 1) // near(no) may put one more between
	no = a.near(no, 0)
	return a.put(instruction{code: op, k: k, jt: uint8(a.skip(yes)), jf: uint8(a.skip(no))})
}

// load puts the load of a word of seccomp_data, which goes on at next.
func (a *assembler) load(offset uint32, next label) label {
	a.follow(next)
	return a.put(instruction{code: opLoad, k: offset})
}

// and puts a mask on the accumulator, which goes on at next.
func (a *assembler) and(mask uint32, next label) label {
	a.follow(next)
	return a.put(instruction{code: opAnd, k: mask})
}

// follow makes what is put next fall through to the target.
func (a *assembler) follow(next label) {
	if a.skip(next) > 0 {
		a.near(next, maxSkip) // a jump or return of its own
	}
}

// program returns the instructions in order.
func (a *assembler) program() ([]instruction, error) {
	n := len(a.reversed)
	if n > maxInstructions {
		return nil, syscall.E2BIG
	}
	p := make([]instruction, n)
	for i, ins := range a.reversed {
		p[n-1-i] = ins
	}
	return p, nil
}
