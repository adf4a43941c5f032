package document

// config1 is a container in schema 1 (hcsshim's ContainerConfig, the fields that are used).
type config1 struct {
	SystemType               string
	Name                     string
	Owner                    string           `json:",omitempty"`
	VolumePath               string           `json:",omitempty"` // \\?\Volume{GUID} without a backslash at its end; not for Hyper-V
	IgnoreFlushesDuringBoot  bool             `json:",omitempty"`
	LayerFolderPath          string           `json:",omitempty"` // the scratch layer
	Layers                   []layer1         // uppermost first
	Credentials              string           `json:",omitempty"` // a credential spec, JSON in a string
	ProcessorCount           uint32           `json:",omitempty"`
	ProcessorWeight          uint64           `json:",omitempty"` // 1 to 10000
	ProcessorMaximum         int64            `json:",omitempty"` // hundredths of a percent of the host
	StorageIOPSMaximum       uint64           `json:",omitempty"`
	StorageBandwidthMaximum  uint64           `json:",omitempty"` // bytes a second
	StorageSandboxSize       uint64           `json:",omitempty"` // bytes
	MemoryMaximumInMB        int64            `json:",omitempty"`
	HostName                 string           `json:",omitempty"`
	MappedDirectories        []directory1     `json:",omitempty"`
	MappedPipes              []pipe           `json:",omitempty"`
	HvPartition              bool             // Hyper-V isolation
	NetworkShared            string           `json:"NetworkSharedContainerName,omitempty"`
	EndpointList             []string         `json:",omitempty"`
	HvRuntime                *utilityVM       `json:",omitempty"`
	Servicing                bool             `json:",omitempty"`
	AllowUnqualifiedDNSQuery bool             `json:",omitempty"`
	DNSSearchList            string           `json:",omitempty"` // separated by commas
	AssignedDevices          []assignedDevice `json:",omitempty"`
}

type layer1 struct{ ID, Path string }

type directory1 struct {
	HostPath, ContainerPath string
	ReadOnly                bool
}

type utilityVM struct{ ImagePath string }

type assignedDevice struct {
	InterfaceClassGuid string
}

// pipe is the same in both schemas.
type pipe struct {
	ContainerPipeName string // without \\.\pipe\
	HostPath          string
}
