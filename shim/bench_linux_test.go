package shim_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipwayd/slipway/shim"
)

// BenchmarkRun is create, start, wait and delete of busybox true, by the Manager, on a bind mount.
func BenchmarkRun(b *testing.B) {
	w := newWorld(b, shim.Config{})
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("b%d", i)
		w.run(id, shim.Streams{}, "true")
		w.wait(id, "")
		if _, err := w.m.Delete(b.Context(), "default", id, ""); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIdle tells what each of 100 idle containers adds to the shim's memory, in KiB of PSS.
func BenchmarkIdle(b *testing.B) {
	w := newWorld(b, shim.Config{})
	for b.Loop() {
		for i := range 100 {
			w.run(fmt.Sprintf("i%d", i), shim.Streams{}, "sleep", "1000")
		}
		time.Sleep(7 * time.Second) // the shim gives memory back after five
		b.ReportMetric(float64(pss(b, w.shimPid()))/100, "shim-KiB/container")
		all, _ := w.m.List(b.Context(), "")
		for _, s := range all {
			if err := w.m.Kill(b.Context(), s.Namespace, s.ID, "", 9, true); err != nil {
				b.Fatal(err)
			}
			w.wait(s.ID, "")
			if _, err := w.m.Delete(b.Context(), s.Namespace, s.ID, ""); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func pss(t testing.TB, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	t.Fatal("no PSS")
	return 0
}
