package document

import "encoding/json"

// computeSystem is a container in schema 2 (HCS schema reference: ComputeSystem, Container and what they hold).
type computeSystem struct {
	Owner         string
	SchemaVersion version
	Container     container2
	// False lets the container outlive us.
	ShouldTerminateOnLastHandleClosed bool
}

// version of schema 2 that is asked for: 2.1 came with Windows Server 2019.
type version struct{ Major, Minor int }

type container2 struct {
	GuestOs                  *guestOS         `json:",omitempty"`
	Storage                  storage2         //
	MappedDirectories        []directory2     `json:",omitempty"`
	MappedPipes              []pipe           `json:",omitempty"`
	Memory                   *memory          `json:",omitempty"`
	Processor                *processor       `json:",omitempty"`
	Networking               *networking      `json:",omitempty"`
	RegistryChanges          *registryChanges `json:",omitempty"`
	ContainerCredentialGuard json.RawMessage  `json:",omitempty"` // as the service made it
	AssignedDevices          []device2        `json:",omitempty"`
}

type guestOS struct{ HostName string }

type storage2 struct {
	Layers []layer2
	Path   string // \\?\Volume{GUID}\ with the backslash
	QoS    *qos   `json:",omitempty"`
}

type layer2 struct{ Id, Path string }

type qos struct {
	IopsMaximum      uint64 `json:",omitempty"`
	BandwidthMaximum uint64 `json:",omitempty"` // bytes a second
}

type directory2 struct {
	HostPath, ContainerPath string
	ReadOnly                bool `json:",omitempty"`
}

type memory struct{ SizeInMB uint64 }

type processor struct {
	Count   uint32 `json:",omitempty"`
	Maximum uint32 `json:",omitempty"` // hundredths of a percent of the host
	Weight  uint32 `json:",omitempty"` // 1 to 10000
}

type networking struct {
	AllowUnqualifiedDnsQuery bool   `json:",omitempty"`
	DnsSearchList            string `json:",omitempty"`
	Namespace                string `json:",omitempty"`
}

type registryChanges struct{ AddValues []registryValue }

type registryValue struct {
	Key         registryKey
	Name, Type  string
	StringValue string
}

type registryKey struct{ Hive, Name string }

type device2 struct {
	Type               string
	InterfaceClassGuid string `json:",omitempty"`
	LocationPath       string `json:",omitempty"`
}

// modifyRequest changes a running system (ModifySettingRequest).
type modifyRequest struct {
	ResourcePath string
	RequestType  string
	Settings     json.RawMessage
}
