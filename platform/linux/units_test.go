//go:build linux

package linux

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestZombieStatus(t *testing.T) {
	after := strings.Repeat(" 0", 48)
	for _, test := range []struct {
		stat string
		want unix.WaitStatus
		ok   bool
	}{
		{"7 (sh) Z" + after + " 9\n", 9, true},
		{"7 (a) Z 1 (b)) Z" + after + " 1792\n", 1792, true}, // a program may be called anything
		{"7 (sh) S" + after + " 9\n", 0, false},
		{"7 (sh) Z 1 2\n", 0, false},
		{"", 0, false},
	} {
		if got, ok := zombieStatus([]byte(test.stat)); got != test.want || ok != test.ok {
			t.Errorf("zombieStatus(%q) = %d, %v; want %d, %v", test.stat, got, ok, test.want, test.ok)
		}
	}
}

func FuzzZombieStatus(f *testing.F) {
	f.Add([]byte("7 (sh) Z" + strings.Repeat(" 0", 48) + " 9\n"))
	f.Fuzz(func(t *testing.T, stat []byte) {
		if _, ok := zombieStatus(stat); ok && !strings.Contains(string(stat), ") Z") {
			t.Errorf("%q is no zombie", stat)
		}
	})
}

// TestForeignExit learns the end of a process whose parent is another, before and after that reaped it.
func TestForeignExit(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil { // as every executor does
		t.Fatal(err)
	}
	parent := exec.Command("sh", "-c", `sh -c 'read x <&3; kill -9 $$' & echo $!; exec cat`) // cat waits for no child, a shell may
	die, now, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	parent.ExtraFiles = []*os.File{die}
	in, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var pid int
	if lines.Scan(); true {
		if _, err := fmt.Sscan(lines.Text(), &pid); err != nil {
			t.Fatal(err)
		}
	}
	pidfd, err := openPidfd(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if _, err := io.WriteString(in, "cat\n"); err != nil || !lines.Scan() {
		t.Fatal("cat does not run: ", err)
	}
	if _, err := io.WriteString(now, "die\n"); err != nil {
		t.Fatal(err)
	}
	if exit, err := waitExit(pidfd, pid); err != nil || exit.Status != 137 || exit.Unknown {
		t.Errorf("of a zombie: %+v, %v; want 137", exit, err)
	}
	in.Close()
	for lines.Scan() {
	}
	if err := parent.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, err := unix.Wait4(pid, nil, 0, nil); err != nil || got != pid { // ours now
		t.Fatal(got, err)
	}
	exit := foreignExit(int(pidfd.Fd()), pid)
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(int(pidfd.Fd()), &info); err != nil {
		if exit.Status != 255 || !exit.Unknown {
			t.Errorf("on a kernel that cannot tell: %+v", exit)
		}
	} else if exit.Status != 137 || exit.Unknown {
		t.Errorf("after it was reaped: %+v; want 137", exit)
	}
}

// TestReaper takes the orphan and leaves the child alone.
func TestReaper(t *testing.T) {
	e, err := New(Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	out, err := exec.Command("sh", "-c", `sh -c 'true' >/dev/null & echo $!`).Output()
	if err != nil {
		t.Fatal(err)
	}
	orphan := strings.TrimSpace(string(out))
	child := exec.Command("true")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	e.reaper.own(child.Process.Pid)
	var pid int
	if _, err := fmt.Sscan(orphan, &pid); err != nil {
		t.Fatal(err)
	}
	if pidfd, err := openPidfd(pid); err == nil { // it may be reaped already
		defer pidfd.Close()
		poll := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
		for poll[0].Revents&unix.POLLHUP == 0 && unix.Kill(pid, 0) == nil {
			_, _ = unix.Poll(poll, 10)
		}
	}
	if err := child.Wait(); err != nil {
		t.Errorf("somebody else waited for a child: %v", err)
	}
}

func TestMergeResources(t *testing.T) {
	limit, swap, shares := int64(100), int64(200), uint64(512)
	have := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap},
		CPU:    &specs.LinuxCPU{Shares: &shares, Cpus: "0-1"},
	}
	for update, want := range map[string]string{
		`{"memory":{"limit":150}}`: `{"memory":{"limit":150,"swap":200},"cpu":{"shares":512,"cpus":"0-1"}}`,
		`{"memory":{"limit":-1}}`:  `{"memory":{"limit":-1},"cpu":{"shares":512,"cpus":"0-1"}}`,
		`{"cpu":{"idle":1}}`:       `{"memory":{"limit":100,"swap":200},"cpu":{"cpus":"0-1","idle":1}}`,
		`{"pids":{"limit":5}}`:     `{"memory":{"limit":100,"swap":200},"cpu":{"shares":512,"cpus":"0-1"},"pids":{"limit":5}}`,
	} {
		merged, err := mergeResources(have, json.RawMessage(update))
		if err != nil {
			t.Errorf("%s: %v", update, err)
			continue
		}
		if got, _ := json.Marshal(merged); string(got) != want {
			t.Errorf("%s gives %s, want %s", update, got, want)
		}
	}
	if limit != 100 || *have.Memory.Swap != 200 {
		t.Error("the resources before were changed")
	}
	if _, err := mergeResources(nil, json.RawMessage(`{"memory":7}`)); err == nil {
		t.Error("no error for resources of the wrong type")
	}
}

func TestFit(t *testing.T) {
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		t.Fatal(err)
	}
	ask := func() *specs.Process {
		adj := -500
		return &specs.Process{OOMScoreAdj: &adj, Rlimits: []specs.POSIXRlimit{
			{Type: "RLIMIT_NOFILE", Soft: have.Max + 2, Hard: have.Max + 2}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
		}}
	}
	log := slog.New(slog.DiscardHandler)
	s := ask()
	privileges{raise: true}.fit(s, log)
	if *s.OOMScoreAdj != -500 || s.Rlimits[0].Hard != have.Max+2 {
		t.Error("a process with the privilege was refused")
	}
	s = ask()
	privileges{oomScoreAdj: 3}.fit(s, log)
	if *s.OOMScoreAdj != 3 || s.Rlimits[0].Hard != have.Max || s.Rlimits[0].Soft != have.Max || s.Rlimits[1].Hard != 0 {
		t.Errorf("without the privilege: oom_score_adj %d, limits %+v", *s.OOMScoreAdj, s.Rlimits)
	}
}

func TestMetrics(t *testing.T) {
	s := cgroups.NewStats()
	s.CpuStats.CpuUsage.TotalUsage = 5000
	s.MemoryStats.Usage = cgroups.MemoryData{Usage: 7, Limit: 8}
	s.MemoryStats.Stats["workingset_refault_anon"], s.MemoryStats.Stats["workingset_refault_file"] = 1, 2
	s.MemoryStats.Stats["total_rss"] = 3
	s.BlkioStats.IoServiceBytesRecursive = []cgroups.BlkioStatEntry{{Major: 8, Op: "Read", Value: 10}, {Major: 8, Op: "Write", Value: 11}, {Major: 9, Op: "Read", Value: 12}}
	s.HugetlbStats["2MB"] = cgroups.HugetlbStats{Usage: 4}
	one := metricsV1(s, map[string]uint64{"oom_kill": 6})
	if one.CPU.Usage.Total != 5000 || one.Memory.Usage.Limit != 8 || one.Memory.TotalRSS != 3 || len(one.Blkio.IoServiceBytesRecursive) != 3 || one.MemoryOomControl.OomKill != 6 || one.Hugetlb[0].Usage != 4 {
		t.Errorf("v1: %v", one)
	}
	two := metricsV2(s, map[string]uint64{"oom_kill": 6})
	if two.CPU.UsageUsec != 5 || two.Memory.UsageLimit != 8 || two.Memory.WorkingsetRefault != 3 || two.MemoryEvents.OomKill != 6 || two.Hugetlb[0].Current != 4 {
		t.Errorf("v2: %v", two)
	}
	if len(two.Io.Usage) != 2 || two.Io.Usage[0].Rbytes != 10 || two.Io.Usage[0].Wbytes != 11 {
		t.Errorf("v2 devices: %v", two.Io.Usage)
	}
}

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{"a": true, "ns-1.x_y+z": true, "": false, ".": false, "..": false, "-rf": false, "a/b": false, "ä": false, strings.Repeat("x", 201): false} {
		if got := validID(id); got != want {
			t.Errorf("validID(%q) = %v", id, got)
		}
	}
}

func TestSameWriter(t *testing.T) {
	type incomparable struct {
		io.Writer
		_ []int
	}
	if sameWriter(incomparable{}, incomparable{}) || !sameWriter(io.Discard, io.Discard) {
		t.Error("writers are the same, or are not, as the interface says")
	}
}
