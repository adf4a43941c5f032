// Package hcstest has a Host Compute Service that is made up: systems are values and processes goroutines that know a few programs. With
// it the executor is tested on every system. It answers and refuses as the real service does where an executor can tell; documents
// it takes as they are (package document's golden files and the simulator of testsuite/hcssim look at those). It owns memory only.
package hcstest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/platform/windows/hcs"
)

// Host is an hcs.Host without Windows. Its fields may be set before it is used.
type Host struct {
	Build uint16          // 0 for 20348
	Files map[string]bool // paths that Resolve finds, true for directories
	// Deaf lets systems ignore Shutdown.
	Deaf bool
	// NoSignals lets processes answer NotImplemented to signals, as builds before 17763 do.
	NoSignals bool

	mu      sync.Mutex
	fail    map[string]error
	pid     int
	systems map[string]*system
	mounts  map[string]bool
	guards  map[string]bool
	docs    []json.RawMessage
}

var _ hcs.Host = (*Host)(nil)

// Fail lets the next call of an operation ("Mount", "CreateSystem", "Start", ...) answer err.
func (h *Host) Fail(operation string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail == nil {
		h.fail = map[string]error{}
	}
	h.fail[operation] = err
}

// failing needs h.mu.
func (h *Host) failing(operation string) error {
	err := h.fail[operation]
	delete(h.fail, operation)
	return err
}

// Left names what exists: systems, mounts and credential guards.
func (h *Host) Left() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var left []string
	for id := range h.systems {
		left = append(left, "system "+id)
	}
	for path := range h.mounts {
		left = append(left, "mount "+path)
	}
	for id := range h.guards {
		left = append(left, "guard "+id)
	}
	slices.Sort(left)
	return left
}

// Documents are all that systems were created from.
func (h *Host) Documents() []json.RawMessage {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.docs)
}

// Crash ends a system as if it had broken down, or all when id is "", without a word about its processes.
func (h *Host) Crash(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.systems {
		if id == "" || s.id == id {
			s.silent = true
			s.end()
		}
	}
}

func (h *Host) Machine() hcs.Machine {
	m := hcs.Machine{Build: h.Build, Processors: 4}
	if m.Build == 0 {
		m.Build = 20348
	}
	return m
}

func (h *Host) Resolve(path string) (string, bool, error) {
	dir, ok := h.Files[path]
	if !ok {
		return "", false, fmt.Errorf("there is no %s: %w", path, errdefs.ErrNotFound)
	}
	return path, dir, nil
}

func (h *Host) Mount(ctx context.Context, l hcs.Layers) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.failing("Mount"); err != nil {
		return "", err
	}
	if h.mounts == nil {
		h.mounts = map[string]bool{}
	}
	h.mounts[l.Scratch] = true
	return `\\?\Volume{00000000-0000-0000-0000-000000000001}`, nil
}

func (h *Host) Unmount(ctx context.Context, scratch string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.failing("Unmount"); err != nil {
		return err
	}
	delete(h.mounts, scratch)
	return nil
}

func (h *Host) LayerID(ctx context.Context, path string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("00000000-0000-0000-0000-%012x", len(path)), h.failing("LayerID")
}

func (h *Host) NamespaceEndpoints(ctx context.Context, namespace string) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return []string{"E" + namespace[1:]}, h.failing("NamespaceEndpoints")
}

func (h *Host) AddGuard(ctx context.Context, id, credentialSpec string) (json.RawMessage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.guards == nil {
		h.guards = map[string]bool{}
	}
	h.guards[id] = true // also when it fails: a crash in between leaves it so
	return json.RawMessage(`{"Cookie":"c","RpcEndpoint":"e","Transport":"LRPC"}`), h.failing("AddGuard")
}

func (h *Host) RemoveGuard(ctx context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.guards, id)
	return h.failing("RemoveGuard")
}

func (h *Host) CreateSystem(ctx context.Context, id string, document json.RawMessage) (hcs.System, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.failing("CreateSystem"); err != nil {
		return nil, err
	}
	switch {
	case !json.Valid(document):
		return nil, fmt.Errorf("document of system %s: %w", id, errdefs.ErrInvalidArgument)
	case h.systems[id] != nil:
		return nil, fmt.Errorf("system %s: %w", id, errdefs.ErrAlreadyExists)
	case h.systems == nil:
		h.systems = map[string]*system{}
	}
	h.docs = append(h.docs, document)
	s := &system{h: h, id: id, state: "Created", processes: map[int]*process{}, gone: make(chan struct{})}
	h.systems[id] = s
	return s, nil
}

func (h *Host) OpenSystem(ctx context.Context, id string) (hcs.System, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.failing("OpenSystem"); err != nil {
		return nil, err
	}
	if s := h.systems[id]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("system %s: %w", id, errdefs.ErrNotFound)
}

// system needs h.mu for all that changes.
type system struct {
	h         *Host
	id, state string
	silent    bool
	processes map[int]*process
	gone      chan struct{}
}

// do runs one operation of a system that must be in one of these states.
func (s *system) do(operation string, f func(), states ...string) error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if err := s.h.failing(operation); err != nil {
		return err
	}
	if !slices.Contains(states, s.state) {
		return fmt.Errorf("%s of system %s, which is %s: %w", operation, s.id, s.state, errdefs.ErrFailedPrecondition)
	}
	f()
	return nil
}

func (s *system) Start(ctx context.Context) error {
	return s.do("Start", func() { s.state = "Running" }, "Created")
}

func (s *system) Pause(ctx context.Context) error {
	return s.do("Pause", func() { s.state = "Paused" }, "Running")
}

func (s *system) Resume(ctx context.Context) error {
	return s.do("Resume", func() { s.state = "Running" }, "Paused")
}

func (s *system) Shutdown(ctx context.Context) error {
	return s.do("Shutdown", func() {
		if !s.h.Deaf {
			s.end()
		}
	}, "Created", "Running", "Paused", "Stopped")
}

func (s *system) Terminate(ctx context.Context) error {
	return s.do("Terminate", s.end, "Created", "Running", "Paused", "Stopped")
}

// end needs h.mu.
func (s *system) end() {
	if s.state == "Stopped" {
		return
	}
	s.state = "Stopped"
	delete(s.h.systems, s.id)
	close(s.gone)
	for _, p := range s.processes {
		p.end(aborted)
	}
}

func (s *system) Wait(ctx context.Context) error {
	select {
	case <-s.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *system) Modify(ctx context.Context, request json.RawMessage) error {
	return s.do("Modify", func() {}, "Created", "Running")
}

func (s *system) Properties(ctx context.Context, types ...string) (json.RawMessage, error) {
	answer := map[string]any{}
	err := s.do("Properties", func() {
		answer["Id"], answer["State"] = s.id, s.state
		if slices.Contains(types, "Statistics") {
			answer["Statistics"] = map[string]any{"Timestamp": time.Now(), "Memory": map[string]any{"MemoryUsageCommitBytes": 4096 * len(s.processes)}}
		}
		if slices.Contains(types, "ProcessList") {
			list := []any{}
			for _, p := range s.processes {
				list = append(list, map[string]any{"ProcessId": p.pid, "ImageName": p.args[0], "CreateTimestamp": p.began})
			}
			answer["ProcessList"] = list
		}
	}, "Created", "Running", "Paused")
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}

func (s *system) CreateProcess(ctx context.Context, params hcs.ProcessParameters) (hcs.Process, error) {
	args := strings.Fields(params.CommandLine)
	if i := strings.Index(params.CommandLine, `"`); i >= 0 { // one quoted argument, the last
		args = append(strings.Fields(params.CommandLine[:i]), strings.Trim(params.CommandLine[i:], `"`))
	}
	if !slices.Contains(programs, args[0]) {
		return nil, fmt.Errorf("the system cannot find the file %s: %w", args[0], errdefs.ErrInvalidArgument)
	}
	var p *process
	err := s.do("CreateProcess", func() {
		s.h.pid += 4
		p = newProcess(s, s.h.pid+1000, args, params)
		s.processes[p.pid] = p
	}, "Running")
	if err != nil {
		return nil, err
	}
	go p.run()
	return p, nil
}

func (s *system) OpenProcess(ctx context.Context, pid int) (hcs.Process, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if p := s.processes[pid]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %d of system %s: %w", pid, s.id, errdefs.ErrNotFound)
}

func (s *system) Close() error { return nil }
