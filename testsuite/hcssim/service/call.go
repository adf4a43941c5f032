package service

import (
	"strings"

	"github.com/slipwayd/slipway/testsuite/hcssim/compute"
	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/wire"
)

// reply is what a function answers beside its HRESULT, in the order in which the stub takes it.
type reply [][]byte

func handle(h uint64) []byte  { return wire.Uint64(h) }
func text(s string) []byte    { return wire.UTF16(s) }
func number(n uint32) []byte  { return wire.Uint32(n) }
func document(e error) []byte { return text(hresult.Document(e)) }

// call answers one request of a stub: the function's name, and its arguments.
func (s *Server) call(c compute.Client, fields [][]byte) ([][]byte, error) {
	if len(fields) == 0 {
		return nil, wire.ErrMalformed
	}
	name := string(fields[0])
	args := make([]string, 0, len(fields))
	for _, f := range fields[1:] {
		args = append(args, wire.NewArgs([][]byte{f}).String())
	}
	s.mu.Lock()
	s.calls[name]++
	s.mu.Unlock()
	act := s.Faults.Next(name, args)
	if act.Die && !act.After {
		s.Exit()
	}
	if act.Fail != hresult.OK && !act.After {
		err := hresult.New(act.Fail, "failure '%s' was asked for", act.Rule)
		s.Log.Printf("%s %q: %v", name, args, err)
		return s.failed(name, err), err
	}
	out, err := s.dispatch(c, name, wire.NewArgs(fields[1:]))
	if act.Die {
		s.Exit()
	}
	if act.Fail != hresult.OK {
		err = hresult.New(act.Fail, "failure '%s' was asked for", act.Rule)
		out = s.failed(name, err)
	}
	s.Log.Printf("%s %q: 0x%08x", name, args, uint32(hresult.Of(err)))
	return out, err
}

// failed is the reply of a failure: no results, and the document where the function has one.
func (s *Server) failed(name string, err error) reply {
	doc := document(err)
	switch {
	case name == "HcsCreateProcess":
		return reply{nil, nil, doc}
	case name == "HcsCreateComputeSystem", strings.Contains(name, "Open"), strings.HasPrefix(name, "HcnCreate"), strings.Contains(name, "Enumerate"),
		strings.HasSuffix(name, "Properties"), name == "HcsGetProcessInfo":
		return reply{nil, doc}
	case strings.HasPrefix(name, "Hcs"), strings.HasPrefix(name, "Hcn"):
		return reply{doc}
	}
	return nil
}

func (s *Server) dispatch(c compute.Client, name string, a *wire.Args) (reply, error) {
	var out reply
	var err error
	switch {
	case strings.HasPrefix(name, "Hcn"), name == "HNSCall":
		out, err = s.network(c, name, a)
	case strings.HasPrefix(name, "Hcs") && strings.Contains(name, "Process"):
		out, err = s.process(c, name, a)
	case strings.HasPrefix(name, "Hcs"):
		out, err = s.system(c, name, a)
	default:
		out, err = s.layer(name, a)
	}
	if err != nil && hresult.Of(err) != hresult.OperationPending {
		return s.failed(name, err), err
	}
	return out, err
}

// after calls f unless the arguments weren't what they should be.
func after(a *wire.Args, f func() error) error {
	if err := a.Err(); err != nil {
		return err
	}
	return f()
}

func (s *Server) system(c compute.Client, name string, a *wire.Args) (out reply, err error) {
	h := s.compute
	switch name {
	case "HcsEnumerateComputeSystems":
		list, err := h.Enumerate(a.String())
		return reply{text(list), nil}, err
	case "HcsCreateComputeSystem":
		id, doc := a.String(), a.String()
		err = after(a, func() error {
			x, err := h.Create(c, id, doc)
			out = reply{handle(x), nil}
			return err
		})
		return out, err
	case "HcsOpenComputeSystem":
		x, err := h.Open(c, a.String())
		return reply{handle(x), nil}, err
	case "HcsGetServiceProperties":
		doc, err := h.ServiceProperties(a.String())
		return reply{text(doc), nil}, err
	case "HcsModifyServiceSettings":
		return reply{nil}, h.ModifyService(a.String())
	}
	x := a.Uint64()
	if name == "HcsUnregisterComputeSystemCallback" {
		return nil, after(a, func() error { return h.Unregister(c, x) })
	}
	if name == "HcsCloseComputeSystem" {
		return nil, after(a, func() error { return h.Close(c, x, false) })
	}
	if name == "HcsRegisterComputeSystemCallback" {
		callback := a.Uint64()
		return nil, after(a, func() error { return h.Register(c, x, callback, false) })
	}
	options := a.String()
	out = reply{nil}
	return out, after(a, func() error {
		switch name {
		case "HcsStartComputeSystem":
			return h.Start(c, x)
		case "HcsShutdownComputeSystem":
			return h.Stop(c, x, true)
		case "HcsTerminateComputeSystem":
			return h.Stop(c, x, false)
		case "HcsPauseComputeSystem":
			return h.Pause(c, x)
		case "HcsResumeComputeSystem":
			return h.Resume(c, x)
		case "HcsModifyComputeSystem":
			return h.Modify(c, x, options)
		case "HcsGetComputeSystemProperties":
			doc, err := h.Properties(c, x, options)
			out = reply{text(doc), nil}
			return err
		}
		return hresult.New(hresult.NotImplemented, "%s is not simulated", name)
	})
}

func (s *Server) process(c compute.Client, name string, a *wire.Args) (out reply, err error) {
	h, x := s.compute, a.Uint64()
	switch name {
	case "HcsCreateProcess":
		doc := a.String()
		return out, after(a, func() error {
			p, pid, io, err := h.CreateProcess(c, x, doc)
			out = reply{information(pid, io), handle(p), nil}
			return err
		})
	case "HcsOpenProcess":
		pid := a.Uint32()
		return out, after(a, func() error {
			p, err := h.OpenProcess(c, x, pid)
			out = reply{handle(p), nil}
			return err
		})
	case "HcsRegisterProcessCallback":
		callback := a.Uint64()
		return nil, after(a, func() error { return h.Register(c, x, callback, true) })
	case "HcsSignalProcess":
		options := a.String()
		return reply{nil}, after(a, func() error { return h.SignalProcess(c, x, options) })
	case "HcsModifyProcess":
		settings := a.String()
		return reply{nil}, after(a, func() error { return h.ModifyProcess(c, x, settings) })
	}
	return out, after(a, func() error {
		switch name {
		case "HcsUnregisterProcessCallback":
			return h.Unregister(c, x)
		case "HcsCloseProcess":
			return h.Close(c, x, true)
		case "HcsTerminateProcess":
			out = reply{nil}
			return h.TerminateProcess(c, x)
		case "HcsGetProcessInfo":
			pid, io, err := h.ProcessInfo(c, x)
			out = reply{information(pid, io), nil}
			return err
		case "HcsGetProcessProperties":
			doc, err := h.ProcessProperties(c, x)
			out = reply{text(doc), nil}
			return err
		}
		return hresult.New(hresult.NotImplemented, "%s is not simulated", name)
	})
}

// information is a HCS_PROCESS_INFORMATION as it lies in memory.
func information(pid uint32, io compute.Stdio) []byte {
	b := append(wire.Uint64(uint64(pid)), wire.Uint64(io.In)...)
	return append(append(b, wire.Uint64(io.Out)...), wire.Uint64(io.Err)...)
}
