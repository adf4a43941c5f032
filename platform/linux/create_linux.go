package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/platform"
	"github.com/slipwayd/slipway/platform/linux/bringup"
)

// Create makes things in an order that a later executor can undo from what it finds: the folder, the check that the cgroup
// is nobody's, the record, the mounts, and last the processes.
func (e *Executor) Create(ctx context.Context, s platform.Spec) (platform.Container, error) {
	if s.Name == "" {
		s.Name = s.ID
	}
	if !validID(s.ID) || !validID(s.Name) {
		return nil, fmt.Errorf("cannot create container %q: not a valid id (letters, digits and _.+-): %w", s.Name, errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(s.Bundle) {
		return nil, fmt.Errorf("cannot create container %q: bundle %q is no absolute path: %w", s.Name, s.Bundle, errdefs.ErrInvalidArgument)
	}
	c, err := e.create(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("cannot create container %q: %w", s.Name, err)
	}
	return c, nil
}

func (e *Executor) create(ctx context.Context, s platform.Spec) (_ *container, err error) {
	spec, err := e.parseSpec(s)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(e.root, s.ID)
	cli, err := newCommandLine(s, dir)
	if err != nil {
		return nil, err
	}
	if s.Checkpoint != "" {
		if err := checkRestore(s, cli); err != nil {
			return nil, err
		}
	}
	if cli != nil && spec.Linux.CgroupsPath == "" && !cli.Systemd {
		spec.Linux.CgroupsPath = "/slipway/" + s.ID // the runtime's own default would be a guess
	}
	config, err := libcontainerConfig(spec, s)
	if err != nil {
		return nil, err
	}
	program, err := libcontainerProcess(spec.Process)
	if err != nil {
		return nil, err
	}
	program.Init = true
	program.ConsoleWidth, program.ConsoleHeight = consoleSize(spec.Process, s.IO)

	c := newContainer(e, s.ID, dir)
	c.cli = cli
	c.private = config.Namespaces.IsPrivate(configs.NEWPID)
	if err := os.Mkdir(c.dir, 0o711); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w", errdefs.ErrAlreadyExists)
	} else if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.undo()
		}
	}()
	if len(s.Rootfs) > 0 { // libcontainer looks whether it is there
		if err := os.MkdirAll(filepath.Join(s.Bundle, "rootfs"), 0o711); err != nil {
			return nil, fmt.Errorf("cannot make the directory for the root file system: %w", err)
		}
	}
	cg := *config.Cgroups
	cg.Resources = &cgroups.Resources{}
	reason := e.notPlain(config, program, s)
	switch {
	case cli != nil:
		setConsoleSize(spec.Process, program)
		err = cli.prepare(&cg, spec)
	case reason == "":
		err = c.prepareOwn(config)
	default:
		c.lc, err = libcontainer.Create(filepath.Join(c.dir, stateDir), s.Name, config)
	}
	if err != nil {
		return nil, classify(err)
	}
	// From here on, and not before, the cgroup is known to be ours to clean up.
	c.record = &record{Name: s.Name, Bundle: s.Bundle, Mounted: len(s.Rootfs) > 0, Cgroup: cg, Resources: spec.Linux.Resources, Command: cli, Private: c.private, Own: c.own != nil, Options: s.Options}
	var kept []byte
	if c.own != nil {
		kept = s.OCI
	}
	if err := c.writeRecord(kept); err != nil {
		return nil, err
	}
	if c.record.Mounted {
		if err := mount.All(c.rootfs(), s.Rootfs); err != nil {
			return nil, err
		}
	}
	begin := c.startInit
	if s.Checkpoint != "" {
		begin = c.prepareRestore
	}
	if err := begin(program, s, config); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[s.ID] = c
	return c, nil
}

// notPlain says why the container's init must be libcontainer's.
func (e *Executor) notPlain(config *configs.Config, program *libcontainer.Process, s platform.Spec) string {
	switch {
	case e.libcontainer:
		return "the executor was told so"
	case s.Options.SystemdCgroup:
		return "the systemd cgroup driver"
	case s.Checkpoint != "":
		return "a checkpoint"
	}
	return bringup.Plain(config, program)
}

// startInit runs init up to where it waits for Start.
func (c *container) startInit(program *libcontainer.Process, s platform.Spec, config *configs.Config) error {
	uid, gid := ioOwner(s, config)
	streams, err := newStdio(program, s.IO, uid, gid)
	if err != nil {
		return err
	}
	if err := c.run(c.init, program, streams); err != nil {
		streams.close()
		return err
	}
	return nil
}

// ioOwner answers who owns the pipes that are made for init.
func ioOwner(s platform.Spec, config *configs.Config) (uid, gid uint32) {
	uid, gid = s.Options.IOUid, s.Options.IOGid
	if uid == 0 && gid == 0 {
		// In a user namespace its root must own the pipes, or programs cannot reopen /dev/stdout.
		if root, err := config.HostRootUID(); err == nil {
			uid = uint32(root)
		}
		if root, err := config.HostRootGID(); err == nil {
			gid = uint32(root)
		}
	}
	return uid, gid
}

// run has the runtime start program as p, and watches it.
func (c *container) run(p *process, program *libcontainer.Process, streams *stdio) (err error) {
	end := c.e.reaper.begin()
	defer end()
	if p.id != "" && c.own != nil && program.Capabilities != nil && bringup.MayTrace(program.Capabilities) {
		if err := c.allowTracing(); err != nil {
			return err
		}
	}
	pid, err := c.spawn(p, program, streams)
	if err != nil {
		return classify(err)
	}
	pidfd, err := openPidfd(pid)
	if err == nil && (p.id != "" || c.cli != nil) {
		// From here on a later executor finds the process. Of init libcontainer itself wrote it down.
		err = recordStart(c.dir, p.id, pid)
	}
	if err == nil {
		err = streams.begin() // before anybody can see the end and wait for the output
	}
	if err != nil {
		pidfd.Close() // nil is no harm
		// A child of ours that nobody has waited for: the pid is its own still.
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return err
	}
	p.mu.Lock()
	p.pid, p.pidfd, p.streams = pid, pidfd, streams
	p.mu.Unlock()
	c.e.watch(p, pid, pidfd)
	return nil
}

func (c *container) spawn(p *process, program *libcontainer.Process, streams *stdio) (int, error) {
	switch {
	case p.restoring != nil:
		return c.restore(p.restoring)
	case c.cli != nil && p.id != "":
		return c.cli.exec(p.id, p.spec, program, streams)
	case c.cli != nil:
		return c.cli.create(program, streams)
	case c.own != nil && p.id == "":
		return c.spawnOwn(program, streams)
	}
	if c.own != nil && bringup.PlainExec(c.own.config, program) == "" {
		if pid, err := c.execOwn(program, streams); !errors.Is(err, errTraced) {
			return pid, err
		}
	}
	lc, err := c.libcontainer()
	if err != nil {
		return 0, err
	}
	if err := lc.Start(program); err != nil {
		return 0, err
	}
	return program.Pid()
}

// classify gives libcontainer's errors the kinds that callers ask for.
func classify(err error) error {
	text := strings.ToLower(err.Error())
	switch {
	case errors.Is(err, errdefs.ErrInvalidArgument): // classified before
		return err
	case strings.Contains(text, "exec: ") && strings.HasSuffix(text, ": is a directory"): // what clients look for (dockerd's exit code 126)
		return fmt.Errorf("%w: permission denied: %w", err, errdefs.ErrInvalidArgument)
	case errors.Is(err, libcontainer.ErrExist):
		return fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
	case errors.Is(err, libcontainer.ErrNotRunning), errors.Is(err, libcontainer.ErrPaused), errors.Is(err, libcontainer.ErrNotPaused),
		strings.Contains(text, "cgroup is not empty"), strings.Contains(text, "unexpectedly frozen"):
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"),
		strings.Contains(text, "permission denied"), strings.Contains(text, "invalid argument"):
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// undo removes what an interrupted or failed Create made: processes, cgroup, mounts and folder, in so far as they exist.
func (c *container) undo() {
	if c.init.Pid() != 0 {
		_ = c.init.kill()
		<-c.init.done
	}
	if err := c.remove(); err != nil {
		c.e.log.Warn("cannot clean up after a container that was not created; its folder stays and can be adopted and deleted", "id", c.id, "error", err)
	}
}
