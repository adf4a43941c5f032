package pods

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// sigKill cannot be caught.
const sigKill = 9

// signals of Linux (signal(7), the numbers of x86 and arm), by name.
var signals = map[string]uint32{
	"SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGILL": 4, "SIGTRAP": 5, "SIGABRT": 6, "SIGIOT": 6, "SIGBUS": 7, "SIGFPE": 8, "SIGKILL": sigKill,
	"SIGUSR1": 10, "SIGSEGV": 11, "SIGUSR2": 12, "SIGPIPE": 13, "SIGALRM": 14, "SIGTERM": 15, "SIGSTKFLT": 16, "SIGCHLD": 17, "SIGCLD": 17,
	"SIGCONT": 18, "SIGSTOP": 19, "SIGTSTP": 20, "SIGTTIN": 21, "SIGTTOU": 22, "SIGURG": 23, "SIGXCPU": 24, "SIGXFSZ": 25, "SIGVTALRM": 26,
	"SIGPROF": 27, "SIGWINCH": 28, "SIGIO": 29, "SIGPOLL": 29, "SIGPWR": 30, "SIGSYS": 31,
}

// The real-time signals that programs may use.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// signalNumber reads SIGTERM, SIGRTMIN+3, SIGRTMAX-2 or a number.
func signalNumber(name string) (uint32, error) {
	if n, ok := signals[name]; ok {
		return n, nil
	}
	n, err := strconv.Atoi(name)
	for _, from := range []struct {
		name string
		base int
	}{{"SIGRTMIN", sigRTMin}, {"SIGRTMAX", sigRTMax}} {
		if rest, ok := strings.CutPrefix(name, from.name); ok {
			n, err = 0, nil
			if rest != "" {
				n, err = strconv.Atoi(rest)
			}
			if n += from.base; n < sigRTMin {
				n = 0
			}
		}
	}
	if err != nil || n < 1 || n > sigRTMax {
		return 0, fmt.Errorf("there is no signal %.50q: %w", name, errdefs.ErrInvalidArgument)
	}
	return uint32(n), nil
}
