package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func newDir(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := filepath.Join(t.TempDir(), "pod")
	t.Cleanup(func() {
		if err := Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// inside runs fn on a thread that has joined what is pinned in dir.
func inside(t *testing.T, dir string, fn func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		for _, k := range kinds {
			if Alive(dir, k.name) {
				if err := join(NamespacePath(dir, k.name), k.flag); err != nil {
					done <- err
					return
				}
			}
		}
		fn()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestSandbox(t *testing.T) {
	for name, maps := range map[string][]IDMap{"host users": nil, "own users": {{0, 300000, 65536}}} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			err := Make(dir, Options{
				Net: true, IPC: true, UTS: true, Hostname: "somebody", ShmSize: 1 << 20, UIDs: maps, GIDs: maps,
				Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "7", "kernel.shm_rmid_forced": "1"},
				Files:   map[string][]byte{"hosts": []byte("x")},
			})
			if err != nil {
				t.Fatal(err)
			}
			if !Alive(dir, Net, IPC, UTS) || Alive(dir, User) != (maps != nil) || Alive(dir, PID) {
				t.Error("other namespaces are pinned than were asked for")
			}
			inside(t, dir, func() {
				if host, _ := os.Hostname(); host != "somebody" {
					t.Errorf("host name is %q", host)
				}
				for path, want := range map[string]string{"net/ipv4/ip_unprivileged_port_start": "7", "kernel/shm_rmid_forced": "1"} {
					if got, _ := os.ReadFile("/proc/sys/" + path); strings.TrimSpace(string(got)) != want {
						t.Errorf("%s is %q", path, got)
					}
				}
				addrs, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/net/fib_trie", unix.Gettid()))
				if !strings.Contains(string(addrs), "127.0.0.1") {
					t.Error("the loopback interface is down")
				}
			})
			var st unix.Stat_t
			if err := unix.Stat(ShmPath(dir), &st); err != nil || st.Mode&0o7777 != 0o1777 || maps != nil && st.Uid != maps[0].Host {
				t.Errorf("shared memory: mode %o, uid %d, %v", st.Mode, st.Uid, err)
			}
			if err := Make(dir, Options{}); !errdefs.IsAlreadyExists(err) {
				t.Errorf("a second one in the same place: %v", err)
			}
			if err := Remove(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(dir); !os.IsNotExist(err) || Alive(dir) {
				t.Errorf("it is still there: %v", err)
			}
			if err := Remove(dir); err != nil {
				t.Errorf("removed twice: %v", err)
			}
		})
	}
}

// TestPinAgain: a pin that was cut short, or whose process is to be replaced, is not in the way of the next.
func TestPinAgain(t *testing.T) {
	dir := newDir(t)
	if err := Make(dir, Options{UTS: true}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(NamespacePath(dir, PID), nil, 0o444); err != nil { // SIGKILL after the file was made
		t.Fatal(err)
	}
	for range 2 {
		if err := Pin(dir, PID, os.Getpid()); err != nil {
			t.Fatal(err)
		}
		if !Alive(dir, PID) {
			t.Fatal("not pinned")
		}
	}
	if err := unix.Unmount(NamespacePath(dir, PID), 0); err != nil {
		t.Fatal(err)
	}
	if Alive(dir, PID) {
		t.Error("pinned twice, one upon the other")
	}
}

func TestSysctlsOfOthers(t *testing.T) {
	dir := newDir(t)
	for name, o := range map[string]Options{
		"of no namespace":       {Net: true, Sysctls: map[string]string{"vm.swappiness": "1"}},
		"of the host's network": {IPC: true, Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}},
		"that is none":          {Net: true, Sysctls: map[string]string{"net.ipv4.nothing": "1"}},
		"with a bad value":      {Net: true, Sysctls: map[string]string{"net.ipv4.ip_forward": "many"}},
		"that leads out":        {Net: true, Sysctls: map[string]string{"net/../vm/swappiness": "1"}},
		"file that leads out":   {Files: map[string][]byte{"../x": nil}},
	} {
		if err := Make(dir, o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: something is left: %v", name, err)
		}
	}
}

func BenchmarkSandbox(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root")
	}
	parent := b.TempDir()
	for n := 0; b.Loop(); n++ {
		dir := filepath.Join(parent, fmt.Sprint(n))
		if err := Make(dir, Options{Net: true, IPC: true, UTS: true, Hostname: "x", ShmSize: 1 << 20}); err != nil {
			b.Fatal(err)
		}
		if err := Remove(dir); err != nil {
			b.Fatal(err)
		}
	}
}
