package shim

import (
	"encoding/json"
	"time"

	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/shim/stdio"
	"github.com/slipwayd/slipway/storage"
)

// Status of a process, in the order of containerd's api/types/task.
type Status uint8

const (
	Unknown Status = iota
	Created
	Running
	Stopped
	Paused
	Pausing
)

// Streams are the URIs a client named for a process's standard streams: "" for none, a bare path for a fifo, file://, binary://.
type Streams = stdio.Streams

// CreateOptions is what a task is made from. It is free of protobuf so that package engine is too.
type CreateOptions struct {
	Namespace, ID string
	Runtime       string          // io.containerd.slipway.v1, io.containerd.runc.v2 or the name of a shim binary
	Options       *opaque.Any     // the runtime's own, as the client sent them
	Spec          json.RawMessage // runtime-spec config.json
	Rootfs        []storage.Mount // empty when the client mounted it
	Streams       Streams
	Checkpoint    string // directory of a CRIU image to restore from, "" for none
}

// ExecOptions is one more process for a task.
type ExecOptions struct {
	ExecID  string
	Spec    json.RawMessage // runtime-spec "process"
	Streams Streams
}

// State is a process as its shim knows it. ExecID is "" for init.
type State struct {
	Namespace, ID, ExecID string
	Bundle                string
	Pid                   uint32
	Status                Status
	Streams               Streams
	ExitStatus            uint32
	ExitedAt              time.Time // zero while it lives
	OOMKilled             bool      // the kernel has killed something in the task for lack of memory; told of init
}

// Exit is how a process ended.
type Exit struct {
	Pid    uint32
	Status uint32
	At     time.Time
}

// ProcessInfo is one process in a task; Info is the shim's, may be nil.
type ProcessInfo struct {
	Pid  uint32
	Info *opaque.Any
}

// Event is what a shim tells of a task: a topic such as /tasks/exit and the containerd event message.
type Event struct {
	Namespace string
	Topic     string
	At        time.Time
	Payload   opaque.Any
}

// Info tells what a runtime can do (containerd's RuntimeInfo).
type Info struct {
	Name        string
	Version     string
	Options     *opaque.Any
	Features    *opaque.Any // runtime-spec features
	Annotations map[string]string
}
