package linux

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/slipwayd/slipway/platform"
)

// A container's folder below Executor.root holds
//
//	record.json     record, whole or not there; of a container whose init is ours the spec as it came is behind the first line
//	state/NAME/     libcontainer's own: state.json once init is set up (for a container whose init is ours, once somebody
//	                asked libcontainer for something), exec.fifo until init is started
//	exec.fifo       that of a container whose init is ours
//	init            execRecord of init, when it is not libcontainer's
//	exec.ID         execRecord of a process executed in it
//	exit, exit.ID   platform.Exit of init, of a process
//
// all of them written by the executor and read only by Adopt. The folder appears first and goes last.

// record is what a later executor must know that libcontainer does not write down, or writes too late.
type record struct {
	Name      string                `json:"name"`
	Bundle    string                `json:"bundle"`
	Mounted   bool                  `json:"mounted,omitempty"` // Bundle/rootfs is ours to unmount
	Cgroup    cgroups.Cgroup        `json:"cgroup"`            // without resources
	Resources *specs.LinuxResources `json:"resources,omitempty"`
	Command   *commandLine          `json:"command,omitempty"` // nil for libcontainer
	Private   bool                  `json:"private,omitempty"` // has a pid namespace of its own
	Own       bool                  `json:"own,omitempty"`     // its init was no libcontainer's
	Traced    bool                  `json:"traced,omitempty"`  // a process executed in it may trace others
	Options   platform.Options      `json:"options"`
}

// execRecord identifies a process: a pid alone is reused.
type execRecord struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"start"` // clock ticks after boot, as in /proc/PID/stat
}

const recordFile = "record.json"

// writeRecord keeps the record, and spec for readSpec.
func (c *container) writeRecord(spec []byte) error {
	data, err := json.Marshal(c.record)
	if err != nil {
		return fmt.Errorf("cannot encode the record of container %q: %w", c.name(), err)
	}
	data = append(append(data, '\n'), spec...)
	part := filepath.Join(c.dir, recordFile+".new")
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return fmt.Errorf("cannot write the record of container %q: %w", c.name(), err)
	}
	return os.Rename(part, filepath.Join(c.dir, recordFile))
}

// rewriteRecord is for a record that has changed.
func (c *container) rewriteRecord() error {
	spec, err := readSpec(c.dir)
	if err != nil {
		return fmt.Errorf("cannot read the record of container %q: %w", c.name(), err)
	}
	return c.writeRecord(spec)
}

// readRecord answers nil and no error when Create was interrupted before there was one.
func readRecord(dir string) (*record, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	data, _, _ = bytes.Cut(data, []byte("\n"))
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", filepath.Join(dir, recordFile), err)
	}
	r.Cgroup.Resources = &cgroups.Resources{}
	return &r, nil
}

// readSpec answers what writeRecord was given besides.
func readSpec(dir string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, err
	}
	_, spec, _ := bytes.Cut(data, []byte("\n"))
	return spec, nil
}

func exitFile(dir, id string) string {
	if id == "" {
		return filepath.Join(dir, "exit")
	}
	return filepath.Join(dir, "exit."+id)
}

func execFile(dir, id string) string {
	if id == "" {
		return filepath.Join(dir, "init")
	}
	return filepath.Join(dir, "exec."+id)
}

// writeExit keeps an exit for the next executor. That it fails is no reason not to report the exit now.
func writeExit(dir, id string, exit platform.Exit) error {
	data, err := json.Marshal(exit)
	if err != nil {
		return err
	}
	return os.WriteFile(exitFile(dir, id), data, 0o600)
}

func readExit(dir, id string) (platform.Exit, bool) {
	var exit platform.Exit
	data, err := os.ReadFile(exitFile(dir, id))
	if err != nil || json.Unmarshal(data, &exit) != nil {
		return platform.Exit{}, false
	}
	return exit, true
}

// recordStart lets a later executor find process id, or init when that is "".
func recordStart(dir, id string, pid int) error {
	began, err := startTime(pid)
	if err != nil {
		return fmt.Errorf("cannot tell when process %d began: %w", pid, err)
	}
	data, err := json.Marshal(execRecord{Pid: pid, StartTime: began})
	if err != nil {
		return err
	}
	return os.WriteFile(execFile(dir, id), data, 0o600)
}

// startTime is that of execRecord.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	const starttime, afterName = 22, 3 // proc(5) counts from 1; a name may have anything in it
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= starttime-afterName {
		return 0, fmt.Errorf("%q: %w", stat, unix.EPROTO)
	}
	return strconv.ParseUint(string(fields[starttime-afterName]), 10, 64)
}

// removeFolder takes away what is usually left in a container's folder, and then all else. Unlike os.RemoveAll it need not look.
func removeFolder(dir string) error {
	for _, name := range []string{exitFile(dir, ""), execFile(dir, ""), filepath.Join(dir, recordFile)} {
		_ = unix.Unlink(name)
	}
	if unix.Rmdir(dir) == nil {
		return nil
	}
	return os.RemoveAll(dir)
}

// readStart answers pid 0 when the record is not whole.
func readStart(dir, id string) (r execRecord) {
	data, err := os.ReadFile(execFile(dir, id))
	if err != nil || json.Unmarshal(data, &r) != nil {
		return execRecord{}
	}
	return r
}

// readExecs answers the processes executed in a container and not deleted. One whose record is not whole has pid 0.
func readExecs(dir string) (map[string]execRecord, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	execs := map[string]execRecord{}
	for _, entry := range entries {
		id, ok := strings.CutPrefix(entry.Name(), "exec.")
		if !ok || !entry.Type().IsRegular() {
			continue
		}
		execs[id] = readStart(dir, id)
	}
	return execs, nil
}
