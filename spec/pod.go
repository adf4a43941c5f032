package spec

// The types of this file are what a kubelet asks of a pod and its containers: the part of CRI's PodSandboxConfig and
// ContainerConfig (k8s.io/cri-api, runtime/v1) that is not of Windows alone (winpod.go), without protobuf. They are kept as JSON in
// records, so that a field may be added and never given another meaning.

// Pod is what a pod sandbox is made from.
type Pod struct {
	Name, UID, Namespace string
	Attempt              uint32
	Handler              string            `json:",omitempty"` // runtime class; "" for the default
	Hostname             string            `json:",omitempty"`
	LogDirectory         string            `json:",omitempty"`
	CgroupParent         string            `json:",omitempty"`
	DNS                  *DNS              `json:",omitempty"` // nil: the host's
	Ports                []PortMapping     `json:",omitempty"`
	Labels, Annotations  map[string]string `json:",omitempty"`
	Sysctls              map[string]string `json:",omitempty"`
	Overhead, Resources  *Resources        `json:",omitempty"`
	Security             PodSecurity
}

type DNS struct {
	Servers, Searches, Options []string `json:",omitempty"`
}

type PortMapping struct {
	Protocol                string // tcp, udp or sctp
	ContainerPort, HostPort int32
	HostIP                  string `json:",omitempty"`
}

// Mode says whose namespace a container has.
type Mode uint8

// In the order of CRI's NamespaceMode.
const (
	ModePod Mode = iota
	ModeContainer
	ModeNode
	ModeTarget
)

// Namespaces are the choices of a pod or container.
type Namespaces struct {
	Network, PID, IPC Mode
	Target            string `json:",omitempty"` // id of the container whose PID namespace is joined
	User              *UserNamespace
}

type UserNamespace struct {
	Mode       Mode // ModePod or ModeNode
	UIDs, GIDs []IDMap
}

// IDMap maps Size ids from Container on to those from Host on.
type IDMap struct{ Container, Host, Size uint32 }

// PodSecurity is what containers of the pod have in common.
type PodSecurity struct {
	Namespaces     Namespaces
	Privileged     bool
	SELinux        *SELinux         `json:",omitempty"`
	Seccomp        *Profile         `json:",omitempty"`
	AppArmor       *Profile         `json:",omitempty"`
	User, Group    *int64           `json:",omitempty"`
	Groups         []int64          `json:",omitempty"`
	StrictGroups   bool             `json:",omitempty"`
	ReadonlyRootfs bool             `json:",omitempty"`
	Windows        *WindowsSecurity `json:",omitempty"`
}

type SELinux struct{ User, Role, Type, Level string }

// Profile names a seccomp or AppArmor profile.
type Profile struct {
	Kind ProfileKind
	Ref  string `json:",omitempty"` // of ProfileLocalhost: a file's path for seccomp, a loaded profile's name for AppArmor
}

type ProfileKind uint8

// In the order of CRI's SecurityProfile.ProfileType.
const (
	ProfileDefault ProfileKind = iota
	ProfileUnconfined
	ProfileLocalhost
)

// PodContainer is what a container of a pod is made from.
type PodContainer struct {
	Name                string
	Attempt             uint32
	Image               PodImage
	Command, Args, Env  []string          `json:",omitempty"` // Env is KEY=VALUE
	WorkingDir          string            `json:",omitempty"`
	Mounts              []PodMount        `json:",omitempty"`
	Devices             []Device          `json:",omitempty"`
	CDIDevices          []string          `json:",omitempty"`
	Labels, Annotations map[string]string `json:",omitempty"`
	LogPath             string            `json:",omitempty"` // below the pod's log directory
	Stdin, StdinOnce    bool              `json:",omitempty"`
	TTY                 bool              `json:",omitempty"`
	StopSignal          string            `json:",omitempty"` // such as SIGTERM; "" for the image's
	Resources           *Resources        `json:",omitempty"`
	Security            ContainerSecurity
}

// PodImage is how an image was named.
type PodImage struct {
	Ref, UserRef, Handler string            `json:",omitempty"`
	Annotations           map[string]string `json:",omitempty"`
}

// ContainerSecurity is what a container may.
type ContainerSecurity struct {
	Namespaces                              Namespaces
	Privileged                              bool
	AddCapabilities, DropCapabilities       []string `json:",omitempty"` // with or without CAP_; ALL for all
	AmbientCapabilities                     []string `json:",omitempty"`
	SELinux                                 *SELinux `json:",omitempty"`
	Seccomp, AppArmor                       *Profile `json:",omitempty"`
	User, Group                             *int64   `json:",omitempty"`
	Username                                string   `json:",omitempty"`
	Groups                                  []int64  `json:",omitempty"`
	StrictGroups, ReadonlyRootfs, NoNewPriv bool     `json:",omitempty"`
	MaskedPaths, ReadonlyPaths              []string `json:",omitempty"`
	// Unset says that nobody said anything about security: the default masked and read-only paths hold.
	Unset   bool             `json:",omitempty"`
	Windows *WindowsSecurity `json:",omitempty"`
}

// Propagation of mounts, in the order of CRI's MountPropagation.
type Propagation uint8

const (
	PropagationPrivate Propagation = iota
	PropagationFromHost
	PropagationBoth
)

// PodMount is a volume: a path of the host, or an image.
type PodMount struct {
	Destination       string
	Source            string `json:",omitempty"`
	Readonly          bool   `json:",omitempty"`
	RecursiveReadonly bool   `json:",omitempty"`
	Relabel           bool   `json:",omitempty"`
	Propagation       Propagation
	UIDs, GIDs        []IDMap   `json:",omitempty"` // an id-mapped mount
	Image             *PodImage `json:",omitempty"`
	ImageSubPath      string    `json:",omitempty"`
	Options           []string  `json:",omitempty"`
}

// Device is a device of the host, or a directory of such.
type Device struct{ Container, Host, Permissions string }

// Resources are limits in CRI's units: µs of CPU time, bytes of memory. Zero means not set.
type Resources struct {
	CPUPeriod, CPUQuota, CPUShares int64             `json:",omitempty"`
	Memory, Swap                   int64             `json:",omitempty"` // Swap is memory and swap together
	OOMScoreAdj                    int64             `json:",omitempty"`
	CPUs, MemoryNodes              string            `json:",omitempty"`
	Hugepages                      []HugepageLimit   `json:",omitempty"`
	Unified                        map[string]string `json:",omitempty"`
	Windows                        *WindowsResources `json:",omitempty"` // and then nothing of the above
}

type HugepageLimit struct {
	PageSize string
	Limit    uint64
}
