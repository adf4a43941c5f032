package schema

import (
	"encoding/json"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

// A System is what the service needs of a document of either version.
type System struct {
	Version         int // of the schema: 1 or 2
	Owner, Name     string
	HyperV          bool   // isolated by a virtual machine of its own
	HostProcess     bool   // not isolated from the host
	VirtualMachine  bool   // a virtual machine and no container
	Hosting         string // the virtual machine that it runs in
	Volume          string // the scratch's volume, with process isolation
	Scratch         string // its folder, with Hyper-V isolation
	HostName        string
	Namespace       string // GUID of a network namespace
	Endpoints       []string
	SharesNetworkOf string
	Credentials     string
	CloseTerminates bool
	Layers          []Layer
	Directories     []Directory
	Pipes           []Pipe
	Devices         []string
	Limits          Limits
}

// Layer is a read-only layer; the topmost comes first.
type Layer struct{ ID, Path string }

// Directory is a directory of the host seen in the container.
type Directory struct {
	Host, Container string
	ReadOnly        bool
}

// Pipe is a named pipe of the host seen in the container.
type Pipe struct{ Host, Container string }

// Limits are what a container may use; zero is no limit.
type Limits struct {
	Count, Weight, Maximum uint64 // processors; shares and hundredths of a percent, 1 to 10000
	MemoryMB               uint64
	IOPS, Bandwidth        uint64 // of the scratch; operations and bytes in a second
}

// Parse reads and checks the document of a system.
func Parse(doc string) (*System, error) {
	var version struct{ SchemaVersion *json.RawMessage }
	if err := json.Unmarshal([]byte(doc), &version); err != nil {
		return nil, invalid("$", "%v", err)
	}
	if version.SchemaVersion == nil {
		var c ContainerV1
		if err := Decode(doc, &c); err != nil {
			return nil, err
		}
		return c.system()
	}
	var c ComputeSystem
	if err := Decode(doc, &c); err != nil {
		return nil, err
	}
	return c.system()
}

// Check says what is wrong with limits, of a document or of a later change.
func (l Limits) Check() error {
	set := 0
	for _, v := range []uint64{l.Count, l.Weight, l.Maximum} {
		if v > 0 {
			set++
		}
	}
	switch {
	case set > 1:
		return badValue("$.Processor", "Count, Maximum and Weight exclude each other")
	case l.Weight > 10000:
		return badValue("$.Processor.Weight", "%d is not between 1 and 10000", l.Weight)
	case l.Maximum > 10000:
		return badValue("$.Processor.Maximum", "%d is not between 1 and 10000", l.Maximum)
	}
	return nil
}

func (s *System) check() error {
	if s.Volume != "" && !s.HyperV && !s.HostProcess && !volumePath.MatchString(s.Volume) {
		return badValue("$.Storage.Path", `'%s' is no volume, as in \\?\Volume{GUID}`, s.Volume)
	}
	for _, l := range s.Layers {
		if !guid.MatchString(l.ID) {
			return badValue("$.Layers", "'%s' is no GUID", l.ID)
		}
		if !absolute(l.Path) {
			return badValue("$.Layers", "'%s' is no full path", l.Path)
		}
	}
	seen := map[string]bool{}
	for _, d := range s.Directories {
		if !absolute(d.Host) || d.Container == "" {
			return badValue("$.MappedDirectories", "'%s' at '%s': both must be full paths", d.Host, d.Container)
		}
		if seen[d.Container] {
			return hresult.New(hresult.AlreadyExists, "Two mapped directories at '%s'", d.Container)
		}
		seen[d.Container] = true
	}
	for _, p := range s.Pipes {
		if !absolute(p.Host) || p.Container == "" || absolute(p.Container) {
			return badValue("$.MappedPipes", "'%s' as '%s': a full path on the host, a name in the container", p.Host, p.Container)
		}
	}
	if s.Namespace != "" && !guid.MatchString(s.Namespace) {
		return badValue("$.Networking.Namespace", "'%s' is no GUID", s.Namespace)
	}
	return s.Limits.Check()
}
