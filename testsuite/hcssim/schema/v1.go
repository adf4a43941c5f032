package schema

import (
	"encoding/json"
	"regexp"
	"strings"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

// ContainerV1 is a container in version 1 of the schema, which has no SchemaVersion.
type ContainerV1 struct {
	SystemType, Name, Owner, VolumePath, LayerFolderPath            string
	IgnoreFlushesDuringBoot, HvPartition, Servicing                 bool
	AllowUnqualifiedDNSQuery, TerminateOnLastHandleClosed           bool
	Layers                                                          []LayerV1
	Credentials, HostName, NetworkSharedContainerName               string
	DNSSearchList, ContainerType                                    string
	ProcessorCount                                                  uint32
	ProcessorWeight                                                 uint64
	ProcessorMaximum, MemoryMaximumInMB                             int64
	StorageIOPSMaximum, StorageBandwidthMaximum, StorageSandboxSize uint64
	MappedDirectories                                               []MappedDirV1
	MappedPipes                                                     []MappedPipeV1
	EndpointList                                                    []string
	HvRuntime                                                       *HvRuntimeV1
	MappedVirtualDisks                                              []json.RawMessage
	AssignedDevices                                                 []AssignedDeviceV1
}

// LayerV1 names a layer folder.
type LayerV1 struct{ ID, Path string }

// MappedDirV1 is a directory of the host in a container.
type MappedDirV1 struct {
	HostPath, ContainerPath                    string
	ReadOnly, CreateInUtilityVM, LinuxMetadata bool
	BandwidthMaximum, IOPSMaximum              uint64
}

// MappedPipeV1 is a named pipe of the host in a container.
type MappedPipeV1 struct{ HostPath, ContainerPipeName string }

// HvRuntimeV1 is what a Hyper-V container boots from.
type HvRuntimeV1 struct {
	ImagePath, LinuxInitrdFile, LinuxKernelFile, LinuxBootParameters, BootSource string
	SkipTemplate, WritableBootSource                                             bool
}

// AssignedDeviceV1 is a class of devices.
type AssignedDeviceV1 struct{ InterfaceClassGuid string }

var (
	volumePath = regexp.MustCompile(`^\\\\\?\\Volume\{[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}\\?$`)
	guid       = regexp.MustCompile(`^\{?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}?$`)
	drivePath  = regexp.MustCompile(`^[A-Za-z]:\\`)
)

// absolute says whether p is a full path of Windows: of a drive, a share, a volume or a pipe.
func absolute(p string) bool { return drivePath.MatchString(p) || strings.HasPrefix(p, `\\`) }

func missing(path, property string) error {
	return invalid(path, "Missing required property '%s'", property)
}

func badValue(path, format string, args ...any) error {
	err := invalid(path, format, args...).(*hresult.Failure)
	err.Code = hresult.InvalidParameter
	return err
}

func (c *ContainerV1) system() (*System, error) {
	switch {
	case c.SystemType == "":
		return nil, missing("$", "SystemType")
	case c.SystemType != "Container":
		return nil, badValue("$.SystemType", "'%s' is not 'Container'", c.SystemType)
	case c.Name == "":
		return nil, missing("$", "Name")
	case len(c.Layers) == 0:
		return nil, missing("$", "Layers")
	case !c.HvPartition && c.VolumePath == "":
		return nil, missing("$", "VolumePath")
	case c.HvPartition && c.HvRuntime == nil:
		return nil, missing("$", "HvRuntime")
	case c.HvPartition && c.LayerFolderPath == "":
		return nil, missing("$", "LayerFolderPath")
	}
	s := &System{
		Owner: c.Owner, Name: c.Name, Version: 1, HyperV: c.HvPartition, Volume: c.VolumePath, Scratch: c.LayerFolderPath, HostName: c.HostName,
		CloseTerminates: c.TerminateOnLastHandleClosed, Endpoints: c.EndpointList, Credentials: c.Credentials, SharesNetworkOf: c.NetworkSharedContainerName,
		Limits: Limits{Count: uint64(c.ProcessorCount), Weight: c.ProcessorWeight, Maximum: uint64(max(c.ProcessorMaximum, 0)), MemoryMB: uint64(max(c.MemoryMaximumInMB, 0)), IOPS: c.StorageIOPSMaximum, Bandwidth: c.StorageBandwidthMaximum},
	}
	if c.ProcessorMaximum < 0 || c.MemoryMaximumInMB < 0 {
		return nil, badValue("$", "a negative limit")
	}
	for _, l := range c.Layers {
		s.Layers = append(s.Layers, Layer(l))
	}
	for _, m := range c.MappedDirectories {
		s.Directories = append(s.Directories, Directory{Host: m.HostPath, Container: m.ContainerPath, ReadOnly: m.ReadOnly})
	}
	for _, p := range c.MappedPipes {
		s.Pipes = append(s.Pipes, Pipe{Host: p.HostPath, Container: p.ContainerPipeName})
	}
	for _, d := range c.AssignedDevices {
		if !guid.MatchString(d.InterfaceClassGuid) {
			return nil, badValue("$.AssignedDevices", "'%s' is no GUID", d.InterfaceClassGuid)
		}
		s.Devices = append(s.Devices, d.InterfaceClassGuid)
	}
	return s, s.check()
}
