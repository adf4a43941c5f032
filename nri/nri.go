// Package nri lets plugins of the Node Resource Interface (github.com/containerd/nri) see pods and containers, and adjust containers before
// they are made.
//
// It owns the socket that plugins connect to, the plugins that it starts itself, and the translation between their protocol and documents of
// the OCI runtime-spec. It never imports the daemon's folders: who has pods tells it of them, in the vocabulary of this package.
//
// A crash ends the connections and the plugins that were started; plugins that connect by themselves come again, and are then
// told of all that there is. Nothing is kept on disk but the socket.
package nri

import (
	"context"
	"log/slog"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Pod is what plugins are told of one.
type Pod struct {
	ID, Name, UID, Namespace, Handler string
	Labels, Annotations               map[string]string
	CgroupParent, NetNS               string
	Overhead, Resources               *specs.LinuxResources // nil where nobody said
	Pid                               uint32                // of the process that holds it, 0 without
	IPs                               []string
}

// Container is what plugins are told of one.
type Container struct {
	ID, PodID, Name             string
	State                       State
	Labels, Annotations         map[string]string
	Image, ImageDigest, ImageID string
	CDIDevices                  []string
	Document                    *specs.Spec // Create changes it
	Pid                         uint32
	Created, Started, Finished  time.Time
	ExitCode                    int32
	Reason, Message             string
}

// State of a container.
type State uint8

// In the order of NRI's ContainerState, which has a paused one at 2.
const (
	Unknown State = 0
	Created State = 1
	Running State = 3
	Stopped State = 4
)

// Event is a moment of which plugins are told and which they cannot change.
type Event uint8

const (
	RunPod Event = iota
	StopPod
	RemovePod
	PodUpdated
	ContainerCreated
	StartContainer
	ContainerStarted
	ContainerUpdated
	RemoveContainer
)

// Update are new limits that a plugin wants for a container.
type Update struct {
	ContainerID   string
	Resources     *specs.LinuxResources
	IgnoreFailure bool
}

// Host has the pods.
type Host interface {
	// Everything answers all pods and containers, for a plugin that joins.
	Everything(ctx context.Context) ([]Pod, []Container, error)
	// Change puts limits in force that plugins want, and answers those that could not be. It must not wait for a plugin.
	Change(ctx context.Context, updates []Update) (failed []Update)
}

// Config of the plugins' side.
type Config struct {
	Socket    string // where plugins connect; "" for nowhere
	PluginDir string // of programs NN-NAME that are started
	ConfigDir string // of their configuration, NN-NAME.conf or NAME.conf
	// RegistrationTimeout and RequestTimeout are what a plugin may take; 0 for the protocol's defaults of 5 s and 2 s. One that takes longer
	// for a request is disconnected.
	RegistrationTimeout, RequestTimeout time.Duration
	// InjectDevices adds devices that plugins name (Container Device Interface) to a document.
	InjectDevices func(doc *specs.Spec, names []string) error
	BlockIO       map[string]BlockIOClass // by the names that plugins have for them
	Version       string                  // the runtime's, as plugins are told
	Log           *slog.Logger
}
