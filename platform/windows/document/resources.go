package document

import (
	"encoding/json"
	"math"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// resources are limits; 0 is none. At most one of count, maximum and weight is set.
type resources struct {
	count, maximum, weight uint32
	memoryMB               uint64
	iops, bps              uint64
	size                   uint64 // bytes of the container's drive
}

func newResources(w *specs.WindowsResources, processors int) (r resources, err error) {
	if w == nil {
		return r, nil
	}
	if err := r.cpu(w.CPU, processors); err != nil {
		return r, err
	}
	if w.Memory != nil && w.Memory.Limit != nil {
		r.memoryMB = *w.Memory.Limit >> 20
		if *w.Memory.Limit&(1<<20-1) != 0 {
			r.memoryMB++
		}
	}
	if s := w.Storage; s != nil {
		r.iops, r.bps, r.size = value(s.Iops), value(s.Bps), value(s.SandboxSize)
		if r.iops > math.MaxInt32 || r.bps > math.MaxInt64 || r.size > 1<<46 { // 64 TB: the most a VHDX can have
			return r, invalid("windows.resources.storage asks for more than Windows can count")
		}
	}
	return r, nil
}

func (r *resources) cpu(c *specs.WindowsCPUResources, processors int) error {
	if c == nil {
		return nil
	}
	given := 0
	for _, set := range []bool{value(c.Count) != 0, value(c.Maximum) != 0, value(c.Shares) != 0} {
		if set {
			given++
		}
	}
	switch {
	case given > 1:
		return invalid("windows.resources.cpu: count %d, maximum %d and shares %d exclude each other: set one", value(c.Count), value(c.Maximum), value(c.Shares))
	case value(c.Maximum) > 10000 || value(c.Shares) > 10000:
		return invalid("windows.resources.cpu: maximum %d and shares %d must be from 1 to 10000", value(c.Maximum), value(c.Shares))
	}
	// More than there are is no limit, as it is on Linux.
	r.count = uint32(min(value(c.Count), uint64(max(processors, 1))))
	r.maximum, r.weight = uint32(value(c.Maximum)), uint32(value(c.Shares))
	return nil
}

func value[T uint16 | uint64](p *T) T {
	if p == nil {
		return 0
	}
	return *p
}

func (r resources) schema2() (p *processor, m *memory, q *qos) {
	if r.count != 0 || r.maximum != 0 || r.weight != 0 {
		p = &processor{r.count, r.maximum, r.weight}
	}
	if r.memoryMB != 0 {
		m = &memory{r.memoryMB}
	}
	if r.iops != 0 || r.bps != 0 {
		q = &qos{r.iops, r.bps}
	}
	return p, m, q
}

// Update answers the requests that change the limits of a running container of schema 2 to a runtime-spec "windows.resources" object.
func Update(h Host, object json.RawMessage) ([]json.RawMessage, error) {
	var w specs.WindowsResources
	if err := json.Unmarshal(object, &w); err != nil {
		return nil, invalid("the resources are no runtime-spec object: %w", err)
	}
	r, err := newResources(&w, h.Machine().Processors)
	switch {
	case err != nil:
		return nil, err
	case r.iops != 0 || r.bps != 0 || r.size != 0:
		return nil, unimplemented("limits of storage cannot be changed while a container runs")
	}
	var requests []json.RawMessage
	add := func(path string, settings any) error {
		data, err := json.Marshal(settings)
		if err != nil {
			return err
		}
		request, err := json.Marshal(modifyRequest{path, "Update", data})
		requests = append(requests, request)
		return err
	}
	p, m, _ := r.schema2()
	if m != nil {
		if err := add("Container/Memory/SizeInMB", m.SizeInMB); err != nil {
			return nil, err
		}
	}
	if p != nil {
		if err := add("Container/Processor", p); err != nil {
			return nil, err
		}
	}
	return requests, nil
}
