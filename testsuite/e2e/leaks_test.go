package e2e

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// checkEmpty fails when anything is left of containers whose ids hold one of marks, once all of them, their images and
// their snapshots are deleted: mounts, cgroups, processes, fifos, bundles, layers and blobs. Layers and blobs go in the
// background, so it waits for those.
func (d *daemon) checkEmpty(t *testing.T, marks ...string) {
	t.Helper()
	d.checkNoContainers(t, marks...)
	for _, kind := range []string{"layers", "blobs", "ingests"} {
		var left []string
		eventually(t, "removal of all "+kind, func() bool {
			left = d.onDisk(kind)
			return len(left) == 0
		})
	}
}

// checkNoContainers fails when anything but images and their layers is left.
func (d *daemon) checkNoContainers(t *testing.T, marks ...string) {
	t.Helper()
	lazy := filepath.Join(d.state, "lazy", "mnt") // stays, with its server, for images to come
	if m := slices.DeleteFunc(d.mounts(), func(m string) bool { return m == lazy }); len(m) > 0 {
		t.Errorf("mounts are left: %q", m)
	}
	for _, pid := range d.processes() {
		cmdline, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		program := strings.ReplaceAll(string(cmdline), "\x00", " ")
		own := func(name string) bool { return strings.Contains(program, name) }
		if program != "" && !own("slipway-shim") && !own("slipway-starter") && !own("slipwayd") && !own("slipway-fuse") {
			t.Errorf("process %d is left: %s", pid, program)
		}
	}
	for _, root := range []string{"/sys/fs/cgroup", d.state} {
		for _, mark := range marks {
			if found := pathsWith(root, mark); len(found) > 0 {
				t.Errorf("left of %s: %q", mark, found)
			}
		}
	}
	if v := d.declared(); len(v) > 0 {
		t.Errorf("volumes are left: %q", v)
	}
	err := filepath.WalkDir(d.state, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type()&fs.ModeNamedPipe != 0 {
			t.Errorf("fifo is left: %s", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// declared are the directories of volumes that images declare, and what is left of their making and removal.
func (d *daemon) declared() []string {
	return slices.DeleteFunc(children(filepath.Join(d.root, "volumes")), func(dir string) bool {
		return strings.HasPrefix(filepath.Base(dir), ".") && len(children(dir)) == 0
	})
}

// pathsWith are the paths below root whose last element holds mark.
func pathsWith(root, mark string) []string {
	var found []string
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.Contains(e.Name(), mark) {
			found = append(found, path)
		}
		return nil // what goes away during the walk is not left
	})
	return found
}

// onDisk lists layers, blobs or ingests in the daemon's root.
func (d *daemon) onDisk(kind string) []string {
	var found []string
	switch kind {
	case "layers":
		for _, driver := range []string{"overlay", "native"} {
			for _, layer := range children(filepath.Join(d.root, driver)) {
				if name := filepath.Base(layer); name != ".new" && name != ".trash" {
					found = append(found, layer)
				}
			}
			found = append(found, children(filepath.Join(d.root, driver, ".new"))...)
			found = append(found, children(filepath.Join(d.root, driver, ".trash"))...)
		}
	case "blobs":
		found = append(found, children(filepath.Join(d.root, "content", "blobs", "sha256"))...)
	case "ingests":
		found = append(found, children(filepath.Join(d.root, "content", "ingest"))...)
	}
	return found
}

func children(dir string) []string {
	var all []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		all = append(all, filepath.Join(dir, e.Name()))
	}
	return all
}

// cgroups are those that tests and what still runs of the daemon's containers have to themselves, below any hierarchy: the pods' parent, and what the
// containers' processes are in but this one is not.
func (d *daemon) cgroups() []string {
	ours, _ := os.ReadFile("/proc/self/cgroup")
	found := map[string]bool{"/" + filepath.Base(d.dir): true}
	for _, pid := range d.processes() {
		if !strings.Contains(rootMount(strconv.Itoa(pid)), d.dir) {
			continue
		}
		theirs, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
		for line := range strings.Lines(string(theirs)) {
			if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 && !strings.Contains(string(ours), line) {
				found[fields[2]] = true
			}
		}
	}
	delete(found, "/")
	return slices.Collect(maps.Keys(found))
}

// removeCgroups removes them from all hierarchies, with what is in them, once their processes have ended.
func removeCgroups(t *testing.T, cgroups []string) {
	hierarchies := append(children("/sys/fs/cgroup"), "/sys/fs/cgroup")
	for _, cgroup := range cgroups {
		for _, h := range hierarchies {
			dirs := pathsWith(filepath.Join(h, cgroup), "") // parents first
			slices.Reverse(dirs)
			for _, dir := range dirs {
				if info, err := os.Stat(dir); err == nil && info.IsDir() {
					eventually(t, "the end of cgroup "+dir, func() bool {
						err := os.Remove(dir)
						return err == nil || os.IsNotExist(err)
					})
				}
			}
		}
	}
}
