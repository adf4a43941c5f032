package windows

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform"
)

// A container's folder below Executor.root holds
//
//	record.json     record, whole or not there
//	init            processRecord of init, once it runs
//	exec.ID         processRecord of a process executed in it
//	exit, exit.ID   platform.Exit of init, of a process
//
// all of them written by the executor and read only by Adopt. The folder appears first and goes last. Nothing of it needs to survive a
// power failure, which no container does.

// record is what a later executor must know of a container.
type record struct {
	Name     string        `json:"name"`
	System   string        `json:"system"` // the service's id
	Schema   int           `json:"schema"`
	Scratch  string        `json:"scratch"`           // mounted by us and to be unmounted; "" when it was not
	Guarded  bool          `json:"guarded,omitempty"` // has a credential guard, to be removed
	Process  specs.Process `json:"process"`           // of init
	Terminal bool          `json:"terminal,omitempty"`
	Width    uint16        `json:"width,omitempty"`
	Height   uint16        `json:"height,omitempty"`
}

// processRecord identifies a process: a pid alone is used again, by one that was made after At.
type processRecord struct {
	Pid      int       `json:"pid"`
	At       time.Time `json:"at"`
	Terminal bool      `json:"terminal,omitempty"`
}

const recordFile = "record.json"

func initFile(id string) string {
	if id == "" {
		return "init"
	}
	return "exec." + id
}

func exitFile(id string) string {
	if id == "" {
		return "exit"
	}
	return "exit." + id
}

// replace writes a file so that a reader finds all of it or what was there before.
func replace(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// read answers false when there is no such file.
func read(path string, v any) (bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return true, nil
}

func (c *container) writeRecord() error {
	if err := replace(filepath.Join(c.dir, recordFile), c.record); err != nil {
		return fmt.Errorf("cannot write the record of container %q: %w", c.record.Name, err)
	}
	return nil
}

// readExit takes a file that is not whole for none: its writer died, and with it the news.
func readExit(dir, id string) (exit platform.Exit, ok bool) {
	ok, err := read(filepath.Join(dir, exitFile(id)), &exit)
	return exit, ok && err == nil
}

// readProcesses answers the processes executed in a container and not deleted.
func readProcesses(dir string) (map[string]processRecord, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := map[string]processRecord{}
	for _, entry := range entries {
		id, ok := strings.CutPrefix(entry.Name(), "exec.")
		if !ok || !entry.Type().IsRegular() || !validID(id) {
			continue
		}
		var r processRecord
		if ok, err := read(filepath.Join(dir, entry.Name()), &r); err == nil && ok && r.Pid != 0 {
			all[id] = r
		}
	}
	return all, nil
}
