package compute

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/schema"
)

const maxSystems = 4096

// pending is what calls answer whose end a notification tells.
func pending() error {
	return hresult.New(hresult.OperationPending, "The operation is pending")
}

// Create makes a system; its error is OperationPending when all is well, and CreateCompleted follows.
func (h *Host) Create(c Client, id, doc string) (uint64, error) {
	spec, err := schema.Parse(doc)
	if err != nil {
		return 0, err
	}
	if id == "" || len(id) > 255 || strings.ContainsAny(id, `\/`) {
		return 0, hresult.New(hresult.InvalidParameter, "'%s' is no identifier of a system", id)
	}
	if err := h.launcher.Check(spec); err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.systems[id] != nil {
		return 0, hresult.New(hresult.SystemAlreadyExists, "A system with the identifier '%s' exists", id)
	}
	if len(h.systems) >= maxSystems {
		return 0, hresult.New(hresult.Fail, "more than %d systems", maxSystems)
	}
	if spec.Hosting != "" && (h.systems[spec.Hosting] == nil || !h.systems[spec.Hosting].spec.VirtualMachine) {
		return 0, hresult.New(hresult.SystemNotFound, "There is no virtual machine '%s' to host '%s'", spec.Hosting, id)
	}
	s := &system{id: id, doc: doc, state: "Created", spec: spec, runtimeID: runtimeID(id), created: time.Now(), procs: map[uint32]*process{}}
	if err := h.save(s); err != nil {
		return 0, err
	}
	h.systems[id] = s
	x := h.open(c, s, nil)
	h.notify(s, nil, CreateCompleted, hresult.OK)
	return x, pending()
}

func runtimeID(id string) string {
	b := sha256.Sum256([]byte(id))
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// Open opens a system that exists.
func (h *Host) Open(c Client, id string) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.systems[id]
	if s == nil {
		return 0, hresult.New(hresult.SystemNotFound, "A system with the identifier '%s' does not exist", id)
	}
	return h.open(c, s, nil), nil
}

// change moves a system from one of the states to another, and tells.
func (h *Host) change(c Client, id uint64, from []string, to string, event uint32) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, err := h.get(c, id, false)
	if err != nil {
		return err
	}
	s := x.sys
	if s.state == "Stopped" {
		return hresult.New(hresult.SystemAlreadyStopped, "'%s' has stopped", s.id)
	}
	if !slices.Contains(from, s.state) {
		return hresult.New(hresult.InvalidState, "'%s' is in the state '%s'", s.id, s.state)
	}
	old := s.state
	s.state = to
	if event == StartCompleted {
		s.started = time.Now()
	}
	if err := h.save(s); err != nil {
		s.state = old
		return err
	}
	if event == PauseCompleted || event == ResumeCompleted {
		for _, p := range s.procs {
			if !p.exited {
				_ = p.p.Suspend(event == PauseCompleted) // one that ends meanwhile needs no pause
			}
		}
	}
	h.notify(s, nil, event, hresult.OK)
	return pending()
}

// Start starts a system.
func (h *Host) Start(c Client, id uint64) error {
	return h.change(c, id, []string{"Created"}, "Running", StartCompleted)
}

// Pause stops a system's processes where they are. Windows can only do so with virtual machines.
func (h *Host) Pause(c Client, id uint64) error {
	h.mu.Lock()
	if x, err := h.get(c, id, false); err == nil && !x.sys.spec.HyperV {
		h.mu.Unlock()
		return hresult.New(hresult.NotImplemented, "'%s' is not isolated by Hyper-V and can't be paused", x.sys.id)
	}
	h.mu.Unlock()
	return h.change(c, id, []string{"Running"}, "Paused", PauseCompleted)
}

// Resume goes on after Pause.
func (h *Host) Resume(c Client, id uint64) error {
	return h.change(c, id, []string{"Paused"}, "Running", ResumeCompleted)
}

// Stop ends a system: Shutdown lets processes know, Terminate doesn't. SystemExited follows.
func (h *Host) Stop(c Client, id uint64, graceful bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	x, err := h.get(c, id, false)
	if err != nil {
		return err
	}
	switch {
	case x.sys.state == "Stopped":
		return hresult.New(hresult.SystemAlreadyStopped, "'%s' has stopped", x.sys.id)
	case graceful && x.sys.state == "Created":
		return hresult.New(hresult.InvalidState, "'%s' is in the state '%s'", x.sys.id, x.sys.state)
	case graceful:
		h.stop(x.sys, ExitControlC)
	default:
		h.stop(x.sys, ExitTerminate)
	}
	return pending()
}

// stop ends a system's processes; it has exited when all of them have. The caller holds the lock.
func (h *Host) stop(s *system, code uint32) {
	s.state = "Stopped"
	h.forget(s)
	for _, p := range s.procs {
		_ = p.p.End(code) // one that ended meanwhile has nothing to end
	}
	h.ended(s)
	for _, other := range h.systems { // a virtual machine takes its containers with it
		if other.spec.Hosting == s.id && other.state != "Stopped" {
			h.stop(other, code)
		}
	}
}

// ended tells that a stopped system exited, once nothing of it is left.
func (h *Host) ended(s *system) {
	if s.state != "Stopped" || h.systems[s.id] != s || s.launching > 0 {
		return
	}
	for _, p := range s.procs {
		if !p.exited {
			return
		}
	}
	delete(h.systems, s.id)
	h.notify(s, nil, SystemExited, hresult.OK)
}

type properties struct {
	ID              string `json:"Id"`
	SystemType      string
	RuntimeOsType   string
	Name            string `json:",omitempty"`
	Owner           string
	RuntimeID       string `json:"RuntimeId"`
	State           string
	Stopped         bool            `json:",omitempty"`
	HostingSystemID string          `json:"HostingSystemId,omitempty"`
	CloseTerminates *bool           `json:"TerminateOnLastHandleClosed,omitempty"`
	Statistics      *statistics     `json:",omitempty"`
	Memory          json.RawMessage `json:",omitempty"`
	ProcessList     []processItem   `json:",omitempty"`
}

func (s *system) basic() properties {
	p := properties{ID: s.id, SystemType: "Container", RuntimeOsType: "Windows", Name: s.spec.Name, Owner: s.spec.Owner, RuntimeID: s.runtimeID, State: s.state, Stopped: s.state == "Stopped", HostingSystemID: s.spec.Hosting}
	if s.spec.VirtualMachine {
		p.SystemType = "VirtualMachine"
	}
	return p
}

// Enumerate lists the systems that a filter chooses, as a JSON document.
func (h *Host) Enumerate(filter string) (string, error) {
	f, err := schema.ParseFilter(filter)
	if err != nil {
		return "", err
	}
	has := func(list []string, v string) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(x string) bool { return strings.EqualFold(x, v) })
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	list := []properties{}
	for _, s := range h.systems {
		p := s.basic()
		if has(f.Ids, p.ID) && has(f.Names, p.Name) && has(f.Owners, p.Owner) && has(f.Types, p.SystemType) {
			list = append(list, p)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	b, err := json.Marshal(list)
	return string(b), err
}
