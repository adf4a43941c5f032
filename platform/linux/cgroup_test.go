//go:build linux

package linux

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/specconv"
)

// TestDevicesOfCgroup compares what the kernel lists after the manager's Set and after ours.
func TestDevicesOfCgroup(t *testing.T) {
	if os.Getuid() != 0 || cgroups.IsCgroup2UnifiedMode() {
		t.Skip("cgroup v1 as root")
	}
	rules := []*devices.Rule{{Type: devices.WildcardDevice, Major: -1, Minor: -1, Permissions: "rwm"}}
	for _, d := range specconv.AllowedDevices {
		rules = append(rules, &d.Rule)
	}
	rules = append(rules, &devices.Rule{Type: devices.BlockDevice, Major: 7, Minor: 3, Permissions: "r", Allow: true}, rules[len(rules)-1])
	var listed [2]string
	h := &hierarchies{}
	for i := range 3 { // the third time the hierarchies are known
		config := &cgroups.Cgroup{Path: "/slipway-test/devices", Resources: &cgroups.Resources{Devices: rules}}
		cg, err := h.newCgroup(config)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := manager.New(config)
		if err != nil || theirs.Path("memory") != cg.Path("memory") || theirs.Path("devices") != cg.Path("devices") {
			t.Fatalf("paths %v, want %v, %v", cg.GetPaths(), theirs.GetPaths(), err)
		}
		if err := cg.Apply(-1); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			err = cg.Set(config.Resources)
		} else if !onlyListed(rules) {
			t.Error("a list of allowed devices is not taken for one")
		} else {
			err = setResources(cg, config.Resources)
		}
		if err != nil {
			t.Fatal(err)
		}
		list, err := os.ReadFile(filepath.Join(cg.Path("devices"), "devices.list"))
		if err != nil {
			t.Fatal(err)
		}
		listed[min(i, 1)] = sortedLines(string(list))
		if err := cg.Destroy(); err != nil {
			t.Fatal(err)
		}
	}
	if listed[0] == "" || listed[0] != listed[1] {
		t.Errorf("own list\n%s\nthe manager's\n%s", listed[1], listed[0])
	}
	for name, odd := range map[string][]*devices.Rule{
		"none": nil, "allow all": {{Type: 'a', Allow: true}}, "a denial later": {rules[0], rules[1], {Type: 'c', Permissions: "r"}},
		"all later": {rules[0], {Type: 'a', Allow: true, Permissions: "r"}}, "no wildcard first": {rules[1]}, "nothing allowed": {rules[0], {Type: 'c', Allow: true}},
	} {
		if onlyListed(odd) {
			t.Errorf("%s is taken for a list of allowed devices", name)
		}
	}
}

func sortedLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
