package document

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform/windows/hcs"
)

// Container is a spec that was checked: what Document needs besides is made by whoever mounts its layers.
type Container struct {
	Schema int        // 1 or 2, of the document
	HyperV bool       // the layers are not to be mounted: the utility VM does
	Layers hcs.Layers // what the container's drive is made of
	// Volume is where the client mounted the layers itself; "" when that is still to be done.
	Volume string
	// Namespace is the network namespace whose endpoints Document needs to be told; "" when it does not.
	Namespace string
	// Credentials is the credential spec for which Document needs to be told a Guard; "" when it needs none.
	Credentials string
	// Process is the program to start in it.
	Process specs.Process

	spec      *specs.Spec
	utilityVM string
	resources resources
	mounts    mounts
	devices   []device2
	creds     string
}

// Made is what was made for a Container.
type Made struct {
	Volume    string          // where its layers are mounted
	LayerIDs  []string        // the service's ids of Layers.Parents, in their order
	Endpoints []string        // of Namespace
	Guard     json.RawMessage // of Credentials (ContainerCredentialGuardState)
}

// owner is what the service's tools (hcsdiag list) show as the owner of a system.
const owner = "slipway"

// New checks the runtime-spec document oci of a container for host h. rootfs are its layers when the client handed them over as mounts;
// zero when they are in the document. Errors are InvalidArgument for what cannot be, NotImplemented for what needs another shim.
func New(h Host, oci json.RawMessage, rootfs hcs.Layers) (*Container, error) {
	var spec specs.Spec
	if err := json.Unmarshal(oci, &spec); err != nil {
		return nil, invalid("the spec is no runtime-spec document: %w", err)
	}
	if err := checkSpec(&spec); err != nil {
		return nil, err
	}
	c := &Container{spec: &spec, HyperV: spec.Windows.HyperV != nil, Process: *spec.Process}
	if _, err := Process(&c.Process); err != nil {
		return nil, err
	}
	if err := compatible(h.Machine().Build, spec.Annotations[osVersion], c.HyperV); err != nil {
		return nil, err
	}
	if err := c.chooseSchema(h.Machine().Build); err != nil {
		return nil, err
	}
	for _, step := range []func(Host) error{
		func(Host) error { return c.takeLayers(rootfs) },
		c.takeUtilityVM,
		func(h Host) (err error) {
			c.resources, err = newResources(spec.Windows.Resources, h.Machine().Processors)
			return err
		},
		func(h Host) (err error) { c.mounts, err = newMounts(h, spec.Mounts, c.Schema); return err },
		func(Host) (err error) {
			c.devices, err = newDevices(spec.Windows.Devices, c.Schema, c.HyperV)
			return err
		},
	} {
		if err := step(h); err != nil {
			return nil, err
		}
	}
	c.Layers.Size = c.resources.size
	return c, nil
}

// chooseSchema prefers schema 2. Schema 1 is for old hosts and for what schema 2 can do only with objects that hcsshim's public API does
// not make: utility VMs, network stacks without a namespace.
func (c *Container) chooseSchema(build uint16) error {
	w := c.spec.Windows
	creds, err := credentials(w.CredentialSpec)
	if err != nil {
		return err
	}
	c.creds, c.Schema = creds, 2
	n := w.Network
	if n == nil {
		n = &specs.WindowsNetwork{}
	}
	if err := checkNetwork(n); err != nil {
		return err
	}
	if build < firstSchema2 || c.HyperV || w.Servicing || len(n.EndpointList) > 0 || n.NetworkSharedContainerName != "" {
		c.Schema = 1
		c.Namespace = n.NetworkNamespace
		return nil
	}
	c.Credentials = creds
	return nil
}

func (c *Container) takeLayers(rootfs hcs.Layers) error {
	folders := c.spec.Windows.LayerFolders
	path := ""
	if c.spec.Root != nil {
		path = c.spec.Root.Path
	}
	switch {
	case rootfs.Scratch != "" && (len(folders) > 0 || path != ""):
		return invalid("the container has layers by its mounts and by its spec (root.path, windows.layerFolders): only one can be")
	case rootfs.Scratch != "":
		c.Layers = rootfs
	case len(folders) > maxEntries:
		return invalid("windows.layerFolders has %d entries, more than %d", len(folders), maxEntries)
	case len(folders) < 2:
		return invalid("windows.layerFolders has %d entries: it needs an image's layers and then a scratch layer", len(folders))
	default:
		last := len(folders) - 1
		c.Layers = hcs.Layers{Scratch: folders[last], Parents: folders[:last]}
	}
	for i, p := range append([]string{c.Layers.Scratch}, c.Layers.Parents...) {
		if _, err := hostPath(p); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	if len(c.Layers.Parents) == 0 {
		return invalid("the scratch layer %#q has no parents: a container needs an image's layers", c.Layers.Scratch)
	}
	if path == "" {
		return nil
	}
	if c.HyperV {
		return invalid("root.path must not be set for a container with Hyper-V isolation")
	}
	volume, err := volumePath(path)
	c.Volume = volume
	return err
}

// takeUtilityVM finds the image of the virtual machine for Hyper-V isolation: the nearest layer that has one.
func (c *Container) takeUtilityVM(h Host) error {
	if !c.HyperV {
		return nil
	}
	candidates := []string{c.spec.Windows.HyperV.UtilityVMPath}
	if candidates[0] == "" {
		candidates = nil
		for _, p := range c.Layers.Parents {
			candidates = append(candidates, strings.TrimRight(p, `\`)+`\UtilityVM`)
		}
	}
	for _, p := range candidates {
		if _, dir, err := h.Resolve(p); err == nil && dir {
			c.utilityVM = p
			return nil
		}
	}
	return invalid("cannot find the utility VM for Hyper-V isolation: no such directory: %s", strings.Join(candidates, ", "))
}

// Document is what the service creates system id from.
func (c *Container) Document(id string, m Made) (json.RawMessage, error) {
	if len(m.LayerIDs) != len(c.Layers.Parents) {
		return nil, fmt.Errorf("%d ids for %d layers", len(m.LayerIDs), len(c.Layers.Parents))
	}
	if c.Schema == 2 {
		return json.Marshal(c.schema2(m))
	}
	return json.Marshal(c.schema1(id, m))
}

func (c *Container) schema1(id string, m Made) *config1 {
	w, r := c.spec.Windows, c.resources
	d := &config1{
		SystemType: "Container", Name: id, Owner: owner, HvPartition: c.HyperV, IgnoreFlushesDuringBoot: w.IgnoreFlushesDuringBoot,
		VolumePath: m.Volume, LayerFolderPath: c.Layers.Scratch, Servicing: w.Servicing, HostName: c.spec.Hostname, Credentials: c.creds,
		ProcessorCount: r.count, ProcessorWeight: uint64(r.weight), ProcessorMaximum: int64(r.maximum), MemoryMaximumInMB: int64(r.memoryMB),
		StorageIOPSMaximum: r.iops, StorageBandwidthMaximum: r.bps,
		MappedPipes: c.mounts.pipes, EndpointList: m.Endpoints,
	}
	if c.HyperV {
		d.HvRuntime = &utilityVM{c.utilityVM}
		d.StorageSandboxSize = r.size
	}
	for i, p := range c.Layers.Parents {
		d.Layers = append(d.Layers, layer1{m.LayerIDs[i], p})
	}
	for _, dir := range c.mounts.dirs {
		d.MappedDirectories = append(d.MappedDirectories, directory1(dir))
	}
	for _, dev := range c.devices {
		d.AssignedDevices = append(d.AssignedDevices, assignedDevice{dev.InterfaceClassGuid})
	}
	if n := w.Network; n != nil {
		d.EndpointList = append(d.EndpointList, n.EndpointList...)
		d.NetworkShared, d.AllowUnqualifiedDNSQuery = n.NetworkSharedContainerName, n.AllowUnqualifiedDNSQuery
		d.DNSSearchList = strings.Join(n.DNSSearchList, ",")
	}
	return d
}

func (c *Container) schema2(m Made) *computeSystem {
	d := &computeSystem{Owner: owner, SchemaVersion: version{2, 1}, Container: container2{
		Storage:           storage2{Path: m.Volume + `\`},
		MappedDirectories: c.mounts.dirs, MappedPipes: c.mounts.pipes, AssignedDevices: c.devices,
		ContainerCredentialGuard: m.Guard,
		// How long services of the image get to end after a signal is for the client to say, not for the 5 s that are Windows' default.
		RegistryChanges: &registryChanges{[]registryValue{{
			Key: registryKey{"System", `ControlSet001\Control`}, Name: "WaitToKillServiceTimeout", Type: "String", StringValue: "2147483647",
		}}},
	}}
	for i, p := range c.Layers.Parents {
		d.Container.Storage.Layers = append(d.Container.Storage.Layers, layer2{m.LayerIDs[i], p})
	}
	if c.spec.Hostname != "" {
		d.Container.GuestOs = &guestOS{c.spec.Hostname}
	}
	d.Container.Processor, d.Container.Memory, d.Container.Storage.QoS = c.resources.schema2()
	if n := c.spec.Windows.Network; n != nil {
		d.Container.Networking = &networking{n.AllowUnqualifiedDNSQuery, strings.Join(n.DNSSearchList, ","), n.NetworkNamespace}
	}
	return d
}
