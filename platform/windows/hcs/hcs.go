// Package hcs is what Slipway needs of Windows' Host Compute Service: the interfaces Host, System and Process, and their
// implementation on Windows.
//
// It owns handles of the service and of its processes' pipes, and nothing on disk. Documents pass through it as JSON; what is in
// them is package document's business. It never imports the executor. The implementation creates systems, signals processes, modifies
// systems, asks for properties and for pipes that a dead owner had through vmcompute.dll itself, with documents of either schema, and leaves all else to hcsshim's public API.
//
// What a crash leaves: systems and processes go on running, and OpenSystem finds them; the service keeps the other ends of their pipes and gives them
// out again, so that a program that writes much waits for the next owner. Mounted layers stay mounted until Unmount.
package hcs

import (
	"context"
	"encoding/json"
	"io"
)

// Host is a machine's Host Compute Service with what belongs to it. Errors have errdefs kinds: NotFound, AlreadyExists, InvalidArgument
// (the service refused a document, and says why), FailedPrecondition (not in this state), NotImplemented (this build cannot).
type Host interface {
	// Machine says what the host is.
	Machine() Machine
	// Resolve looks at a path of the host that a container is to see, and answers the path to give to the service. NotFound when nothing
	// is there.
	Resolve(path string) (real string, dir bool, err error)
	// Mount makes one volume of a container's layers and answers its path, \\?\Volume{GUID}. After an error nothing is mounted.
	Mount(ctx context.Context, l Layers) (volume string, err error)
	// Unmount undoes Mount; what is not mounted is no error.
	Unmount(ctx context.Context, scratch string) error
	// LayerID is the GUID by which the service knows the layer in a directory.
	LayerID(ctx context.Context, path string) (string, error)
	// NamespaceEndpoints lists the ids of the endpoints in a network namespace of the Host Networking Service.
	NamespaceEndpoints(ctx context.Context, namespace string) ([]string, error)
	// AddGuard makes an instance of the container credential guard for a gMSA credential spec, which outlives us, and answers what the document
	// of the container has to have (ContainerCredentialGuardState). RemoveGuard undoes it; one that is not there is no error.
	AddGuard(ctx context.Context, id, credentialSpec string) (json.RawMessage, error)
	RemoveGuard(ctx context.Context, id string) error
	// CreateSystem makes a compute system, which does not run yet, from a document of schema 1 or 2.
	CreateSystem(ctx context.Context, id string, document json.RawMessage) (System, error)
	// OpenSystem finds a system that somebody has created. NotFound when there is none, or it has ended.
	OpenSystem(ctx context.Context, id string) (System, error)
}

// Machine is a host.
type Machine struct {
	Build      uint16 // as in 10.0.BUILD
	Processors int    // logical ones
}

// Layers are directories that a container's volume is made of.
type Layers struct {
	Scratch string   // the writable one
	Parents []string // read-only ones, the uppermost first
	Size    uint64   // bytes the volume shall have at least, 0 for what it has
}

// System is an open handle of a compute system: a container.
type System interface {
	// Start boots it. It runs no program before CreateProcess.
	Start(ctx context.Context) error
	// Shutdown asks everything in it to end and Terminate ends it; neither waits. A system that has ended is no error.
	Shutdown(ctx context.Context) error
	Terminate(ctx context.Context) error
	// Wait blocks until it has ended.
	Wait(ctx context.Context) error
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Modify changes one thing in it, by a document of schema 2 (ModifySettingRequest).
	Modify(ctx context.Context, request json.RawMessage) error
	// Properties answers the document of the properties of these types ("Statistics", "ProcessList").
	Properties(ctx context.Context, types ...string) (json.RawMessage, error)
	// CreateProcess runs a program, whose pipes are those that p asks for. InvalidArgument when it is not there.
	CreateProcess(ctx context.Context, p ProcessParameters) (Process, error)
	// OpenProcess finds a process that CreateProcess made, for an earlier owner. Its pipes are that owner's, who must not use them any more; none where
	// the service does not give them out. NotFound when it has ended.
	OpenProcess(ctx context.Context, pid int) (Process, error)
	// Close frees the handle. The system goes on.
	Close() error
}

// Process is an open handle of a process in a System.
type Process interface {
	Pid() int
	// Stdio answers our ends of the process's pipes, nil for those it does not have. They are the caller's to close.
	Stdio() (stdin io.WriteCloser, stdout, stderr io.ReadCloser)
	// Signal tells a console event; NotImplemented on builds that know none, NotFound when the process has ended.
	Signal(ctx context.Context, s Signal) error
	// Kill terminates. NotFound when the process has ended.
	Kill(ctx context.Context) error
	Resize(ctx context.Context, width, height uint16) error
	// CloseStdin lets the program read the end of its input.
	CloseStdin(ctx context.Context) error
	// Wait blocks until the process has ended.
	Wait(ctx context.Context) (status uint32, err error)
	// Close frees the handle. The process goes on.
	Close() error
}

// Signal is a console event by the name that schema 2 gives it (SignalProcessOptions).
type Signal string

const (
	CtrlC        Signal = "CtrlC"
	CtrlBreak    Signal = "CtrlBreak"
	CtrlClose    Signal = "CtrlClose"
	CtrlLogOff   Signal = "CtrlLogOff"
	CtrlShutdown Signal = "CtrlShutdown"
)

// ProcessParameters are a program to run: the document of that name, the same in both schemas (Microsoft's HCS schema reference).
type ProcessParameters struct {
	CommandLine      string            `json:",omitempty"`
	User             string            `json:",omitempty"`
	WorkingDirectory string            `json:",omitempty"`
	Environment      map[string]string `json:",omitempty"`
	EmulateConsole   bool              `json:",omitempty"`
	CreateStdInPipe  bool              `json:",omitempty"`
	CreateStdOutPipe bool              `json:",omitempty"`
	CreateStdErrPipe bool              `json:",omitempty"` // not together with EmulateConsole
	ConsoleSize      *[2]uint16        `json:",omitempty"` // height and width in characters
}
