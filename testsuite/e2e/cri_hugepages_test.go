package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hugePages gives the kernel some huge pages of 2 MiB, if it has any, until the test ends. false when it cannot.
func hugePages(t *testing.T, want int) bool {
	t.Helper()
	const pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	number := func() int {
		text, _ := os.ReadFile(pool)
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		return n
	}
	before := number()
	if before >= want {
		return true
	}
	t.Cleanup(func() { _ = os.WriteFile(pool, []byte(strconv.Itoa(before)), 0) })
	return os.WriteFile(pool, []byte(strconv.Itoa(want)), 0) == nil && number() >= want
}

// TestHugePages: a volume of huge pages, as kubelet mounts it (emptyDir, medium HugePages), can be used by a container, and no more of it than the
// container's limit says, where the kernel has limits on them.
func TestHugePages(t *testing.T) {
	if !hugePages(t, 8) {
		t.Skip("the kernel has no huge pages to give, or no memory for them")
	}
	d, k := startCRI(t)
	k.pull(t)
	dir := t.TempDir()
	if err := syscall.Mount("hugetlbfs", dir, "hugetlbfs", 0, "pagesize=2M"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	limits := map[string]string{"/sys/fs/cgroup/hugetlb%s/%s/hugetlb.2MB.limit_in_bytes": "v1", "/sys/fs/cgroup%s/%s/hugetlb.2MB.max": "v2"}
	pod := k.podConfig(name(t))
	// A file of a hugetlbfs has memory of its own from the moment in which its size is set (fallocate); beyond the limit that fails.
	c := k.containerConfig(pod, `for n in 1 2 3; do fallocate -l 2097152 /huge/f$n 2>/dev/null && echo has $n || echo no $n; done; echo end; exec sleep 1000`)
	c.Mounts = []*runtime.Mount{{HostPath: dir, ContainerPath: "/huge"}}
	c.Linux.Resources = &runtime.LinuxContainerResources{HugepageLimits: []*runtime.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}}
	_, id := k.start(t, pod, c)
	k.awaitLog(t, id, "end")
	log := k.log(t, id)
	if !strings.Contains(log, "has 1") || !strings.Contains(log, "has 2") {
		t.Errorf("what is within the limit cannot be used: %s", log)
	}
	limited := false
	for path, kind := range limits {
		path = fmt.Sprintf(path, k.cgroup, id)
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		limited = true
		if got := strings.TrimSpace(string(text)); got != strconv.Itoa(4<<20) {
			t.Errorf("the limit on cgroup %s is %s", kind, got)
		}
	}
	if limited && !strings.Contains(log, "no 3") {
		t.Errorf("what is beyond the limit can be used: %s", log)
	}
	if !limited {
		t.Log("limits on huge pages are not tried: the controller hugetlb is not mounted")
	}
	if st := k.status(t, id); limited && len(st.Resources.GetLinux().GetHugepageLimits()) != 1 {
		t.Errorf("limits are told as %v", st.Resources)
	}
	k.removeAll(t, d)
}
