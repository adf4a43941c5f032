package linux

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func (c *container) Pause(ctx context.Context) error  { return c.freeze(true) }
func (c *container) Resume(ctx context.Context) error { return c.freeze(false) }

func (c *container) freeze(pause bool) error {
	c.updating.Lock()
	defer c.updating.Unlock()
	c.mu.Lock()
	paused := c.paused
	c.mu.Unlock()
	verb := "resume"
	if pause {
		verb = "pause"
	}
	if c.init.hasEnded() || paused == pause {
		return fmt.Errorf("cannot %s container %q: it has ended, or is so already: %w", verb, c.name(), errdefs.ErrFailedPrecondition)
	}
	if err := c.setFrozen(pause); err != nil {
		return fmt.Errorf("cannot %s container %q: %w", verb, c.name(), classify(err))
	}
	c.setPaused(pause)
	return nil
}

func (c *container) setFrozen(pause bool) error {
	if c.cli != nil {
		defer c.e.reaper.begin()()
		return c.cli.freeze(pause)
	}
	return c.freezeCgroup(pause)
}

func (c *container) setPaused(paused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = paused
}

// thawDying lets a killed process of a frozen v1 cgroup get its signal.
func (c *container) thawDying() error {
	c.mu.Lock()
	paused := c.paused
	c.mu.Unlock()
	if !paused {
		return nil
	}
	cg, err := c.cgroups()
	if err != nil {
		return err
	}
	if err := cg.Freeze(cgroups.Thawed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot thaw container %q, so that it can die: %w", c.name(), err)
	}
	c.setPaused(false)
	return nil
}

// Update merges resources into those the container has: what they leave out stays.
func (c *container) Update(ctx context.Context, resources json.RawMessage, annotations map[string]string) error {
	c.updating.Lock()
	defer c.updating.Unlock()
	if c.init.hasEnded() {
		return fmt.Errorf("cannot update container %q: it has ended: %w", c.name(), errdefs.ErrFailedPrecondition)
	}
	merged, err := mergeResources(c.record.Resources, resources)
	if err != nil {
		return fmt.Errorf("cannot update container %q: %v: %w", c.name(), err, errdefs.ErrInvalidArgument)
	}
	wanted, err := specconv.CreateCgroupConfig(&specconv.CreateOpts{
		CgroupName: c.record.Name,
		Spec:       &specs.Spec{Linux: &specs.Linux{Resources: merged}},
	}, nil)
	if err != nil {
		return fmt.Errorf("cannot update container %q: %v: %w", c.name(), err, errdefs.ErrInvalidArgument)
	}
	cg, err := c.cgroups()
	if err != nil {
		return err
	}
	// Devices stay as they are: a plug-in may have changed them behind our back.
	wanted.Resources.SkipDevices = true
	if err := cg.Set(wanted.Resources); err != nil {
		return fmt.Errorf("cannot update container %q: %w", c.name(), classify(err))
	}
	c.record.Resources = merged
	return c.rewriteRecord()
}

// mergeResources lays the fields of update over a copy of have.
func mergeResources(have *specs.LinuxResources, update json.RawMessage) (*specs.LinuxResources, error) {
	merged := &specs.LinuxResources{}
	if have != nil {
		data, err := json.Marshal(have)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, merged); err != nil {
			return nil, err
		}
	}
	var asked specs.LinuxResources
	if err := json.Unmarshal(update, &asked); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(update, merged); err != nil {
		return nil, err
	}
	if m := asked.Memory; m != nil && m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
		merged.Memory.Swap = nil // a swap limit cannot be without a memory limit
	}
	if cpu := asked.CPU; cpu != nil && cpu.Idle != nil && cpu.Shares == nil {
		merged.CPU.Shares = nil // the kernel refuses a weight for an idle cgroup
	}
	return merged, nil
}
