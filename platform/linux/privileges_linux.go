package linux

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// privileges are what this process may give to containers. An executor without CAP_SYS_RESOURCE can neither raise a
// resource limit above its own nor lower oom_score_adj below its own; specs made for a whole host ask for both. It then
// gives what it has and says so in the log, for the container is no less safe, only less favoured.
type privileges struct {
	raise       bool // has CAP_SYS_RESOURCE
	oomScoreAdj int  // the lowest it may set without
}

func ownPrivileges() privileges {
	p := privileges{raise: true}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return p
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			p.raise = err != nil || caps&(1<<unix.CAP_SYS_RESOURCE) != 0
		}
	}
	if adj, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
		p.oomScoreAdj, _ = strconv.Atoi(string(bytes.TrimSpace(adj)))
	}
	return p
}

// fit lowers what s asks for to what may be given, in place.
func (p privileges) fit(s *specs.Process, log *slog.Logger) {
	if p.raise {
		return
	}
	if s.OOMScoreAdj != nil && *s.OOMScoreAdj < p.oomScoreAdj {
		log.Warn("cannot lower oom_score_adj without CAP_SYS_RESOURCE: using our own", "wanted", *s.OOMScoreAdj, "given", p.oomScoreAdj)
		*s.OOMScoreAdj = p.oomScoreAdj
	}
	for i := range s.Rlimits {
		wanted := &s.Rlimits[i]
		kind, err := rlimitKind(wanted.Type)
		var have unix.Rlimit
		if err != nil || unix.Getrlimit(kind, &have) != nil || wanted.Hard <= have.Max {
			continue
		}
		log.Warn("cannot raise a resource limit without CAP_SYS_RESOURCE: using our own", "limit", wanted.Type, "wanted", wanted.Hard, "given", have.Max)
		wanted.Hard = have.Max
		wanted.Soft = min(wanted.Soft, have.Max)
	}
}

// rlimitKinds are the names of POSIX process resource limits in runtime-spec config.md ("rlimits") and their numbers.
var rlimitKinds = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

func rlimitKind(name string) (int, error) {
	kind, ok := rlimitKinds[name]
	if !ok {
		return 0, fmt.Errorf("unknown resource limit %q", name)
	}
	return kind, nil
}
