package seccomp

import (
	"encoding/binary"
	"fmt"
)

// A call is what the kernel shows a filter: struct seccomp_data, without the instruction pointer.
type call struct {
	number, audit uint32
	args          [6]uint64
}

// run does what the kernel does with a program: it returns what the filter says to a call. It fails where the kernel would
// refuse to load the program, as far as that shows on the way.
func run(program []instruction, c call, big bool) (uint32, error) {
	var order binary.ByteOrder = binary.LittleEndian
	if big {
		order = binary.BigEndian
	}
	var data [64]byte
	order.PutUint32(data[0:], c.number)
	order.PutUint32(data[4:], c.audit)
	for i, v := range c.args {
		order.PutUint64(data[16+8*i:], v)
	}
	var acc uint32
	for pc := 0; pc < len(program); pc++ {
		i := program[pc]
		test := false
		switch i.code {
		case opLoad:
			if i.k%4 != 0 || i.k > 60 {
				return 0, fmt.Errorf("instruction %d loads at %d", pc, i.k)
			}
			acc = order.Uint32(data[i.k:])
			continue
		case opAnd:
			acc &= i.k
			continue
		case opRet:
			return i.k, nil
		case opJump:
			pc += int(i.k)
			continue
		case opEqual:
			test = acc == i.k
		case opAbove:
			test = acc > i.k
		case opFrom:
			test = acc >= i.k
		default:
			return 0, fmt.Errorf("instruction %d: code %#x", pc, i.code)
		}
		if test {
			pc += int(i.jt)
		} else {
			pc += int(i.jf)
		}
	}
	return 0, fmt.Errorf("the program of %d instructions does not end in a return", len(program))
}
