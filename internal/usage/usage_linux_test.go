package usage

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const hybrid = `25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:23 / /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw
27 25 0:24 /docker/x /sys/fs/cgroup/memory rw shared:2 - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
29 25 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
`

const pure = `26 25 0:23 / /sys/fs/cgroup rw shared:1 - cgroup2 cgroup2 rw
`

func TestLocate(t *testing.T) {
	for _, c := range []struct {
		name, mounts, text string
		want               map[string]string
	}{
		{"version 2", pure, "0::/kubepods/pod1/abc\n", map[string]string{"": "/sys/fs/cgroup/kubepods/pod1/abc"}},
		{"version 1", hybrid, "9:name=systemd:/x\n4:memory:/docker/x/k8s/abc\n3:cpu,cpuacct:/k8s/abc\n0::/\n", map[string]string{
			"memory": "/sys/fs/cgroup/memory/k8s/abc", "cpu": "/sys/fs/cgroup/cpu,cpuacct/k8s/abc", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/k8s/abc"}},
		{"mounted elsewhere too", hybrid + strings.ReplaceAll(hybrid, "/sys/fs/", "/tmp/sys/fs/"), "4:memory:/docker/x/y\n", map[string]string{"memory": "/sys/fs/cgroup/memory/y"}},
		{"outside of what is mounted", hybrid, "4:memory:/docker/y\n", map[string]string{}},
		{"hostile", pure, "0::/../../etc\n0::relative\nx\n::\n", map[string]string{"": "/sys/fs/cgroup/etc"}},
	} {
		h := parseMounts(c.mounts)
		if got := h.locate(c.text); !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func FuzzLocate(f *testing.F) {
	f.Add(hybrid, "4:memory:/docker/x/k8s/abc\n")
	f.Add(pure, "0::/a/../../b")
	f.Fuzz(func(t *testing.T, mounts, text string) {
		h := parseMounts(mounts)
		for _, dir := range h.locate(text) {
			if strings.Contains(dir, "/../") {
				t.Errorf("%q", dir)
			}
		}
	})
}

func write(t *testing.T, all map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range all {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func check(t *testing.T, c Cgroup, want Usage) {
	t.Helper()
	got, err := c.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want.At = got.At
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v %+v\nwant %+v %+v", got, got.More, want, want.More)
	}
}

func TestVersion1(t *testing.T) {
	dir := write(t, map[string]string{
		"cpuacct.usage": "12345\n", "cpuacct.stat": "user 2\nsystem 3\n", "cpu.stat": "nr_periods 7\nnr_throttled 2\nthrottled_time 99\n",
		"memory.usage_in_bytes": "1000\n", "memory.max_usage_in_bytes": "2000\n", "memory.failcnt": "4\n", "memory.kmem.usage_in_bytes": "50\n",
		"memory.stat":        "cache 1\ntotal_cache 300\ntotal_rss 400\ntotal_mapped_file 20\ntotal_inactive_file 250\ntotal_pgfault 8\ntotal_pgmajfault 1\nhierarchical_memory_limit 4096\nhierarchical_memsw_limit 6096\ntotal_swap 12\n",
		"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "pids.current": "3\n", "pids.max": "max\n", "cgroup.procs": "1\n2\n",
		"blkio.throttle.io_service_bytes_recursive": "8:0 Read 100\n8:0 Write 200\n8:0 Total 300\nTotal 300\n",
		"blkio.throttle.io_serviced_recursive":      "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
	})
	swap := uint64(12)
	check(t, Cgroup{cgroup{map[string]string{"cpuacct": dir, "cpu": dir, "memory": dir, "pids": dir, "blkio": dir}}}, Usage{
		CPU: 12345, Memory: 1000, WorkingSet: 750, RSS: 400, Limit: 4096, Faults: 8, Majors: 1, Swap: &swap, Tasks: 3, SwapLimit: 2000,
		More: &More{User: 2e7, System: 3e7, Periods: 7, Throttled: 2, ThrottledTime: 99, Cache: 300, MappedFile: 20, Kernel: 50, MaxMemory: 2000,
			MemoryFailures: 4, OOMEvents: 1, Processes: 2, Devices: []Device{{Major: 8, ReadBytes: 100, WriteBytes: 200, Reads: 1, Writes: 2}}},
	})
}

func TestVersion2(t *testing.T) {
	dir := write(t, map[string]string{
		"cpu.stat":       "usage_usec 12\nuser_usec 5\nsystem_usec 7\nnr_periods 7\nnr_throttled 2\nthrottled_usec 9\n",
		"memory.current": "1000\n", "memory.max": "4096\n", "memory.peak": "2000\n", "memory.swap.current": "12\n", "memory.swap.max": "max\n",
		"memory.stat":   "anon 400\nfile 300\nkernel 50\nfile_mapped 20\ninactive_file 1250\npgfault 8\npgmajfault 1\n",
		"memory.events": "low 0\nmax 4\noom 1\noom_kill 1\n", "pids.current": "3\n", "pids.max": "10\n", "cgroup.procs": "1\n2\n",
		"cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.25 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
		"io.stat":      "8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n",
	})
	swap := uint64(12)
	check(t, Cgroup{cgroup{map[string]string{"": dir}}}, Usage{
		CPU: 12000, Memory: 1000, WorkingSet: 0, RSS: 400, Limit: 4096, Faults: 8, Majors: 1, Swap: &swap, Tasks: 3,
		Pressure: &Pressures{CPU: Pressure{Some: Stall{Avg10: 1.5, Avg300: 0.25, Total: 7000}, Full: Stall{Total: 3000}}},
		More: &More{User: 5000, System: 7000, Periods: 7, Throttled: 2, ThrottledTime: 9000, Cache: 300, MappedFile: 20, Kernel: 50, MaxMemory: 2000,
			MemoryFailures: 4, OOMEvents: 1, Processes: 2, MaxTasks: 10, Devices: []Device{{Major: 8, ReadBytes: 100, WriteBytes: 200, Reads: 1, Writes: 2}}},
	})
}

func TestGone(t *testing.T) {
	for _, c := range []Cgroup{{cgroup{map[string]string{"": "/nonexistent"}}}, {cgroup{map[string]string{"cpuacct": "/nonexistent"}}}} {
		if _, err := c.Read(); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	}
}

func TestParent(t *testing.T) {
	c := Cgroup{cgroup{map[string]string{"cpu": "/c/cpu/pods/pod1/abc", "memory": "/c/memory/pods/pod1/abc"}}}
	if p := c.Parent("pod1"); p == nil || p.dirs["memory"] != "/c/memory/pods/pod1" {
		t.Errorf("got %+v", p)
	}
	if p := c.Parent("pods"); p != nil {
		t.Errorf("got %+v", p)
	}
}

func TestThisProcess(t *testing.T) {
	h, err := NewHost()
	if errdefs.IsNotFound(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.Find(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if u, err := c.Read(); err != nil && !errdefs.IsNotFound(err) || err == nil && u.CPU == 0 { // the root of version 2 has no memory.current
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := h.Find(1 << 30); !errdefs.IsNotFound(err) {
		t.Errorf("no such process: %v", err)
	}
}

func BenchmarkRead(b *testing.B) {
	h, err := NewHost()
	if err != nil {
		b.Skip(err)
	}
	c, err := h.Find(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, _ = c.Read()
	}
}
