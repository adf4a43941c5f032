package compute

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
	"github.com/slipwayd/slipway/testsuite/hcssim/schema"
)

type statistics struct {
	Timestamp, ContainerStartTime time.Time
	Uptime100ns                   uint64
	Processor                     struct{ TotalRuntime100ns, RuntimeUser100ns, RuntimeKernel100ns uint64 }
	Memory                        struct{ MemoryUsageCommitBytes, MemoryUsageCommitPeakBytes, MemoryUsagePrivateWorkingSetBytes uint64 }
	Storage                       struct{ ReadCountNormalized, ReadSizeBytes, WriteCountNormalized, WriteSizeBytes uint64 }
}

type processItem struct {
	ProcessID                    uint32 `json:"ProcessId"`
	ImageName                    string
	CreateTimestamp              time.Time
	UserTime100ns                uint64
	KernelTime100ns              uint64
	MemoryCommitBytes            uint64
	MemoryWorkingSetPrivateBytes uint64
	MemoryWorkingSetSharedBytes  uint64
}

// Properties answers what a query asks of a system, as a JSON document.
func (h *Host) Properties(c Client, id uint64, query string) (string, error) {
	types, err := schema.ParseQuery(query)
	if err != nil {
		return "", err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	x, err := h.get(c, id, false)
	if err != nil {
		return "", err
	}
	s := x.sys
	if s.state == "Stopped" {
		return "", hresult.New(hresult.InvalidState, "'%s' has stopped", s.id)
	}
	p := s.basic()
	for _, t := range types {
		switch t {
		case "Statistics":
			p.Statistics = s.statistics()
		case "ProcessList":
			p.ProcessList = s.list()
		case "TerminateOnLastHandleClosed":
			p.CloseTerminates = &s.spec.CloseTerminates
		case "Memory":
			if !s.spec.VirtualMachine {
				return "", hresult.New(hresult.NotSupported, "'%s' is no virtual machine", s.id)
			}
			p.Memory = json.RawMessage(`{"VirtualNodeCount":1}`)
		}
	}
	b, err := json.Marshal(p)
	return string(b), err
}

func (s *system) statistics() *statistics {
	st := &statistics{Timestamp: time.Now().UTC(), ContainerStartTime: s.started.UTC()}
	if !s.started.IsZero() {
		st.Uptime100ns = uint64(time.Since(s.started) / 100)
	}
	for _, p := range s.procs {
		u := p.p.Usage()
		st.Processor.RuntimeKernel100ns += u.Kernel100ns
		st.Processor.RuntimeUser100ns += u.User100ns
		if !p.exited {
			st.Memory.MemoryUsageCommitBytes += u.CommitBytes
			st.Memory.MemoryUsagePrivateWorkingSetBytes += u.PrivateBytes
		}
	}
	st.Processor.TotalRuntime100ns = st.Processor.RuntimeKernel100ns + st.Processor.RuntimeUser100ns
	st.Memory.MemoryUsageCommitPeakBytes = st.Memory.MemoryUsageCommitBytes
	return st
}

func (s *system) list() []processItem {
	list := []processItem{}
	for pid, p := range s.procs {
		if p.exited {
			continue
		}
		u := p.p.Usage()
		list = append(list, processItem{ProcessID: pid, ImageName: p.p.Image(), CreateTimestamp: p.created.UTC(), UserTime100ns: u.User100ns, KernelTime100ns: u.Kernel100ns, MemoryCommitBytes: u.CommitBytes, MemoryWorkingSetPrivateBytes: u.PrivateBytes})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ProcessID < list[j].ProcessID })
	return list
}

// Modify changes a running system's limits, directories, pipes or network.
func (h *Host) Modify(c Client, id uint64, doc string) error {
	change, err := schema.ParseChange(doc)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	x, err := h.get(c, id, false)
	if err != nil {
		return err
	}
	s := x.sys
	if s.state != "Running" && s.state != "Created" {
		return hresult.New(hresult.InvalidState, "'%s' is in the state '%s'", s.id, s.state)
	}
	spec := *s.spec
	if err := spec.Apply(change); err != nil {
		return fmt.Errorf("cannot change '%s': %w", s.id, err)
	}
	old := s.spec
	s.spec = &spec
	if err := h.save(s); err != nil {
		s.spec = old
		return err
	}
	return nil
}

// ServiceProperties answers what the service can do.
func (h *Host) ServiceProperties(query string) (string, error) {
	if strings.Contains(query, "ContainerCredentialGuard") {
		return h.guardProperties()
	}
	if strings.Contains(query, "Basic") || query == "" {
		return `{"Properties":[{"SupportedSchemaVersions":[{"Major":1,"Minor":0},{"Major":2,"Minor":5}]}]}`, nil
	}
	return `{"Properties":[]}`, nil
}
