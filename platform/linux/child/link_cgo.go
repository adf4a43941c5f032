//go:build linux && cgo

package child

// #cgo CFLAGS: -Wall
// #include "starter.h"
import "C"

import "unsafe"

// linked says whether starter.c is part of this program.
const linked = true

// None of these compiles where starter.h has it otherwise.
var (
	_ [0]int = [C.sizeof_struct_step - unsafe.Sizeof(Step{})]int{}
	_ [0]int = [C.sizeof_struct_request - unsafe.Sizeof(request{})]int{}
	_ [0]int = [C.sizeof_struct_header - unsafe.Sizeof(header{})]int{}
	_ [0]int = [C.WORDS_AT - wordsAt]int{}
	_ [0]int = [C.TEXT_AT - textAt]int{}
	_ [0]int = [C.PROGRAM - socket]int{}
	_ [0]int = [C.MAX_DESCRIPTORS - maxDescriptors]int{}
	_ [0]int = [C.HANDLERS - len(Step{}.on)]int{}
	_ [0]int = [C.ANY_ERROR - AnyError]int{}
	_ [0]int = [C.FAILED - failed]int{}
	_ [0]int = [C.KIND_SET - set]int{}
	_ [0]int = [C.KIND_CHECK - check]int{}
	_ [0]int = [C.KIND_FAIL - fail]int{}
)
