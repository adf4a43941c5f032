package schema

import (
	"slices"
	"strings"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

// Apply makes a change to a system. A failure leaves s undefined: callers change a copy.
func (s *System) Apply(c *Change) error {
	if c.ResourceType != "" {
		return s.applyV1(c)
	}
	path := strings.ToLower(c.ResourcePath)
	adapter := strings.HasPrefix(path, "container/networking/networkadapters/") || strings.HasPrefix(path, "virtualmachine/devices/networkadapters/")
	switch {
	case path == "container/processor":
		var p Processor
		if err := Decode(string(c.Settings), &p); err != nil {
			return err
		}
		if p.Count < 0 || p.Maximum < 0 || p.Weight < 0 {
			return badValue("$.Settings", "a negative limit")
		}
		s.Limits.Count, s.Limits.Maximum, s.Limits.Weight = uint64(p.Count), uint64(p.Maximum), uint64(p.Weight)
		return s.Limits.Check()
	case path == "container/memory/sizeinmb":
		return Decode(string(c.Settings), &s.Limits.MemoryMB)
	case path == "container/mappeddirectories":
		var m MappedDirectory
		if err := Decode(string(c.Settings), &m); err != nil {
			return err
		}
		return s.directory(c.RequestType, Directory{Host: m.HostPath, Container: m.ContainerPath, ReadOnly: m.ReadOnly})
	case path == "container/mappedpipes":
		var m MappedPipe
		if err := Decode(string(c.Settings), &m); err != nil {
			return err
		}
		s.Pipes = append(slices.Clone(s.Pipes), Pipe{Host: m.HostPath, Container: m.ContainerPipeName})
		return s.check()
	case path == "container/networking/namespace":
		return Decode(string(c.Settings), &s.Namespace)
	case adapter, path == "container/containercredentialguard", strings.HasPrefix(path, "virtualmachine/"), c.GuestRequest != nil:
		return nil // only told apart from what doesn't exist
	}
	return hresult.New(hresult.NotSupported, "there is no resource '%s' to change", c.ResourcePath)
}

func (s *System) applyV1(c *Change) error {
	switch c.ResourceType {
	case "Network":
		var id string
		if err := Decode(string(c.Settings), &id); err != nil {
			return err
		}
		have := slices.Contains(s.Endpoints, id)
		switch {
		case c.RequestType == "Remove" && have:
			s.Endpoints = slices.DeleteFunc(slices.Clone(s.Endpoints), func(e string) bool { return e == id })
		case c.RequestType == "Remove":
			return hresult.New(hresult.ElementNotFound, "endpoint '%s' isn't there", id)
		case have:
			return hresult.New(hresult.AlreadyExists, "endpoint '%s' is there already", id)
		default:
			s.Endpoints = append(slices.Clone(s.Endpoints), id)
		}
		return nil
	case "MappedDirectory":
		var m MappedDirV1
		if err := Decode(string(c.Settings), &m); err != nil {
			return err
		}
		return s.directory(c.RequestType, Directory{Host: m.HostPath, Container: m.ContainerPath, ReadOnly: m.ReadOnly})
	}
	return hresult.New(hresult.NotSupported, "there is no resource '%s' to change", c.ResourceType)
}

func (s *System) directory(request string, d Directory) error {
	i := slices.IndexFunc(s.Directories, func(x Directory) bool { return x.Container == d.Container })
	if request != "Remove" {
		s.Directories = append(slices.Clone(s.Directories), d)
		return s.check()
	}
	if i < 0 {
		return hresult.New(hresult.ElementNotFound, "no directory at '%s'", d.Container)
	}
	s.Directories = slices.Delete(slices.Clone(s.Directories), i, i+1)
	return nil
}
