// Package seccomp compiles seccomp filters, in Go alone, behind the API of github.com/seccomp/libseccomp-golang.
//
// It stands in for that module (go.mod has a replace line) because libcontainer, which every start of a container runs,
// builds its filter with it, and the C library behind it takes 25 ms of processor time for Docker's default profile. This
// takes less than one, and gives a third of the instructions.
//
// It has what libcontainer uses: filters for the architectures that runc knows, rules with and without conditions, flags,
// ExportBPF. It does not load filters and does not read notifications (libcontainer does so itself), nor merge filters,
// write PFC or know priorities; what is missing is missing at compile time.
//
// What a filter does is what libseccomp 2.5's does, and the tests hold one against the other wherever the C library is
// installed, but for:
//   - Rules of different actions with conditions that match the same call: the strictest decides, in the order that
//     seccomp(2) gives actions. libseccomp's choice depends on its inner trees. Ours is never more lenient.
//   - Where libseccomp 2.5 makes wrong programs (it can forget to load the call's number, and confuses two 64-bit less-than
//     comparisons of one argument), these are right.
//   - System calls newer than the C library's are known here: see internal/tables for where numbers come from.
//
// A program tests the architecture, then searches the call's number in a binary tree whose leaves are runs of numbers with
// the same fate, then tests arguments. It is written from its end to its start, as all jumps go forward.
//
// Written from seccomp(2), seccomp_rule_add(3) and the kernel's Documentation/userspace-api/seccomp_filter.rst. The package
// keeps no state outside the filter but the kernel's API level, which it asks for once.
package seccomp
