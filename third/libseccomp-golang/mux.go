package seccomp

import "iter"

// expand yields what a rule for the call names[name] becomes here: one rule for each number that the call has. A name below
// 0 stands for a call without one, and the rule stays as it is.
//
// Older 32-bit architectures and s390 have two multiplexers: socketcall(2), whose first argument is one of SYS_* of
// linux/net.h, and ipc(2), one of linux/ipc.h. Calls that can be made through them are matched there too, by that argument.
// The call's own arguments are in memory then, where no filter sees them; as libseccomp does, a condition on the first one
// is dropped there and others are taken to the multiplexer's.
func (s *section) expand(name int, r rule) iter.Seq[rule] {
	return func(yield func(rule) bool) {
		if name < 0 {
			yield(r)
			return
		}
		if n := s.numbers[name]; n >= 0 && !yield(rule{n, r.action, r.conds}) {
			return
		}
		through, sub := multiplexed(names[name])
		if sub == 0 {
			return
		}
		i, ok := find(through)
		if !ok || s.numbers[i] < 0 {
			return
		}
		conds := []ScmpCondition{{Argument: 0, Op: CompareEqual, Operand1: sub}}
		for _, c := range r.conds {
			if c.Argument > 0 {
				conds = append(conds, c)
			}
		}
		yield(rule{s.numbers[i], r.action, conds})
	}
}

// multiplexed returns the multiplexer that a call can go through and its number there, or 0.
func multiplexed(name string) (through string, sub uint64) {
	switch name {
	case "socket":
		return "socketcall", 1
	case "bind":
		return "socketcall", 2
	case "connect":
		return "socketcall", 3
	case "listen":
		return "socketcall", 4
	case "accept":
		return "socketcall", 5
	case "getsockname":
		return "socketcall", 6
	case "getpeername":
		return "socketcall", 7
	case "socketpair":
		return "socketcall", 8
	case "send":
		return "socketcall", 9
	case "recv":
		return "socketcall", 10
	case "sendto":
		return "socketcall", 11
	case "recvfrom":
		return "socketcall", 12
	case "shutdown":
		return "socketcall", 13
	case "setsockopt":
		return "socketcall", 14
	case "getsockopt":
		return "socketcall", 15
	case "sendmsg":
		return "socketcall", 16
	case "recvmsg":
		return "socketcall", 17
	case "accept4":
		return "socketcall", 18
	case "recvmmsg":
		return "socketcall", 19
	case "sendmmsg":
		return "socketcall", 20
	case "semop":
		return "ipc", 1
	case "semget":
		return "ipc", 2
	case "semctl":
		return "ipc", 3
	case "semtimedop":
		return "ipc", 4
	case "msgsnd":
		return "ipc", 11
	case "msgrcv":
		return "ipc", 12
	case "msgget":
		return "ipc", 13
	case "msgctl":
		return "ipc", 14
	case "shmat":
		return "ipc", 21
	case "shmdt":
		return "ipc", 22
	case "shmget":
		return "ipc", 23
	case "shmctl":
		return "ipc", 24
	}
	return "", 0
}
