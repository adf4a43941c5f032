package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// has tells whether the sandbox has a namespace of its own.
func (o Options) has(kind string) bool {
	switch kind {
	case Net:
		return o.Net
	case IPC:
		return o.IPC
	case UTS:
		return o.UTS
	}
	return false
}

func (o Options) check() error {
	for name := range o.Sysctls {
		kind := sysctlNamespace(name)
		if kind == "" || strings.Contains(name, "..") || strings.ContainsRune(name, 0) {
			return fmt.Errorf("sysctl %.100q is not of a namespace: only net.*, kernel.msg*, kernel.sem, kernel.shm* and fs.mqueue.* can be set for a pod: %w", name, errdefs.ErrInvalidArgument)
		}
		if !o.has(kind) {
			return fmt.Errorf("sysctl %.100q belongs to the %s namespace, and the pod uses the host's: %w", name, kind, errdefs.ErrInvalidArgument)
		}
	}
	for name := range o.Files {
		if filepath.Base(name) != name || name == "ns" || name == "shm" || name == "." || name == ".." {
			return fmt.Errorf("a sandbox cannot have a file %q: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// sysctlNamespace is the namespace that a sysctl is of, "" for none (sysctl(2) trees that the kernel registers for each one).
func sysctlNamespace(name string) string {
	name = strings.ReplaceAll(name, "/", ".")
	switch {
	case strings.HasPrefix(name, "net."):
		return Net
	case strings.HasPrefix(name, "fs.mqueue."), strings.HasPrefix(name, "kernel.msg"), strings.HasPrefix(name, "kernel.shm"), name == "kernel.sem":
		return IPC
	}
	return ""
}

// makeNamespaces makes, sets up and pins the sandbox's own namespaces. It happens on a thread that ends with it, because a
// thread that was in other namespaces cannot be given back to Go.
func makeNamespaces(dir string, o Options) error {
	if len(o.UIDs) == 0 && !o.Net && !o.IPC && !o.UTS {
		return nil
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if len(o.UIDs) > 0 {
			done <- bornMapped(dir, o)
		} else {
			done <- bornPlain(dir, o)
		}
	}()
	return <-done
}

// bornPlain makes namespaces that belong to the host's users. The caller's thread stays in them.
func bornPlain(dir string, o Options) error {
	var flags uintptr
	for _, k := range kinds {
		if o.has(k.name) {
			flags |= k.flag
		}
	}
	if err := unix.Unshare(int(flags)); err != nil {
		return fmt.Errorf("cannot make namespaces: %w", err)
	}
	if err := setUp(o); err != nil {
		return err
	}
	for _, k := range kinds {
		if o.has(k.name) {
			if err := pin(dir, k.name, unix.Gettid()); err != nil {
				return err
			}
		}
	}
	return nil
}

// bornMapped makes a user namespace and others that belong to it. They need a process to be born with: one that is traced, so that
// it stops before its first instruction and never runs. The caller's thread stays in the namespaces, but the user's.
func bornMapped(dir string, o Options) error {
	flags := uintptr(unix.CLONE_NEWUSER)
	names := []string{User}
	for _, k := range kinds {
		if o.has(k.name) {
			flags |= k.flag
			names = append(names, k.name)
		}
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"sandbox"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: flags, UidMappings: systemMaps(o.UIDs), GidMappings: systemMaps(o.GIDs), GidMappingsEnableSetgroups: true,
		Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}})
	if err != nil {
		return fmt.Errorf("cannot make a user namespace: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	for _, name := range names {
		if err = pin(dir, name, p.Pid); err != nil {
			break
		}
	}
	_ = p.Kill()
	_, _ = p.Wait()
	if err != nil {
		return err
	}
	for _, k := range kinds {
		if o.has(k.name) {
			if err := join(NamespacePath(dir, k.name), k.flag); err != nil {
				return err
			}
		}
	}
	return setUp(o)
}

func systemMaps(maps []IDMap) []syscall.SysProcIDMap {
	var list []syscall.SysProcIDMap
	for _, m := range maps {
		list = append(list, syscall.SysProcIDMap{ContainerID: int(m.Container), HostID: int(m.Host), Size: int(m.Size)})
	}
	return list
}

func join(path string, flag uintptr) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), int(flag)); err != nil {
		return fmt.Errorf("cannot join namespace %s: %w", path, err)
	}
	return nil
}

// setUp brings up what is in the new namespaces, which the calling thread is in.
func setUp(o Options) error {
	if o.Net {
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("cannot bring up the loopback interface: %w", err)
		}
	}
	if o.UTS && o.Hostname != "" {
		if err := unix.Sethostname([]byte(o.Hostname)); err != nil {
			return fmt.Errorf("cannot set host name %.100q: %w: %w", o.Hostname, err, errdefs.ErrInvalidArgument)
		}
	}
	names := make([]string, 0, len(o.Sysctls))
	for name := range o.Sysctls {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		err := setSysctl(name, o.Sysctls[name])
		if errors.Is(err, fs.ErrPermission) && len(o.UIDs) > 0 {
			err = asOwner(root(o.UIDs), func() error { return setSysctl(name, o.Sysctls[name]) })
		}
		if err != nil {
			return fmt.Errorf("cannot set sysctl %s: %w", name, err)
		}
	}
	return nil
}

// asOwner runs fn on this thread with the effective id of a user namespace's root: to some sysctls (ipc/ipc_sysctl.c, ipc_permissions) the host's root
// is a stranger.
func asOwner(uid uint32, fn func() error) error {
	const same = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
		return fmt.Errorf("cannot become user %d: %w", uid, errno)
	}
	err := fn()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, 0, same); errno != 0 {
		return errors.Join(err, fmt.Errorf("cannot become root again: %w", errno))
	}
	return err
}

// setSysctl writes below /proc/sys, whose trees of namespaces are those of the thread that opens them.
func setSysctl(name, value string) error {
	path := name
	if !strings.Contains(name, "/") { // names with slashes are for interfaces that have dots in theirs (sysctl.d(5))
		path = strings.ReplaceAll(name, ".", "/")
	}
	sys, err := os.OpenRoot("/proc/sys")
	if err != nil {
		return err
	}
	defer sys.Close()
	f, err := sys.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no such sysctl: %w: %w", err, errdefs.ErrInvalidArgument)
	} else if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("value %.100q: %w: %w", value, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}
