// Package sandbox keeps what a pod has on the host without any process: namespaces pinned by bind mounts of their nsfs
// files, shared memory, and the files that its containers see in /etc.
//
// Everything of a pod is below one directory, which belongs below /run and is a mount of its own:
//
//	ns/net ns/ipc ns/uts ns/user   pinned namespaces, those that the pod has of its own
//	shm                            a tmpfs
//	FILE                           such as resolv.conf
//
// It knows nothing of Kubernetes, imports no driver, and keeps no state in memory: the directory is the record. What a crash leaves is a directory that
// Remove removes whatever of it exists; whoever owns the directories lists them. A reboot leaves nothing. On systems other than
// Linux every function answers NotImplemented.
package sandbox

import (
	"path/filepath"
)

// Namespaces that can be pinned, named as in /proc/PID/ns.
const (
	Net  = "net"
	IPC  = "ipc"
	UTS  = "uts"
	User = "user"
	PID  = "pid"
)

// IDMap maps Size ids from Container on to those from Host on.
type IDMap struct{ Container, Host, Size uint32 }

// Options say what a sandbox has of its own. What it has not is the host's.
type Options struct {
	Net, IPC, UTS bool
	Hostname      string            // of its own UTS namespace
	Sysctls       map[string]string // name with dots, of its own namespaces
	UIDs, GIDs    []IDMap           // of a user namespace that owns the others; none without
	ShmSize       int64             // bytes of shared memory; 0 for none
	Files         map[string][]byte // name → content, readable by all
}

// NamespacePath is where a namespace of the sandbox in dir is pinned.
func NamespacePath(dir, kind string) string { return filepath.Join(dir, "ns", kind) }

// ShmPath is the shared memory of the sandbox in dir.
func ShmPath(dir string) string { return filepath.Join(dir, "shm") }

// Make makes a sandbox in dir, which must not exist. After an error nothing of it is left. InvalidArgument for a sysctl
// that is not of a namespace that the sandbox has, FailedPrecondition for what the kernel cannot do.
func Make(dir string, o Options) error { return makeSandbox(dir, o) }

// Pin binds the namespace kind of a process to the sandbox in dir, in the place of that of an earlier process or what a crash left
// of it.
func Pin(dir, kind string, pid int) error { return pin(dir, kind, pid) }

// Alive tells whether the sandbox in dir still has the namespaces kinds: false after a reboot.
func Alive(dir string, kinds ...string) bool { return alive(dir, kinds) }

// Remove unpins the namespaces, which end with their last process, and removes the directory. It is nil when there is none.
func Remove(dir string) error { return remove(dir) }
