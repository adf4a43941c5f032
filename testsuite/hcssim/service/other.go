package service

import (
	"path/filepath"
	"strings"

	"github.com/slipwayd/slipway/testsuite/hcssim/compute"
	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/layers"
	"github.com/slipwayd/slipway/testsuite/hcssim/networks"
	"github.com/slipwayd/slipway/testsuite/hcssim/wire"
)

// path reads a driver's folder and a layer's name in it, which is a full path when the folder is none.
func path(a *wire.Args) string {
	home, id := a.String(), a.String()
	if home == "" {
		return id
	}
	return filepath.Join(home, id)
}

// parents reads a stack of layers: GUID and path of each.
func parents(a *wire.Args) ([]string, error) {
	fields, err := wire.Split(a.Bytes())
	if err != nil {
		return nil, err
	}
	all := wire.NewArgs(fields)
	var paths []string
	for range len(fields) / 2 {
		id, p := all.GUID(), all.String()
		if wire.FormatGUID(layers.GUID(filepath.Base(p))) != id && wire.FormatGUID(layers.GUID(p)) != id {
			return nil, hresult.New(hresult.InvalidParameter, "%s is not the GUID of layer '%s'", id, p)
		}
		paths = append(paths, p)
	}
	return paths, all.Err()
}

func (s *Server) layer(name string, a *wire.Args) (out reply, err error) {
	l := s.Layers
	switch name {
	case "NameToGuid":
		g := layers.GUID(a.String())
		return reply{g[:]}, a.Err()
	case "ProcessBaseImage":
		p := a.String()
		return nil, after(a, func() error { return l.ProcessBase(p) })
	case "ProcessUtilityImage":
		p := a.String()
		return nil, after(a, func() error { return l.ProcessUtility(p) })
	case "GrantVmAccess":
		vm, p := a.String(), a.String()
		return nil, after(a, func() error { return l.GrantAccess(vm, p) })
	case "GetBaseImages":
		return reply{text(`{"Images":[]}`)}, a.Err()
	}
	p := path(a)
	switch name {
	case "AttachVirtualDisk":
		return nil, after(a, func() error { return l.Attach(filepath.Dir(p)) })
	case "ActivateLayer":
		return nil, after(a, func() error { return l.Activate(p) })
	case "DeactivateLayer":
		return nil, after(a, func() error { return l.Deactivate(p) })
	case "UnprepareLayer":
		return nil, after(a, func() error { return l.Unprepare(p) })
	case "DestroyLayer":
		return nil, after(a, func() error { return l.Destroy(p) })
	case "LayerExists":
		n := uint32(0)
		if l.Exists(p) {
			n = 1
		}
		return reply{number(n)}, a.Err()
	case "GetLayerMountPath":
		mount, err := l.MountPath(p)
		return reply{text(mount)}, err
	case "ExpandSandboxSize":
		size := a.Uint64()
		return nil, after(a, func() error { return l.ExpandScratch(p, size) })
	case "CreateSandboxLayer", "PrepareLayer":
		stack, err := parents(a)
		if err != nil {
			return nil, err
		}
		if name == "PrepareLayer" {
			return nil, after(a, func() error { return l.Prepare(p, stack) })
		}
		return nil, after(a, func() error { return l.CreateScratch(p, stack) })
	case "ImportLayer", "ExportLayer":
		folder := a.String()
		stack, err := parents(a)
		if err != nil {
			return nil, err
		}
		if name == "ImportLayer" {
			return nil, after(a, func() error { return l.Import(p, folder, stack) })
		}
		return nil, after(a, func() error { return l.Export(p, folder, stack) })
	}
	return nil, hresult.New(hresult.NotImplemented, "%s is not simulated", name)
}

// kinds are the kinds of objects of the network service, the longest name first.
var kinds = []networks.Kind{networks.LoadBalancer, networks.Namespace, networks.Endpoint, networks.Network, networks.Route}

func (s *Server) network(c compute.Client, name string, a *wire.Args) (out reply, err error) {
	n := s.Networks
	if name == "HNSCall" {
		method, path, _ := a.String(), a.String(), a.String()
		return reply{text(n.Call(method, path))}, a.Err()
	}
	for _, k := range kinds {
		if verb, ok := strings.CutPrefix(name, "Hcn"); ok && strings.Contains(verb, string(k)) {
			return s.object(c.Name, k, strings.Replace(verb, string(k), "", 1), a)
		}
	}
	return nil, hresult.New(hresult.NotImplemented, "%s is not simulated", name)
}

// object answers a function for objects of a kind; verb is what is left of its name without that.
func (s *Server) object(client string, k networks.Kind, verb string, a *wire.Args) (out reply, err error) {
	n := s.Networks
	switch verb {
	case "Enumerates": // of HcnEnumerateNetworks
		list, err := n.Enumerate(k, a.String())
		return reply{text(list), nil}, err
	case "Create":
		var network uint64
		if k == networks.Endpoint {
			network = a.Uint64()
		}
		id, settings := a.GUID(), a.String()
		return out, after(a, func() error {
			h, err := n.Create(client, k, network, id, settings)
			out = reply{handle(h), nil}
			return err
		})
	case "Open":
		id := a.GUID()
		return out, after(a, func() error {
			h, err := n.Open(client, k, id)
			out = reply{handle(h), nil}
			return err
		})
	case "Delete":
		id := a.GUID()
		return reply{nil}, after(a, func() error { return n.Delete(k, id) })
	}
	h := a.Uint64()
	if verb == "Close" {
		return nil, after(a, func() error { return n.Close(client, k, h) })
	}
	doc := a.String()
	return out, after(a, func() error {
		switch verb {
		case "Modify":
			out = reply{nil}
			return n.Modify(client, k, h, doc)
		case "QueryProperties":
			text_, err := n.Query(client, k, h, doc)
			out = reply{text(text_), nil}
			return err
		}
		return hresult.New(hresult.NotImplemented, "%s of a %s is not simulated", verb, k)
	})
}
