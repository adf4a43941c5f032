package linux

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
)

// restoring is what Start needs of a container that goes on from a checkpoint. It is libcontainer's. An executor that adopts it before that
// does not know how to go on, and finds one that has ended.
type restoring struct {
	images, work string
	config       *configs.Config // libcontainer's own
	program      *libcontainer.Process
	io           platform.IO
	uid, gid     uint32
}

// checkpointFiles are in every checkpoint: CRIU's inventory and libcontainer's list of streams.
const (
	inventoryFile   = "inventory.img"
	descriptorsFile = "descriptors.json"
	maxDescriptors  = 64 << 10 // bytes
)

// checkRestore says whether there is something to restore, before anything exists.
func checkRestore(s platform.Spec, cli *commandLine) error {
	if cli != nil {
		return fmt.Errorf("a checkpoint can be restored by the built-in runtime only, not by %s: %w", cli.Binary, errdefs.ErrNotImplemented)
	}
	if !filepath.IsAbs(s.Checkpoint) {
		return fmt.Errorf("checkpoint %q is no absolute path: %w", s.Checkpoint, errdefs.ErrInvalidArgument)
	}
	for _, name := range []string{inventoryFile, descriptorsFile} {
		if st, err := os.Stat(filepath.Join(s.Checkpoint, name)); err != nil || !st.Mode().IsRegular() {
			return fmt.Errorf("%s is not the directory of a checkpoint: it has no file %s: %w", s.Checkpoint, name, errdefs.ErrInvalidArgument)
		}
	}
	return findCriu()
}

// prepareRestore makes what is left to make before Start: the cgroup, so that it can be watched.
func (c *container) prepareRestore(program *libcontainer.Process, s platform.Spec, config *configs.Config) error {
	uid, gid := ioOwner(s, config)
	c.init.restoring = &restoring{
		images: s.Checkpoint, work: s.Options.CriuWorkPath, config: config, program: program, io: s.IO, uid: uid, gid: gid,
	}
	cg, err := c.cgroups()
	if err != nil {
		return err
	}
	return cg.Apply(-1)
}

func (p *process) startRestored() error {
	r := p.restoring
	streams, err := newStdio(r.program, r.io, r.uid, r.gid)
	if err != nil {
		return err
	}
	if err := p.c.run(p, r.program, streams); err != nil {
		streams.close()
		return err
	}
	p.mu.Lock()
	p.started = true
	p.mu.Unlock()
	return nil
}

// restore makes the processes again, and answers init's pid. Whatever a checkpoint was allowed to hold is restored.
func (c *container) restore(r *restoring) (int, error) {
	streams, err := readDescriptors(filepath.Join(r.images, descriptorsFile))
	if err != nil {
		return 0, err
	}
	name, settings, err := criuSettings(inheritedFiles(streams))
	if err != nil {
		return 0, err
	}
	defer settings.Close()
	labels := r.config.Labels
	r.config.Labels = criuLabels(labels, name)
	defer func() { r.config.Labels = labels }()
	work := r.work
	if work == "" {
		work = filepath.Join(c.dir, "criu")
	}
	err = c.lc.Restore(r.program, &libcontainer.CriuOpts{
		ImagesDirectory: r.images, WorkDirectory: work, TcpEstablished: true, ExternalUnixConnections: true, FileLocks: true, StatusFd: -1,
	})
	if err != nil {
		return 0, criuError(err, filepath.Join(work, "restore.log"))
	}
	return r.program.Pid()
}

func readDescriptors(file string) (streams []string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("the checkpoint is gone: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxDescriptors)).Decode(&streams); err != nil {
		return nil, fmt.Errorf("cannot read %s: %v: %w", file, err, errdefs.ErrInvalidArgument)
	}
	return streams, nil
}

// giveUp is the end of an init that was to be restored and never was. False when it is something else.
func (p *process) giveUp(sig unix.Signal) bool {
	if p.restoring == nil || sig != unix.SIGKILL || p.Pid() != 0 {
		return false
	}
	p.starting.Lock() // not while it is being restored
	defer p.starting.Unlock()
	if p.Pid() != 0 || p.hasEnded() {
		return false
	}
	exit := platform.Exit{Status: 128 + uint32(sig), At: time.Now()}
	if err := writeExit(p.c.dir, "", exit); err != nil && !errors.Is(err, os.ErrNotExist) {
		p.c.e.log.Warn("cannot keep an exit status for after a restart", "id", p.c.id, "error", err)
	}
	p.closeWith(exit)
	return true
}
