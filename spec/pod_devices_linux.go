package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxDevices bounds how many devices one container gets from a directory.
const maxDevices = 4096

// devices gives the container those of the host that it names, or all when it is privileged.
func (d *PodDocument) devices(s *specs.Spec) error {
	if d.Container.Security.Privileged {
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		if !d.PrivilegedWithoutDevices {
			all, err := devicesBelow("/dev", "/dev")
			if err != nil {
				return fmt.Errorf("cannot list the host's devices: %w", err)
			}
			s.Linux.Devices = append(s.Linux.Devices, all...)
			return nil
		}
	}
	for _, dev := range d.Container.Devices {
		if err := addDevice(s, dev); err != nil {
			return fmt.Errorf("cannot give device %q: %w", dev.Host, err)
		}
	}
	return nil
}

func addDevice(s *specs.Spec, dev Device) error {
	if strings.Trim(dev.Permissions, "rwm") != "" || dev.Permissions == "" {
		return fmt.Errorf("permissions %q are not made of r, w and m: %w", dev.Permissions, errdefs.ErrInvalidArgument)
	}
	path, err := filepath.EvalSymlinks(dev.Host)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	} else if err != nil {
		return err
	}
	found, err := devicesBelow(path, dev.Container)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("it is no device, nor a directory that holds one: %w", errdefs.ErrInvalidArgument)
	}
	for _, f := range found {
		s.Linux.Devices = append(s.Linux.Devices, f)
		major, minor := f.Major, f.Minor
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: f.Type, Major: &major, Minor: &minor, Access: dev.Permissions,
		})
	}
	return nil
}

// devicesBelow lists the device at path, or those in the directory at path, as the container sees them at inside.
func devicesBelow(path, inside string) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	err := filepath.WalkDir(path, func(p string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && p != path {
			return nil // unplugged meanwhile
		} else if err != nil {
			return err
		}
		if entry.IsDir() {
			switch strings.TrimPrefix(p, "/dev/") { // containers have their own
			case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev":
				return fs.SkipDir
			}
			return nil
		}
		if p == "/dev/console" || entry.Type()&fs.ModeDevice == 0 {
			return nil
		}
		dev, err := deviceAt(p)
		if err != nil || len(list) >= maxDevices {
			return err
		}
		if dev.Path = inside; p != path {
			dev.Path = filepath.Join(inside, strings.TrimPrefix(p, path))
		}
		list = append(list, dev)
		return nil
	})
	return list, err
}

func deviceAt(path string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return specs.LinuxDevice{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	kind := "c"
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		kind = "b"
	}
	mode := os.FileMode(st.Mode & 0o777)
	return specs.LinuxDevice{
		Type: kind, Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}, nil
}
