package pods

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/spec"
)

const (
	savedFile    = "pod.json"
	savedVersion = 1
	maxSaved     = 8 << 20 // bytes of savedFile
)

// savedPod is the manifest of a pod's checkpoint: what a pod must be like that is restored from it.
type savedPod struct {
	Version    int
	Runtime    string // such as io.containerd.slipway.v1
	Containers []savedContainer
}

type savedContainer struct {
	Name               string
	ImageID            string
	Command, Args, Env []string `json:",omitempty"`
	WorkingDir         string   `json:",omitempty"`
	User               specs.User
	TTY, Stdin         bool
	Mounts             []string `json:",omitempty"` // where they are in the container
	Namespaces         spec.Namespaces
}

// savedOf is what the manifest says of a container.
func savedOf(c *container) savedContainer {
	s := c.record.Spec
	saved := savedContainer{
		Name: s.Name, ImageID: c.record.ImageID, Command: s.Command, Args: s.Args, Env: s.Env, WorkingDir: s.WorkingDir, User: c.record.User,
		TTY: s.TTY, Stdin: s.Stdin, Namespaces: s.Security.Namespaces,
	}
	for _, mount := range s.Mounts {
		saved.Mounts = append(saved.Mounts, mount.Destination)
	}
	slices.Sort(saved.Mounts)
	return saved
}

// differs names what a container has otherwise than the one that was saved; "" for nothing.
func (a savedContainer) differs(b savedContainer) string {
	var all []string
	for _, part := range []struct {
		what string
		a, b any
	}{
		{"image", a.ImageID, b.ImageID}, {"command", append(slices.Clone(a.Command), a.Args...), append(slices.Clone(b.Command), b.Args...)},
		{"environment", a.Env, b.Env}, {"working directory", a.WorkingDir, b.WorkingDir}, {"user", a.User, b.User},
		{"terminal", a.TTY, b.TTY}, {"standard input", a.Stdin, b.Stdin}, {"paths of mounts", a.Mounts, b.Mounts},
		{"namespaces", a.Namespaces, b.Namespaces},
	} {
		if fingerprint(part.a) != fingerprint(part.b) {
			all = append(all, part.what)
		}
	}
	return strings.Join(all, ", ")
}

// checkSavedName refuses what cannot be the name of a directory.
func checkSavedName(name string) error {
	const most = 255 // NAME_MAX
	if err := checkName("the name of a container", name); err != nil {
		return err
	}
	if len(name) > most || !filepath.IsLocal(name) || name == "." || name == savedFile || strings.ContainsRune(name, '\\') {
		return fmt.Errorf("no directory of a checkpoint can be called %.300q: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

func parseSaved(data []byte) (*savedPod, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var s savedPod
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("something follows its end: %w", errdefs.ErrInvalidArgument)
	}
	if s.Version != savedVersion {
		return nil, fmt.Errorf("it is of version %d, and only %d is known: %w", s.Version, savedVersion, errdefs.ErrInvalidArgument)
	}
	if s.Runtime == "" || len(s.Containers) == 0 {
		return nil, fmt.Errorf("it names no runtime or no containers: %w", errdefs.ErrInvalidArgument)
	}
	names := map[string]bool{}
	for _, c := range s.Containers {
		if err := checkSavedName(c.Name); err != nil {
			return nil, err
		}
		if names[c.Name] {
			return nil, fmt.Errorf("container %q is there twice: %w", c.Name, errdefs.ErrInvalidArgument)
		}
		names[c.Name] = true
	}
	return &s, nil
}

// readSaved reads the manifest of the checkpoint in the directory root.
func readSaved(root *os.Root) (*savedPod, error) {
	f, err := openRegular(root, filepath.Join(savedDir, savedFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSaved+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSaved {
		return nil, fmt.Errorf("%s has more than %d bytes: %w", savedFile, maxSaved, errdefs.ErrInvalidArgument)
	}
	saved, err := parseSaved(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", savedFile, err)
	}
	return saved, nil
}

// openRegular opens nothing that would have to wait for somebody, or that lies elsewhere.
func openRegular(root *os.Root, name string) (*os.File, error) {
	info, err := root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", name)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return root.Open(name)
}
