package linux

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
)

var _ platform.Checkpointer = (*container)(nil)

// Checkpoint has CRIU write the container, by way of libcontainer.
func (c *container) Checkpoint(ctx context.Context, o platform.CheckpointOptions) error {
	c.updating.Lock()
	defer c.updating.Unlock()
	if err := c.checkpoint(o); err != nil {
		return fmt.Errorf("cannot checkpoint container %q: %w", c.name(), err)
	}
	return nil
}

func (c *container) checkpoint(o platform.CheckpointOptions) (err error) {
	switch {
	case c.cli != nil:
		return fmt.Errorf("the OCI runtime %s runs it; only those of the built-in runtime can be: %w", c.cli.Binary, errdefs.ErrNotImplemented)
	case !c.init.running():
		return fmt.Errorf("it does not run: %w", errdefs.ErrFailedPrecondition)
	case !filepath.IsAbs(o.Images):
		return fmt.Errorf("%q is no absolute path: %w", o.Images, errdefs.ErrInvalidArgument)
	}
	emptyNs, err := emptyNamespaces(o.EmptyNamespaces)
	if err != nil {
		return err
	}
	if err := findCriu(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(c.dir, "criu.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c.awaitProgram()
	lc, settings, err := c.criuView(dir)
	if err != nil {
		return err
	}
	defer settings.Close()
	done, err := c.note(cmp.Or(o.Work, o.Images))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	defer c.e.reaper.begin()()
	err = lc.Checkpoint(&libcontainer.CriuOpts{
		ImagesDirectory: o.Images, WorkDirectory: o.Work, LeaveRunning: !o.Exit, TcpEstablished: o.OpenTCP,
		ExternalUnixConnections: o.ExternalSockets, ShellJob: o.ShellJob, FileLocks: o.FileLocks, EmptyNs: emptyNs,
		ManageCgroupsMode: o.CgroupsMode, StatusFd: -1,
	})
	if err != nil {
		return criuError(err, filepath.Join(cmp.Or(o.Work, o.Images), "dump.log"))
	}
	if o.Exit {
		return c.thawDying()
	}
	return nil
}

// startGrace is how long a container that is being checkpointed may take to execute its program.
const startGrace = time.Second

// awaitProgram lets a container that was started a moment ago execute its program: CRIU cannot write what it was before. One that executes
// something out of nowhere (memfd_create) waits in vain.
func (c *container) awaitProgram() {
	for wait := time.Millisecond; wait < startGrace && !executing(c.init.Pid()); wait *= 2 {
		time.Sleep(wait)
	}
}

// checkpointNote is in the folder of a container while CRIU is at work on it. CRIU freezes and thaws, and when we die it goes on to the point where it
// wants to tell us of it; then it puts back what it found.
type checkpointNote struct {
	Work   string // CRIU's working directory
	Paused bool
}

// note keeps for a later executor what the container was like. The answer takes the note away.
func (c *container) note(work string) (done func() error, err error) {
	c.mu.Lock()
	n := checkpointNote{Work: work, Paused: c.paused}
	c.mu.Unlock()
	data, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(c.dir, noteFile)
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return nil, err
	}
	return func() error { return os.Remove(file) }, os.Rename(file+".new", file)
}

// readNote is for an executor that adopts the container: it is paused when it was before the checkpoint, or whoever resumes it says otherwise, but
// not because CRIU froze it.
func (c *container) readNote() {
	data, err := os.ReadFile(filepath.Join(c.dir, noteFile))
	var n checkpointNote
	if err != nil || json.Unmarshal(data, &n) != nil {
		return
	}
	c.paused = n.Paused
	cg, err := c.cgroups() // now: libcontainer, which may be asked for them, does not answer while it starts a process that is frozen
	if err != nil {
		c.e.log.Warn("cannot put back a container after a checkpoint that was cut short", "id", c.id, "error", err)
		return
	}
	c.e.background.Go(func() { c.settle(cg, n) })
}

// settle waits for the CRIU of an executor that died, and freezes or thaws the container as it should be.
func (c *container) settle(cg cgroups.Manager, n checkpointNote) {
	for criuWorksIn(n.Work) {
		select {
		case <-c.e.closed:
			return
		case <-time.After(lookAgain):
		}
	}
	c.updating.Lock()
	defer c.updating.Unlock()
	c.mu.Lock()
	state := cgroups.Thawed
	if c.paused {
		state = cgroups.Frozen
	}
	c.mu.Unlock()
	if err := cg.Freeze(state); err != nil && !c.init.hasEnded() {
		c.e.log.Warn("cannot put back a container after a checkpoint that was cut short; resume it", "id", c.id, "error", err)
	}
	_ = os.Remove(filepath.Join(c.dir, noteFile))
}

// criuView is libcontainer's idea of the container for one use of CRIU, kept in dir: with the streams that it has now. The caller
// closes the settings for CRIU afterwards.
func (c *container) criuView(dir string) (lc *libcontainer.Container, settings *os.File, err error) {
	streams, err := outsideStreams(c.init.Pid())
	if err != nil {
		return nil, nil, fmt.Errorf("cannot look at its streams: %w", err)
	}
	state, err := c.state()
	if err != nil {
		return nil, nil, err
	}
	name, settings, err := criuSettings(externalFiles(streams))
	if err != nil {
		return nil, nil, err
	}
	state.ExternalDescriptors = streams
	state.Config.Labels = criuLabels(state.Config.Labels, name)
	if err = writeState(filepath.Join(dir, c.record.Name, stateFile), state); err == nil {
		lc, err = libcontainer.Load(dir, c.record.Name)
	}
	if err != nil {
		settings.Close()
		return nil, nil, err
	}
	return lc, settings, nil
}

// state answers libcontainer's, of a container of ours too.
func (c *container) state() (*libcontainer.State, error) {
	if c.own != nil {
		return c.ownState()
	}
	return c.lc.State()
}

// emptyNamespaces knows what CRIU does (its --empty-ns).
func emptyNamespaces(names []string) (mask uint32, err error) {
	for _, name := range names {
		if name != "network" {
			return 0, fmt.Errorf("the contents of namespace %.100q cannot be left out, only those of \"network\": %w", name, errdefs.ErrInvalidArgument)
		}
		mask |= unix.CLONE_NEWNET
	}
	return mask, nil
}
