package seccomp

import (
	"cmp"
	"slices"
)

// contradicts says whether there is a rule with the same conditions, at least one, and another action.
func (s *section) contradicts(r rule) bool {
	return len(r.conds) > 0 && slices.ContainsFunc(s.rules, func(have rule) bool {
		return have.number == r.number && have.action != r.action && slices.Equal(have.conds, r.conds)
	})
}

// merge makes one decision of the rules for one number. As with libseccomp, a rule without conditions decides alone, the
// first if there are several. Of others that match a call the strictest decides, then the first; libseccomp's order there
// follows from how it lays out its trees.
func merge(rules []rule) span {
	n := span{first: uint32(rules[0].number)}
	for _, r := range rules {
		if len(r.conds) == 0 {
			n.ret = r.action
			return n
		}
	}
	n.rules = slices.Clone(rules)
	slices.SortStableFunc(n.rules, func(a, b rule) int { return cmp.Compare(leniency(a.action), leniency(b.action)) })
	return n
}

// leniency orders actions as the kernel does when several filters answer: by the upper half as a signed number, where the
// lowest wins (Documentation/userspace-api/seccomp_filter.rst).
func leniency(ret uint32) int32 { return int32(ret) >> 16 }

// conditional puts the rules for one number, tried in order.
func (a *assembler) conditional(s *abi, rules []rule, unmatched uint32) label {
	next := a.ret(unmatched)
	for _, r := range slices.Backward(rules) {
		yes := a.ret(r.action)
		for _, c := range slices.Backward(r.conds) {
			yes = a.condition(s, c, yes, next)
		}
		next = yes
	}
	return next
}

// condition puts the test of one argument and returns its start.
func (a *assembler) condition(s *abi, c ScmpCondition, yes, no label) label {
	switch c.Op {
	case CompareNotEqual, CompareLess, CompareLessOrEqual: // the opposites of equal, greater or equal, greater
		yes, no = no, yes
	}
	high, low := offArgs+8*uint32(c.Argument)+4, offArgs+8*uint32(c.Argument)
	if s.big {
		high, low = low, high
	}
	want, mask := c.Operand1, ^uint64(0)
	if c.Op == CompareMaskedEqual {
		want, mask = c.Operand2&c.Operand1, c.Operand1
	}
	switch c.Op {
	case CompareLess, CompareGreaterEqual, CompareLessOrEqual, CompareGreater:
		op := uint16(opFrom)
		if c.Op == CompareLessOrEqual || c.Op == CompareGreater {
			op = opAbove
		}
		start := a.load(low, a.branch(op, uint32(want), yes, no))
		if !s.wide {
			return start
		}
		start = a.branch(opEqual, uint32(want>>32), start, no)
		return a.load(high, a.branch(opAbove, uint32(want>>32), yes, start))
	default:
		start := a.equal(low, uint32(want), uint32(mask), yes, no)
		if !s.wide {
			return start
		}
		return a.equal(high, uint32(want>>32), uint32(mask>>32), start, no)
	}
}

// equal puts the test of a masked word of seccomp_data.
func (a *assembler) equal(offset, want, mask uint32, yes, no label) label {
	if mask == 0 {
		return yes
	}
	start := a.branch(opEqual, want, yes, no)
	if mask != ^uint32(0) {
		start = a.and(mask, start)
	}
	return a.load(offset, start)
}
