package compute

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/slipwayd/slipway/testsuite/hcssim/schema"
)

// record is a system on disk. Spec is the document with what was changed since.
type record struct {
	ID, Document, State string
	Spec                *schema.System
	Created, Started    time.Time
	Processes           []processRecord
}

type processRecord struct {
	PID     uint32
	Started int64
	Created time.Time
	Command string
	Console bool
	Exited  bool
	Code    uint32
}

func (h *Host) file(s *system) string { return filepath.Join(h.dir, s.runtimeID+".json") }

func (h *Host) save(s *system) error {
	r := record{ID: s.id, Document: s.doc, State: s.state, Spec: s.spec, Created: s.created, Started: s.started}
	for pid, p := range s.procs {
		r.Processes = append(r.Processes, processRecord{PID: pid, Started: p.p.Started(), Created: p.created, Command: p.command, Console: p.console, Exited: p.exited, Code: p.code})
	}
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	tmp := h.file(s) + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, h.file(s))
}

func (h *Host) forget(s *system) { _ = os.Remove(h.file(s)) } // what stays is found again, with its processes gone

// load reads the systems that an earlier service left. A process that is no more ended with an unknown code.
func (h *Host) load() error {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(h.dir, e.Name())
		if filepath.Ext(name) != ".json" {
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var r record
		if err := json.Unmarshal(b, &r); err != nil {
			return err
		}
		h.restore(r)
	}
	return nil
}

func (h *Host) restore(r record) {
	s := &system{id: r.ID, doc: r.Document, state: r.State, spec: r.Spec, runtimeID: runtimeID(r.ID), created: r.Created, started: r.Started, procs: map[uint32]*process{}}
	h.systems[s.id] = s
	for _, pr := range r.Processes {
		q := &process{sys: s, p: past{pr}, command: pr.Command, created: pr.Created, console: pr.Console, exited: true, code: pr.Code}
		s.procs[pr.PID] = q
		if pr.Exited {
			continue
		}
		if p, err := h.launcher.Reopen(pr.PID, pr.Started); err == nil {
			q.p, q.exited = p, false
			h.watch(q)
		} else {
			q.code = ExitAborted
		}
	}
}

// past is a process that is no more.
type past struct{ r processRecord }

func (p past) PID() uint32         { return p.r.PID }
func (p past) Started() int64      { return p.r.Started }
func (p past) Image() string       { return p.r.Command }
func (p past) Wait() uint32        { return p.r.Code }
func (p past) Kill(uint32) error   { return nil }
func (p past) End(uint32) error    { return nil }
func (p past) Signal(string) error { return nil }
func (p past) Suspend(bool) error  { return nil }
func (p past) Usage() Usage        { return Usage{} }

func (p past) Streams(uint32) (Stdio, error) { return Stdio{}, nil }
func (p past) CloseStream(string) error      { return nil }
