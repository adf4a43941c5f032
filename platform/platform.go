// Package platform is what a shim needs of an operating system to run containers: the contracts Executor, Container and
// Process, and nothing else. platform/linux and platform/windows implement them.
package platform

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"time"

	"github.com/slipwayd/slipway/storage"
)

// Executor creates containers, and finds those again that an earlier executor of the same state directory created.
type Executor interface {
	// Create sets the container up to the point where its init is ready to exec: pid, cgroup, namespaces and root file
	// system exist. After an error nothing of it is left. AlreadyExists when the id is in use.
	Create(ctx context.Context, s Spec) (Container, error)
	// Adopt takes over a container (and the processes executed in it) from an executor that died. NotFound when there is none.
	Adopt(ctx context.Context, id string) (Container, error)
	// List names the containers in the state directory, living or dead.
	List(ctx context.Context) ([]string, error)
	Close() error
}

// Spec is what a container is made from.
type Spec struct {
	ID     string          // unique within the executor: the shim puts the namespace in it
	Name   string          // what the container is called in hooks and state, when that is not ID
	Bundle string          // directory for this container's files; the root file system is mounted at Bundle/rootfs when Rootfs is given
	OCI    json.RawMessage // runtime-spec config.json
	Rootfs []storage.Mount // mounted by the executor in order, unmounted by Delete; empty when the client did it (spec.Root.Path)
	IO     IO
	// Options are the runtime's own, as sent by the client (runc options on Linux); zero value for defaults.
	Options Options
	// Checkpoint is the directory that a Checkpointer wrote, to go on from there: Start makes the processes again instead of executing the
	// program, and init has no pid before. The directory must be there until then. "" for none; NotImplemented where there is no such thing.
	Checkpoint string
}

// Options of the built-in Linux executor; the fields of containerd.runc.v1.Options that mean something without a runc.
type Options struct {
	SystemdCgroup bool
	NoPivotRoot   bool
	NoNewKeyring  bool
	ShimCgroup    string
	IOUid, IOGid  uint32
	BinaryName    string // an OCI runtime's command line to use instead of the built-in one
	Root          string // that runtime's state directory
	CriuWorkPath  string // directory for the log of restoring, kept; "" for one that goes with the container
}

// IO is a process's standard streams, with the rule of os/exec: an *os.File is handed to the process as it is, anything else
// is copied, nil is the null device. With Terminal the process gets a new terminal, copied to Stdout and from Stdin.
// The executor never closes what it was given; the caller does after Wait.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Terminal       bool
	Width, Height  uint16 // initial size of the terminal in characters, 0 for the default
}

// ProcessSpec is one more process in a running container.
type ProcessSpec struct {
	ID  string          // unique within the container
	OCI json.RawMessage // runtime-spec "process" object
	IO  IO
}

// Exit is how a process ended.
type Exit struct {
	Status  uint32    // exit code, or 128+signal
	At      time.Time // when it was noticed
	Unknown bool      // nobody saw the status (Status is then 255): the process was another's child on an old kernel
}

// CheckpointOptions say what is written of a container, and where.
type CheckpointOptions struct {
	Images string // absolute path of a directory that is there and empty; the caller removes it after an error
	Work   string // directory for the log and statistics; "" for Images
	Exit   bool   // end the container
	// What else may be written, that cannot always be restored: established TCP connections, unix sockets connected to other containers' or
	// the host's, jobs of a shell outside, and file locks.
	OpenTCP, ExternalSockets, ShellJob, FileLocks bool
	EmptyNamespaces                               []string // of which the contents are not written: "network"
	CgroupsMode                                   string   // CRIU's manage-cgroups-mode; "" for its default
}

// Container is one container, from Create to Delete.
type Container interface {
	ID() string
	Init() Process
	// Exec prepares a further process; Start runs it.
	Exec(ctx context.Context, p ProcessSpec) (Process, error)
	// Processes lists those executed besides init that are not deleted, for a shim that has adopted the container.
	Processes() []Process
	Pids(ctx context.Context) ([]int, error)
	Stats(ctx context.Context) (Stats, error)
	// Delete removes cgroup, mounts and state; FailedPrecondition while init runs. Repeating it is nil.
	Delete(ctx context.Context) error
}

// Process is init or an executed process.
type Process interface {
	ID() string // "" for init
	Pid() int   // 0 before it exists
	// Start execs the program. For init of a container this is the second half of Create.
	Start(ctx context.Context) error
	// Started says whether Start has worked, be it of an executor that died before it could tell.
	Started() bool
	// Signal sends sig; with all to every process in the container. NotFound when it has ended.
	Signal(ctx context.Context, sig int, all bool) error
	Resize(ctx context.Context, width, height uint16) error
	CloseStdin(ctx context.Context) error
	// Wait blocks until the process has ended and its output is copied. Any number of callers, before Start and after the end.
	Wait(ctx context.Context) (Exit, error)
	// Delete frees an executed process's state; FailedPrecondition while it runs.
	Delete(ctx context.Context) error
}

// Stats is a snapshot of resource use: a protobuf type the client knows, ready to be put into an Any.
type Stats struct {
	// Metrics is *cgroup1/stats.Metrics, *cgroup2/stats.Metrics or the Windows statistics message.
	Metrics any
}

// Optional abilities of a Container or a Process, asked for by assertion in one place (package shim).
type (
	Pauser interface {
		Pause(ctx context.Context) error
		Resume(ctx context.Context) error
	}
	// Updater takes the runtime-spec "linux.resources" or "windows.resources" object.
	Updater interface {
		Update(ctx context.Context, resources json.RawMessage, annotations map[string]string) error
	}
	Checkpointer interface {
		// Checkpoint writes the processes that descend from init, with their memory, into o.Images. Those that were executed beside it are not
		// written. Nobody runs meanwhile; then the container goes on as it was, or ends (status 137) when o.Exit is set and no error is answered.
		// FailedPrecondition when it does not run, or the machine lacks what it takes (the error says what). It is not cut short by ctx.
		// After a crash the container goes on, and Images is of no use.
		Checkpoint(ctx context.Context, o CheckpointOptions) error
	}
	// Reattacher is a Process whose terminal outlives its executor as long as somebody keeps it open: without that the kernel hangs
	// up on the process.
	Reattacher interface {
		// Terminal answers a duplicate of the executor's side of the process's terminal, for the caller to close; NotFound when
		// it has none, or not yet.
		Terminal() (*os.File, error)
		// Attach gives the terminal back to a process that was adopted, and copies to io.Stdout and from io.Stdin as before. It takes
		// over terminal, after an error too. What was written before the end of a process that has ended is copied when it returns.
		Attach(terminal *os.File, io IO) error
	}
	// Reconnecter is a Process whose streams its system makes.
	Reconnecter interface {
		// Reconnect gives a process that was adopted before its Start the streams that it will start with, and copies from and to the pipes of one that
		// runs, from where its executor died. An error says that there are none, and it runs on without. It is called before anybody waits; nothing of io is closed.
		Reconnect(io IO) error
	}
	// OOMNotifier calls back, from a goroutine of its own until Delete, each time the kernel killed something in the container for memory.
	OOMNotifier interface {
		OnOOM(func()) error
	}
)
