package seccomp

import "slices"

// A rule is an action for calls of a number whose arguments meet all conditions.
type rule struct {
	number int32
	action uint32 // SECCOMP_RET_*
	conds  []ScmpCondition
}

// A section is the part of a filter for one architecture.
type section struct {
	*abi
	rules []rule
}

// compile puts the program of a whole filter: it goes to the section of the call's architecture.
func compile(sections []section, unmatched, badArch uint32) ([]instruction, error) {
	a := newAssembler()
	start := a.ret(badArch)
	var amd64, x32 *section
	for i := len(sections) - 1; i >= 0; i-- {
		switch s := &sections[i]; s.arch {
		case ArchAMD64:
			amd64 = s
		case ArchX32:
			x32 = s
		default:
			start = a.section(s.audit, a.load(offNumber, a.numbers(s, unmatched)), start)
		}
	}
	if amd64 != nil || x32 != nil {
		start = a.section(auditAMD64, a.load(offNumber, a.amd64(amd64, x32, unmatched, badArch)), start)
	}
	a.load(offArch, start)
	return a.program()
}

// section puts the test for an architecture. The accumulator holds the call's.
func (a *assembler) section(audit uint32, body, next label) label {
	return a.branch(opEqual, audit, body, next)
}

// amd64 puts the sections of the two ABIs that share an AUDIT_ARCH and are told apart by a bit of the number; the
// accumulator holds the number. One that is not in the filter is a bad architecture.
func (a *assembler) amd64(amd64, x32 *section, unmatched, badArch uint32) label {
	high, low := label(0), label(0)
	if x32 != nil {
		high = a.numbers(x32, unmatched)
	}
	if amd64 != nil {
		low = a.numbers(amd64, unmatched)
	}
	if low == 0 {
		low = a.ret(badArch)
	}
	if high == 0 { // -1 is no x32 call: a tracer put it there for the kernel to skip the call
		high = a.branch(opEqual, ^uint32(0), low, a.ret(badArch))
	}
	return a.branch(opFrom, x32Bit, high, low)
}

// A span is a run of numbers, from its first to that of the next span, with one fate.
type span struct {
	first uint32
	fate  label // of what decides
	ret   uint32
	rules []rule // else: in this order, and unmatched if none matches
}

// numbers puts a section's decision by the call's number, which the accumulator holds.
func (a *assembler) numbers(s *section, unmatched uint32) label {
	spans := s.spans(unmatched)
	for i := range spans {
		if len(spans[i].rules) > 0 {
			spans[i].fate = a.conditional(s.abi, spans[i].rules, unmatched)
		}
	}
	return a.search(spans)
}

// search puts a binary search for the span of the number in the accumulator.
func (a *assembler) search(spans []span) label {
	if len(spans) == 1 {
		if s := spans[0]; len(s.rules) == 0 {
			return a.ret(s.ret)
		}
		return spans[0].fate
	}
	mid := len(spans) / 2
	high := a.search(spans[mid:])
	low := a.search(spans[:mid])
	return a.branch(opFrom, spans[mid].first, high, low)
}

// spans divides all numbers by what happens to them.
func (s *section) spans(unmatched uint32) []span {
	rules := s.sorted()
	spans := []span{{ret: unmatched}}
	add := func(n span) {
		last := &spans[len(spans)-1]
		switch {
		case last.first == n.first:
			*last = n
			if len(spans) == 1 {
				return
			}
			if before := spans[len(spans)-2]; len(before.rules)+len(n.rules) == 0 && before.ret == n.ret {
				spans = spans[:len(spans)-1]
			}
		case len(last.rules)+len(n.rules) > 0 || last.ret != n.ret:
			spans = append(spans, n)
		}
	}
	for len(rules) > 0 {
		n := rules[0].number
		same := 1
		for same < len(rules) && rules[same].number == n {
			same++
		}
		add(merge(rules[:same]))
		add(span{first: uint32(n) + 1, ret: unmatched})
		rules = rules[same:]
	}
	return spans
}

// sorted returns the rules by number, those of one number in the order in which they were added. It sorts words, not rules:
// this is most of the time that a large profile takes.
func (s *section) sorted() []rule {
	keys := make([]uint64, len(s.rules))
	for i, r := range s.rules {
		keys[i] = uint64(r.number)<<32 | uint64(i)
	}
	slices.Sort(keys)
	rules := make([]rule, len(keys))
	for i, k := range keys {
		rules[i] = s.rules[uint32(k)]
	}
	return rules
}
