package schema

import "encoding/json"

// ComputeSystem is a document of version 2.
type ComputeSystem struct {
	Owner                             string
	SchemaVersion                     *Version
	HostingSystemId                   string
	HostedSystem                      *HostedSystem
	Container                         *Container
	VirtualMachine                    *VirtualMachine
	ShouldTerminateOnLastHandleClosed bool
}

// Version is a schema's version.
type Version struct{ Major, Minor int }

// HostedSystem is a container for a virtual machine to run.
type HostedSystem struct {
	SchemaVersion *Version
	Container     *Container
}

// Container is a container of version 2.
type Container struct {
	GuestOs                   *struct{ HostName string }
	Storage                   *Storage
	MappedDirectories         []MappedDirectory
	MappedPipes               []MappedPipe
	Memory                    *struct{ SizeInMB uint64 }
	Processor                 *Processor
	Networking                *Networking
	HvSocket                  *json.RawMessage
	ContainerCredentialGuard  *CredentialGuard
	RegistryChanges           *RegistryChanges
	AssignedDevices           []Device
	AdditionalDeviceNamespace *json.RawMessage
	IsolationType             string
}

// Storage is a container's layers and its scratch.
type Storage struct {
	Layers                      []StorageLayer
	Path                        string
	QoS                         *struct{ IopsMaximum, BandwidthMaximum uint64 }
	PrivilegedContainerRootPath string
}

// StorageLayer is one layer.
type StorageLayer struct{ Id, Path, PathType, Cache string }

// MappedDirectory is a directory of the host in the container.
type MappedDirectory struct {
	HostPath, HostPathType, ContainerPath string
	ReadOnly                              bool
}

// MappedPipe is a named pipe of the host in the container.
type MappedPipe struct{ ContainerPipeName, HostPath, HostPathType string }

// Processor limits processors.
type Processor struct{ Count, Maximum, Weight int64 }

// Networking is a container's network.
type Networking struct {
	AllowUnqualifiedDnsQuery                             bool
	DnsSearchList, NetworkSharedContainerName, Namespace string
	NetworkAdapters                                      []string
}

// CredentialGuard is an instance of a group managed service account.
type CredentialGuard struct{ Cookie, RpcEndpoint, Transport, CredentialSpec string }

// RegistryChanges are made before the container starts.
type RegistryChanges struct {
	AddValues []struct {
		Key                                  *RegistryKey
		Name, Type, StringValue, BinaryValue string
		DWordValue, QWordValue, CustomType   int64
	}
	DeleteKeys []RegistryKey
}

// RegistryKey names a key.
type RegistryKey struct {
	Hive, Name string
	Volatile   bool
}

// Device is a class of devices, or one.
type Device struct{ Type, InterfaceClassGuid, LocationPath string }

// VirtualMachine is a virtual machine; what it consists of is only told apart from what it isn't.
type VirtualMachine struct {
	Version                                                                       *Version
	StopOnReset                                                                   bool
	Chipset, ComputeTopology, Devices, GuestState, RestoreState                   *json.RawMessage
	RegistryChanges                                                               *RegistryChanges
	StorageQoS, DebugOptions, GuestConnection, SecuritySettings, MigrationOptions *json.RawMessage
	ResourcePartitionId                                                           string
}

func (c *ComputeSystem) system() (*System, error) {
	if c.SchemaVersion.Major != 2 || c.SchemaVersion.Minor < 0 {
		return nil, badValue("$.SchemaVersion", "version %d.%d is not supported", c.SchemaVersion.Major, c.SchemaVersion.Minor)
	}
	s := &System{Version: 2, Owner: c.Owner, CloseTerminates: c.ShouldTerminateOnLastHandleClosed, Hosting: c.HostingSystemId}
	switch {
	case c.Owner == "":
		return nil, missing("$", "Owner")
	case c.VirtualMachine != nil && c.Container != nil:
		return nil, invalid("$", "both 'Container' and 'VirtualMachine'")
	case c.HostedSystem != nil && c.HostingSystemId == "":
		return nil, missing("$", "HostingSystemId")
	case c.VirtualMachine != nil:
		if c.VirtualMachine.Chipset == nil || c.VirtualMachine.ComputeTopology == nil {
			return nil, missing("$.VirtualMachine", "Chipset' and 'ComputeTopology")
		}
		s.VirtualMachine, s.HyperV = true, true
		return s, nil
	case c.HostedSystem != nil:
		if c.HostedSystem.SchemaVersion == nil {
			return nil, missing("$.HostedSystem", "SchemaVersion")
		}
		s.HyperV = true
		c.Container = c.HostedSystem.Container
	}
	if c.Container == nil {
		return nil, missing("$", "Container")
	}
	return s, c.Container.fill(s)
}

func (c *Container) fill(s *System) error {
	if c.IsolationType != "" && c.IsolationType != "HostProcess" {
		return badValue("$.Container.IsolationType", "'%s' is not known", c.IsolationType)
	}
	s.HostProcess = c.IsolationType == "HostProcess"
	if c.Storage == nil {
		return missing("$.Container", "Storage")
	}
	if len(c.Storage.Layers) == 0 {
		return missing("$.Container.Storage", "Layers")
	}
	if c.Storage.Path == "" {
		return missing("$.Container.Storage", "Path")
	}
	s.Volume = c.Storage.Path
	for _, l := range c.Storage.Layers {
		s.Layers = append(s.Layers, Layer{ID: l.Id, Path: l.Path})
	}
	if q := c.Storage.QoS; q != nil {
		s.Limits.IOPS, s.Limits.Bandwidth = q.IopsMaximum, q.BandwidthMaximum
	}
	for _, m := range c.MappedDirectories {
		s.Directories = append(s.Directories, Directory{Host: m.HostPath, Container: m.ContainerPath, ReadOnly: m.ReadOnly})
	}
	for _, p := range c.MappedPipes {
		s.Pipes = append(s.Pipes, Pipe{Host: p.HostPath, Container: p.ContainerPipeName})
	}
	if c.GuestOs != nil {
		s.HostName = c.GuestOs.HostName
	}
	if c.Memory != nil {
		s.Limits.MemoryMB = c.Memory.SizeInMB
	}
	if p := c.Processor; p != nil {
		if p.Count < 0 || p.Maximum < 0 || p.Weight < 0 {
			return badValue("$.Container.Processor", "a negative limit")
		}
		s.Limits.Count, s.Limits.Maximum, s.Limits.Weight = uint64(p.Count), uint64(p.Maximum), uint64(p.Weight)
	}
	if n := c.Networking; n != nil {
		s.Namespace, s.Endpoints, s.SharesNetworkOf = n.Namespace, n.NetworkAdapters, n.NetworkSharedContainerName
	}
	if g := c.ContainerCredentialGuard; g != nil {
		if g.Cookie == "" || g.RpcEndpoint == "" || g.Transport == "" {
			return missing("$.Container.ContainerCredentialGuard", "Cookie', 'RpcEndpoint' and 'Transport")
		}
		s.Credentials = g.CredentialSpec
	}
	return c.fillDevices(s)
}

func (c *Container) fillDevices(s *System) error {
	for _, d := range c.AssignedDevices {
		switch {
		case (d.Type == "" || d.Type == "ClassGuid") && guid.MatchString(d.InterfaceClassGuid):
			s.Devices = append(s.Devices, d.InterfaceClassGuid)
		case d.Type == "DeviceInstance" && d.LocationPath != "":
			s.Devices = append(s.Devices, d.LocationPath)
		case d.Type == "GpuMirror":
		default:
			return badValue("$.Container.AssignedDevices", "type '%s', class '%s', path '%s'", d.Type, d.InterfaceClassGuid, d.LocationPath)
		}
	}
	return s.check()
}
