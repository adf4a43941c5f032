package linux

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
)

// commandLine is an OCI runtime used in place of libcontainer through the command line that runc, crun, youki and runsc
// share (runtime-spec runtime.md, "Operations", and the runtime-tools command-line-interface.md with what they agree on beyond it). It does
// only what changes namespaces; exits, signals, cgroups and statistics are this package's own work.
type commandLine struct {
	Binary    string `json:"binary"`
	Root      string `json:"root"` // the runtime's state directory
	Systemd   bool   `json:"systemd,omitempty"`
	NoPivot   bool   `json:"noPivot,omitempty"`
	NoKeyring bool   `json:"noKeyring,omitempty"`
	dir       string // container's folder: logs, pid files, sockets
	name      string
	bundle    string
}

// builtIn: "runc" without a path means libcontainer too, for clients of containerd name it so by default.
func builtIn(binary string) bool { return binary == "" || binary == "runc" }

// newCommandLine answers nil for the built-in runtime.
func newCommandLine(s platform.Spec, dir string) (*commandLine, error) {
	if builtIn(s.Options.BinaryName) {
		return nil, nil
	}
	binary, err := exec.LookPath(s.Options.BinaryName)
	if err != nil {
		return nil, fmt.Errorf("the OCI runtime %q is not installed: %v: %w", s.Options.BinaryName, err, errdefs.ErrInvalidArgument)
	}
	root := s.Options.Root
	if root == "" {
		root = filepath.Join(dir, stateDir)
	}
	return &commandLine{
		Binary: binary, Root: root, Systemd: s.Options.SystemdCgroup, NoPivot: s.Options.NoPivotRoot,
		NoKeyring: s.Options.NoNewKeyring, dir: dir, name: s.Name, bundle: s.Bundle,
	}, nil
}

// create runs "create" with the container's streams, and answers init's pid.
func (r *commandLine) create(program *libcontainer.Process, streams *stdio) (int, error) {
	args := []string{"create", "--bundle", r.bundle}
	if r.NoPivot {
		args = append(args, "--no-pivot")
	}
	if r.NoKeyring {
		args = append(args, "--no-new-keyring")
	}
	return r.spawn(args, program, streams)
}

// exec runs "exec" of the process that spec describes.
func (r *commandLine) exec(id string, spec json.RawMessage, program *libcontainer.Process, streams *stdio) (int, error) {
	file := filepath.Join(r.dir, "process."+id)
	if err := os.WriteFile(file, spec, 0o600); err != nil {
		return 0, err
	}
	defer os.Remove(file)
	return r.spawn([]string{"exec", "--detach", "--process", file}, program, streams)
}

func (r *commandLine) spawn(args []string, program *libcontainer.Process, streams *stdio) (_ int, err error) {
	tmp, err := os.MkdirTemp(r.dir, "spawn.") // of this process alone: several may start at once
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	pidFile := filepath.Join(tmp, "pid")
	args = append(args, "--pid-file", pidFile)
	var console *net.UnixListener
	if program.ConsoleSocket != nil {
		dir, err := os.Open(tmp)
		if err != nil {
			return 0, err
		}
		defer dir.Close()
		// The way round keeps the path shorter than a socket's may be.
		path := fmt.Sprintf("/proc/%d/fd/%d/console", os.Getpid(), dir.Fd())
		if console, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
			return 0, fmt.Errorf("cannot listen for the terminal: %w", err)
		}
		defer console.Close()
		args = append(args, "--console-socket", path)
	}
	if err := r.run(filepath.Join(tmp, "log"), program, append(args, r.name)...); err != nil {
		return 0, err
	}
	if console != nil {
		conn, err := console.AcceptUnix()
		if err != nil {
			return 0, fmt.Errorf("cannot get the terminal: %w", err)
		}
		defer conn.Close()
		streams.console.Close()
		if streams.console, err = conn.File(); err != nil {
			return 0, err
		}
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, fmt.Errorf("%s wrote no pid: %w", r.Binary, err)
	}
	return strconv.Atoi(string(bytes.TrimSpace(data)))
}

// do runs a subcommand without streams.
func (r *commandLine) do(args ...string) error {
	return r.run(filepath.Join(r.dir, "log"), nil, args...)
}

// run runs the runtime to its end. What it has to say about a failure is in its log, for stderr is the container's.
func (r *commandLine) run(log string, program *libcontainer.Process, args ...string) error {
	_ = os.Remove(log)
	global := []string{"--root", r.Root, "--log", log, "--log-format", "json"}
	if r.Systemd {
		global = append(global, "--systemd-cgroup")
	}
	cmd := exec.Command(r.Binary, append(global, args...)...)
	cmd.Dir = r.bundle
	var said bytes.Buffer
	if program != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = program.Stdin, program.Stdout, program.Stderr
	} else {
		cmd.Stderr = &said
	}
	if err := cmd.Run(); err != nil {
		text := lastMessage(log)
		if text == "" {
			text = strings.TrimSpace(said.String())
		}
		return classify(fmt.Errorf("%s %s: %s (%w)", filepath.Base(r.Binary), args[0], text, err))
	}
	return nil
}

// lastMessage finds the last "msg" in a log of JSON lines.
func lastMessage(log string) (text string) {
	f, err := os.Open(log)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct{ Msg string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg != "" {
			text = line.Msg
		}
	}
	return text
}

func (r *commandLine) start() error { return r.do("start", r.name) }

func (r *commandLine) freeze(pause bool) error {
	if pause {
		return r.do("pause", r.name)
	}
	return r.do("resume", r.name)
}

// status answers runtime-spec's words; "" when the runtime does not know the container.
func (r *commandLine) status() string {
	out, err := exec.Command(r.Binary, "--root", r.Root, "state", r.name).Output()
	var state specs.State
	if err != nil || json.Unmarshal(out, &state) != nil {
		return ""
	}
	return string(state.Status)
}

// delete is nil when there is nothing to delete.
func (r *commandLine) delete() error {
	if err := r.do("delete", "--force", r.name); err != nil && r.status() != "" {
		return err
	}
	return nil
}

// prepare makes what the runtime wants to find: the spec in the bundle, and a cgroup without processes, which can be cleaned up after it.
func (r *commandLine) prepare(cg *cgroups.Cgroup, spec *specs.Spec) error {
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.bundle, "config.json"), data, 0o600); err != nil {
		return fmt.Errorf("cannot write the spec into the bundle: %w", err)
	}
	if err := os.MkdirAll(r.Root, 0o700); err != nil {
		return err
	}
	m, err := manager.New(cg)
	if err != nil {
		return err
	}
	pids, err := m.GetAllPids()
	if len(pids) > 0 {
		return fmt.Errorf("container's cgroup is not empty: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
