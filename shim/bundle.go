package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/internal/opaque"
)

// bundle is a task's directory, STATE/tasks/NAMESPACE/ID: config.json, rootfs/, fifos and files of the shim, and task.json, with which the
// task is found again. It is below /run: nothing is synced.
type bundle struct {
	path string
}

// taskRecord is task.json.
type taskRecord struct {
	Runtime string      // as the client named it
	Binary  string      `json:",omitempty"` // of a third party's shim
	Shim    string      `json:",omitempty"` // name of a shim of ours
	Address string      `json:",omitempty"` // of a third party's shim that runs
	Version int         `json:",omitempty"` // of the task API it speaks
	Options *opaque.Any `json:",omitempty"`
	Streams Streams
	Lost    *Exit `json:",omitempty"` // told for a task whose shim died
}

const recordName = "task.json"

var identifier = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)

func checkID(what, id string) error {
	if len(id) > 76 || !identifier.MatchString(id) {
		return fmt.Errorf("%s %q must be 1 to 76 letters and digits with single . _ or - between: %w", what, id, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (m *Manager) bundle(ns, id string) bundle {
	return bundle{filepath.Join(m.conf.State, "tasks", ns, id)}
}

// create makes the directory. It may hold a root file system that a user namespace's root walks to: hence the x for all.
func (b bundle) create(spec json.RawMessage, r taskRecord) (err error) {
	if err := os.MkdirAll(filepath.Dir(b.path), 0o711); err != nil {
		return fmt.Errorf("cannot make bundle: %w", err)
	}
	if err := os.Mkdir(b.path, 0o711); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("bundle %s is there already: %w", b.path, errdefs.ErrAlreadyExists)
	} else if err != nil {
		return fmt.Errorf("cannot make bundle: %w", err)
	}
	// The record first: what has none, or not all of it, was never handed to a shim.
	record, err := json.Marshal(r)
	err = errors.Join(err, os.WriteFile(filepath.Join(b.path, recordName), record, 0o600), os.Mkdir(filepath.Join(b.path, "rootfs"), 0o711),
		os.WriteFile(filepath.Join(b.path, "config.json"), spec, 0o600))
	if err != nil {
		return fmt.Errorf("cannot make bundle: %w", errors.Join(err, b.remove()))
	}
	return nil
}

func (b bundle) write(r taskRecord) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(b.path, recordName)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (b bundle) read() (taskRecord, error) {
	var r taskRecord
	data, err := os.ReadFile(filepath.Join(b.path, recordName))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

// Executed processes are remembered by name alone, as empty files.

func (b bundle) addExec(id string) error {
	dir := filepath.Join(b.path, "execs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, id), nil, 0o600)
}

func (b bundle) removeExec(id string) { _ = os.Remove(filepath.Join(b.path, "execs", id)) }

func (b bundle) execs() []string {
	entries, _ := os.ReadDir(filepath.Join(b.path, "execs"))
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids
}

// remove deletes the bundle, and unmounts what a dead shim left mounted in it: no file is deleted through a mount.
func (b bundle) remove() error {
	if err := unmountBelow(b.path); err != nil {
		return fmt.Errorf("cannot remove bundle %s: %w", b.path, err)
	}
	// rootfs is an empty directory now or the unmounting failed unseen; never delete what is in it.
	if err := os.Remove(filepath.Join(b.path, "rootfs")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove bundle %s: %w", b.path, err)
	}
	if err := os.RemoveAll(b.path); err != nil {
		return fmt.Errorf("cannot remove bundle: %w", err)
	}
	return nil // the namespace's directory stays until Restore: another task may be on its way into it
}
