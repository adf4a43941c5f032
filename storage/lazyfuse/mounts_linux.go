package lazyfuse

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mounted answers which of the layers ids something is mounted on, in any mount namespace of the host: an overlay that has it among
// its lower directories, under whatever path it was named, or a bind mount of it. What cannot be told counts as mounted. A
// mount that was detached while processes still have files of it open is not seen: it belongs to containers that were removed.
func (d *Driver) mounted(ids ...string) (map[string]bool, error) {
	used := map[string]bool{}
	here, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot see what is mounted: %w", err)
	}
	device := deviceAt(here, d.mountpoint())
	err = eachMountTable(func(table []byte) {
		for line := range bytes.Lines(table) {
			d.markUsed(used, string(line), device, ids)
		}
	})
	return used, err
}

// deviceAt is the major:minor of the FUSE mount at a path, "" when a mount table has none.
func deviceAt(table []byte, path string) (device string) {
	for line := range bytes.Lines(table) {
		if fields := strings.Fields(string(line)); len(fields) > 4 && fields[4] == path && bytes.Contains(line, []byte(" - "+fuseType+" ")) {
			device = fields[2] // the last one covers the others
		}
	}
	return device
}

// fuseType is what mount tables call the mounts of package keeper.
const fuseType = "fuse.slipway"

// eachMountTable calls fn with /proc/PID/mountinfo (proc_pid_mountinfo(5)) of one process for each mount namespace.
func eachMountTable(fn func([]byte)) error {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("cannot see what is mounted: %w", err)
	}
	seen := map[string]bool{}
	for _, p := range procs {
		dir := filepath.Join("/proc", p.Name())
		if name := p.Name(); name[0] < '0' || name[0] > '9' {
			continue
		}
		ns, err := os.Readlink(filepath.Join(dir, "ns/mnt"))
		if err != nil || seen[ns] {
			continue // it has ended, or is a kernel thread's
		}
		table, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
		if err != nil || len(table) == 0 {
			continue // it ends just now; another process of its namespace tells
		}
		seen[ns] = true
		fn(table)
	}
	if len(seen) == 0 {
		return fmt.Errorf("cannot see what is mounted: no process of /proc tells")
	}
	return nil
}

// markUsed takes in one line: "ID parent major:minor root mountpoint options … - type source superoptions". Other daemons have layers of the same
// ids: their FUSE mounts have other devices (device is ours, "" if that cannot be told), their overlays upper directories of others.
func (d *Driver) markUsed(used map[string]bool, line, device string, ids []string) {
	mount, super, ok := strings.Cut(strings.TrimSpace(line), " - ")
	fields, more := strings.Fields(mount), strings.Fields(super)
	if !ok || len(fields) < 5 || len(more) < 3 {
		return
	}
	switch more[0] {
	case fuseType:
		if device != "" && fields[2] != device {
			return
		}
		root := strings.Split(fields[3], "/")
		for _, id := range ids {
			if len(root) > 1 && root[1] == id {
				used[id] = true
			}
		}
	case "overlay":
		lowers, upper := lowerDirs(more[2]), upperDir(more[2])
		for _, id := range ids {
			files, target := d.Driver.Files(id), d.target(id)
			others := strings.HasPrefix(upper, "/") && filepath.Dir(filepath.Dir(upper)) != filepath.Dir(filepath.Dir(files))
			for _, l := range lowers {
				if l == files || l == target || !others && mayName(l, files) {
					used[id] = true
				}
			}
		}
	}
}

// lowerDirs lists the lower directories in overlay's options, as they were named.
func lowerDirs(options string) []string {
	var dirs []string
	for o := range strings.SplitSeq(options, ",") {
		if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
			dirs = append(dirs, strings.Split(v, ":")...)
		} else if v, ok := strings.CutPrefix(o, "lowerdir+="); ok {
			dirs = append(dirs, v)
		}
	}
	return dirs
}

// upperDir is the upper directory in overlay's options, "" when there is none.
func upperDir(options string) string {
	for o := range strings.SplitSeq(options, ",") {
		if v, ok := strings.CutPrefix(o, "upperdir="); ok {
			return v
		}
	}
	return ""
}

// mayName says whether a lower directory may be that of a layer though it is not named as Mounts answers it: by the end of that, which clients take
// whose options are too long, or through a descriptor, which tells nothing.
func mayName(dir, files string) bool {
	if strings.HasPrefix(dir, "/") {
		return strings.HasPrefix(dir, "/proc/")
	}
	return strings.HasSuffix(files, "/"+dir)
}
