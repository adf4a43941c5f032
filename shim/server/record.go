package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/shim/stdio"
)

// record is what another shim needs to go on with a container: STATE/NAMESPACE+ID.json, to which a line is added for each change.
// The last line that is whole counts. It lives as long as the machine does not reboot, so nothing of it is synced.
type record struct {
	Namespace, ID, Bundle string
	Paused                bool                     `json:",omitempty"`
	OOMKilled             bool                     `json:",omitempty"`
	Init                  processRecord            `json:""`
	Execs                 map[string]processRecord `json:",omitempty"`
}

type processRecord struct {
	Streams     stdio.Streams
	StdinClosed bool           `json:",omitempty"`
	Started     bool           `json:",omitempty"`
	Exit        *platform.Exit `json:",omitempty"`
	Pid         uint32         // kept for when it has ended
}

func (s *Server) recordPath(key string) string { return filepath.Join(s.conf.State, key+".json") }

// save writes c's record; c.mu is held. When the disk fails the container runs on, and only another shim would not find it.
func (s *Server) save(c *container) {
	r := record{Namespace: c.ns, ID: c.id, Bundle: c.bundle, Paused: c.paused, OOMKilled: c.oom, Init: c.init.record()}
	for id, p := range c.execs {
		if r.Execs == nil {
			r.Execs = make(map[string]processRecord, len(c.execs))
		}
		r.Execs[id] = p.record()
	}
	if err := s.writeRecord(c, r); err != nil {
		s.conf.Log.Error("cannot record the state of a container; a new shim would not adopt it as it is", "container", c.key(), "error", err)
	}
}

// maxRecord is the length in bytes from which on a record is written anew. (That a new file is made each time costs a start more.)
const maxRecord = 64 << 10

// writeRecord needs c.mu.
func (s *Server) writeRecord(c *container, r record) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	path := s.recordPath(c.key())
	if c.written += len(line); c.written <= maxRecord && appendTo(path, line) == nil {
		return nil
	}
	c.written = len(line)
	if err := os.WriteFile(path+".new", line, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func appendTo(path string, line []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	return errors.Join(err, f.Close())
}

// lastRecord answers the last line that is whole. A shim that was killed while it wrote the first had not answered Create, and then
// there is none.
func lastRecord(data []byte) (r record, ok bool) {
	lines := bytes.Split(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
	for _, line := range slices.Backward(lines[max(0, len(lines)-2):]) {
		r = record{}
		if json.Unmarshal(line, &r) == nil {
			return r, true
		}
	}
	return record{}, false
}

// records reads all records; one that cannot be read is told and left alone.
func (s *Server) records() (map[string]record, error) {
	entries, err := os.ReadDir(s.conf.State)
	if err != nil {
		return nil, fmt.Errorf("cannot read records of containers: %w", err)
	}
	all := map[string]record{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			if strings.HasSuffix(e.Name(), ".json.new") {
				_ = os.Remove(filepath.Join(s.conf.State, e.Name()))
			}
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.conf.State, e.Name()))
		r, ok := lastRecord(data)
		switch {
		case err != nil:
		case !ok && !bytes.Contains(data, []byte("\n")):
			_ = os.Remove(filepath.Join(s.conf.State, e.Name()))
			continue
		case !ok:
			err = errors.New("it is no JSON")
		case key(r.Namespace, r.ID) != name:
			err = errors.New("it is of another container")
		}
		if err != nil {
			s.conf.Log.Error("cannot read the record of a container; it is left alone", "container", name, "error", err)
			continue
		}
		all[name] = r
	}
	return all, nil
}

// record needs c.mu.
func (p *process) record() processRecord {
	r := processRecord{Streams: p.uris, StdinClosed: p.stdinClosed, Started: p.status != created, Pid: p.pidNow()}
	if p.status == stopped {
		exit := p.exit
		r.Exit = &exit
		r.Started = p.begun
	}
	return r
}

// unknownExit is told for a process that nobody saw ending.
func unknownExit() platform.Exit { return platform.Exit{Status: 255, At: time.Now(), Unknown: true} }
