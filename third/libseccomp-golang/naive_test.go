package seccomp

import "slices"

// matching returns the actions of all rules that match a call, in order, and whether one of them has no conditions there: the
// plain reading of a profile that programs are held against. It knows nothing of how they are made.
func (p profile) matching(c call) (actions []uint32, in, decided bool) {
	s := p.abiOf(c)
	if s == nil {
		return nil, false, false
	}
	for _, r := range p.rules {
		i, _ := find(r.name)
		ret, _ := r.action.ret()
		direct := s.numbers[i] >= 0 && uint32(s.numbers[i]) == c.number
		through, sub := multiplexed(r.name)
		m, _ := find(through)
		muxed := sub > 0 && s.numbers[m] >= 0 && uint32(s.numbers[m]) == c.number && holds(ScmpCondition{Op: CompareEqual, Operand1: sub}, c.args[0], s.wide)
		if !direct && !muxed {
			continue
		}
		if !slices.ContainsFunc(r.conds, func(cond ScmpCondition) bool {
			return (direct || cond.Argument > 0) && !holds(cond, c.args[cond.Argument], s.wide)
		}) {
			if len(r.conds) == 0 && direct {
				return []uint32{ret}, true, true
			}
			actions = append(actions, ret)
		}
	}
	return actions, true, false
}

// abiOf returns the ABI of a call if the profile has it.
func (p profile) abiOf(c call) *abi {
	archs := p.archs
	if !p.alone {
		archs = append([]ScmpArch{ArchAMD64}, archs...)
	}
	for _, a := range archs {
		s, _ := lookup(a)
		x32 := c.number&^(x32Bit-1) != 0
		if s.audit == c.audit && (s.audit != auditAMD64 || x32 == (a == ArchX32) || c.number == 0xffffffff) {
			return s
		}
	}
	return nil
}

func holds(c ScmpCondition, v uint64, wide bool) bool {
	a, b := c.Operand1, c.Operand2
	if !wide {
		v, a, b = v&0xffffffff, a&0xffffffff, b&0xffffffff
	}
	switch c.Op {
	case CompareNotEqual:
		return v != a
	case CompareLess:
		return v < a
	case CompareLessOrEqual:
		return v <= a
	case CompareEqual:
		return v == a
	case CompareGreaterEqual:
		return v >= a
	case CompareGreater:
		return v > a
	default:
		return v&a == b&a
	}
}

// naive returns what the filter of a profile must say to a call.
func (p profile) naive(c call) uint32 {
	actions, in, _ := p.matching(c)
	switch {
	case !in:
		return 0 // ActKillThread
	case len(actions) == 0:
		ret, _ := p.action.ret()
		return ret
	}
	return slices.MinFunc(actions, func(a, b uint32) int { return int(leniency(a)) - int(leniency(b)) })
}
