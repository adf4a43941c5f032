//go:build !windows

package windowsfilter

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/winname"
	"github.com/slipwayd/slipway/storage"
)

func active(id string, parents ...string) storage.Layer {
	return storage.Layer{ID: id, Kind: storage.Active, Parents: parents}
}

func unpacked(id string, parents ...string) storage.Layer {
	l := active(id, parents...)
	l.Unpack = true
	return l
}

func create(t *testing.T, d *Driver, l storage.Layer) {
	t.Helper()
	if err := d.Create(t.Context(), l); err != nil {
		t.Fatal(err)
	}
}

func apply(t *testing.T, d *Driver, l storage.Layer, data []byte) {
	t.Helper()
	create(t, d, l)
	if _, err := d.Apply(t.Context(), l, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
}

// openStack has a base "1" and a layer "2" on it.
func openStack(t *testing.T) (*Driver, *fakeHost) {
	t.Helper()
	d, host := openFake(t)
	apply(t, d, unpacked("1"), pack(t, dir("Files"), dir("Files/Windows"), dir("Files/Windows/System32"), dir("Files/Windows/System32/config"),
		reg("Files/Windows/System32/config/DEFAULT", ""), reg("Files/Windows/System32/config/SAM", ""), reg("Files/Windows/System32/config/SECURITY", ""),
		reg("Files/Windows/System32/config/SOFTWARE", ""), reg("Files/Windows/System32/config/SYSTEM", ""), reg("Files/a.exe", "MZ")))
	_, child := layers(t)
	apply(t, d, unpacked("2", "1"), child)
	return d, host
}

func files(t *testing.T, d *Driver) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*/*/*", ".new/*", ".trash/*"} {
		found, err := filepath.Glob(filepath.Join(d.root.Dir(), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			rel, _ := filepath.Rel(d.root.Dir(), f)
			names = append(names, filepath.ToSlash(rel))
		}
	}
	return names
}

func has(t *testing.T, d *Driver, name string, want bool) {
	t.Helper()
	if got := slices.Contains(files(t, d), name); got != want {
		t.Errorf("%s is there: %v", name, got)
	}
}

// Clients and shims read mounts in this form.
func TestMountStrings(t *testing.T) {
	d, _ := openStack(t)
	create(t, d, active("3", "2", "1"))
	create(t, d, unpacked("4", "2", "1"))
	view, bare, committed := storage.Layer{ID: "5", Kind: storage.View, Parents: []string{"2", "1"}}, storage.Layer{ID: "6", Kind: storage.View}, storage.Layer{ID: "2", Kind: storage.Committed, Parents: []string{"1"}}
	create(t, d, view)
	create(t, d, bare)
	var b strings.Builder
	for _, l := range []storage.Layer{active("3", "2", "1"), unpacked("4", "2", "1"), view, bare, committed, {ID: "1", Kind: storage.Committed}} {
		m, err := d.Mounts(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		line, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(l.ID + " " + strings.NewReplacer(strings.Trim(quoted(d.root.Dir()), `"`), "ROOT", strings.Trim(quoted(strings.Trim(quoted(d.root.Dir()), `"`)), `"`), "ROOT", `\\\\`, "/", `\\`, "/").Replace(string(line)) + "\n")
	}
	golden(t, "mounts.golden", b.String())
}

// With composite images, shims are told those of the parents too.
func TestMountStringsOfCims(t *testing.T) {
	d, _ := openStack(t)
	d.cims = "CIMS"
	create(t, d, active("3", "2", "1"))
	m, err := d.Mounts(t.Context(), active("3", "2", "1"))
	if err != nil || len(m) != 1 || m[0].Type != "CimFS" {
		t.Fatalf("%+v, %v", m, err)
	}
	want := cimParentsOption + quotedList(filepath.Join("CIMS", "layer2.cim"), filepath.Join("CIMS", "layer1.cim"))
	if o := m[0].Options; len(o) != 3 || !strings.HasPrefix(o[1], parentsOption) || o[2] != want {
		t.Errorf("options %q, want the last to be %s", o, want)
	}
}

func quotedList(s ...string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func TestScratch(t *testing.T) {
	d, host := openStack(t)
	create(t, d, active("3", "2", "1"))
	has(t, d, "layer3/scratch3/sandbox.vhdx", true)
	if slices.ContainsFunc(host.calls, func(c string) bool { return strings.HasPrefix(c, "MakeScratch") }) {
		t.Error("Windows was asked for a disk though the base has a template")
	}
	create(t, d, unpacked("4", "2", "1"))
	has(t, d, "layer4/scratch4", false)

	if err := os.Remove(filepath.Join(d.root.Dir(), "layer1", "layer1", templateDisk)); err != nil {
		t.Fatal(err)
	}
	create(t, d, active("5", "2", "1"))
	if !slices.Contains(host.calls, "MakeScratch scratch5") {
		t.Errorf("without a template: %v", host.calls)
	}
	host.fail["MakeScratch"] = errors.New("no disk")
	if err := d.Create(t.Context(), active("6", "2", "1")); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("Create without a disk: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(d.root.Dir(), ".new", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := d.Mounts(t.Context(), active("6", "2", "1")); !errdefs.IsNotFound(err) {
		t.Errorf("Mounts: %v", err)
	}
}

func TestScratchSize(t *testing.T) {
	d, host := openStack(t)
	for i, test := range []struct {
		labels map[string]string
		want   string
		bad    bool
	}{
		{labels: map[string]string{sizeLabel: "32212254720"}, want: "Expand 32212254720"},
		{labels: map[string]string{sizeGBLabel: "30"}, want: "Expand 32212254720"},
		{labels: map[string]string{sizeLabel: "5", sizeGBLabel: "30"}, want: "Expand 5"},
		{labels: map[string]string{sizeLabel: "0"}},
		{labels: map[string]string{sizeLabel: "-1"}, bad: true},
		{labels: map[string]string{sizeLabel: "20GB"}, bad: true},
		{labels: map[string]string{sizeGBLabel: "99999999999"}, bad: true},
		{labels: map[string]string{sizeLabel: ""}, bad: true},
	} {
		l := active(string(rune('a'+i)), "2", "1")
		l.Labels = test.labels
		err := d.Create(t.Context(), l)
		if errdefs.IsInvalidArgument(err) != test.bad {
			t.Errorf("%v: %v", test.labels, err)
		}
		got := slices.ContainsFunc(host.calls, func(c string) bool { return c == test.want+" scratch"+l.ID })
		if got != (test.want != "") {
			t.Errorf("%v: want %q in %v", test.labels, test.want, host.calls)
		}
	}
}

func TestApplyNeedsAnEmptyLayer(t *testing.T) {
	d, _ := openStack(t)
	_, child := layers(t)
	create(t, d, active("3", "2", "1"))
	for _, l := range []storage.Layer{active("3", "2", "1"), unpacked("2", "1")} {
		r := bytes.NewReader(child)
		if _, err := d.Apply(t.Context(), l, r); !errdefs.IsFailedPrecondition(err) || r.Len() != len(child) {
			t.Errorf("Apply to layer %s: %v, after %d bytes", l.ID, err, len(child)-r.Len())
		}
	}
}

func TestErrorsOfWindowsAreToldApart(t *testing.T) {
	d, host := openStack(t)
	boom := errors.New("boom")
	host.fail["Import"] = boom
	create(t, d, unpacked("3", "2", "1"))
	if _, err := d.Apply(t.Context(), unpacked("3", "2", "1"), bytes.NewReader(pack(t, dir("Files"), reg("Files/a", strings.Repeat("x", 1<<20))))); !errors.Is(err, boom) {
		t.Errorf("Apply: %v", err)
	}
	host.fail = map[string]error{"Sync": boom}
	if _, err := d.Apply(t.Context(), unpacked("3", "2", "1"), bytes.NewReader(pack(t, dir("Files")))); !errors.Is(err, boom) {
		t.Errorf("a layer that is not durable was taken: %v", err)
	}
}

// written is what a container left on its disk.
func written(t *testing.T, d *Driver, id string) {
	t.Helper()
	data := pack(t, dir("Files"), reg("Files/written", "x"), reg("Files/.wh.new", ""), dir("Hives"), reg("Hives/System_Delta", "regf"))
	if err := os.WriteFile(filepath.Join(d.root.Dir(), "layer"+id, "scratch"+id, scratchDisk), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSealTurnsAScratchIntoALayer(t *testing.T) {
	d, _ := openStack(t)
	l := active("3", "2", "1")
	create(t, d, l)
	written(t, d, "3")
	var before, after bytes.Buffer
	if err := d.Diff(t.Context(), l, &before); err != nil {
		t.Fatal(err)
	}
	u, err := d.Seal(t.Context(), l)
	if err != nil || u.Inodes == 0 {
		t.Fatalf("Seal: %+v, %v", u, err)
	}
	has(t, d, "layer3/scratch3", false)
	has(t, d, "layer3/layer3/Files", true)
	l.Kind = storage.Committed
	if err := d.Diff(t.Context(), l, &after); err != nil {
		t.Fatal(err)
	}
	if a, b := describe(t, before.Bytes()), describe(t, after.Bytes()); a != b || !strings.Contains(a, "Files/written") {
		t.Errorf("before\n%s\nafter\n%s", a, b)
	}
	create(t, d, active("4", "3", "2", "1"))
}

// A crash, or an error, at any step of Seal leaves what the container wrote, and Seal does it again.
func TestSealAgain(t *testing.T) {
	for _, step := range []string{"Export", "Import", "Sync", "Destroy"} {
		d, host := openStack(t)
		l := active("3", "2", "1")
		create(t, d, l)
		written(t, d, "3")
		host.fail[step] = errors.New("stop")
		if _, err := d.Seal(t.Context(), l); err == nil {
			t.Fatalf("%s: no error", step)
		}
		has(t, d, "layer3/scratch3/sandbox.vhdx", true)
		clear(host.fail)
		if _, err := d.Seal(t.Context(), l); err != nil {
			t.Errorf("after %s failed: %v", step, err)
		}
		has(t, d, "layer3/layer3/Files", true)
		has(t, d, "layer3/scratch3", false)
	}
}

func TestOpenSweepsWhatACrashLeft(t *testing.T) {
	d, _ := openStack(t)
	for _, name := range []string{".new/layer7/layer7/Files", ".new/layer7/scratch7", ".trash/layer8-XYZ/layer8/Files"} {
		if err := os.MkdirAll(filepath.Join(d.root.Dir(), name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	host := &fakeHost{}
	d, err := New(d.root.Dir(), host)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(host.calls)
	if want := []string{"Destroy layer7", "Destroy layer8", "Destroy scratch7"}; !slices.Equal(host.calls, want) {
		t.Errorf("calls %v, want %v: layers are deleted by Windows", host.calls, want)
	}
	if ids, err := d.List(t.Context()); err != nil || !slices.Equal(ids, []string{"1", "2"}) {
		t.Errorf("List: %v, %v", ids, err)
	}
}

// What cannot be deleted yet keeps nobody from starting.
func TestOpenWithLeftoversInUse(t *testing.T) {
	d, _ := openStack(t)
	left := filepath.Join(d.root.Dir(), ".trash", "layer8-XYZ", "layer8")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	host := &fakeHost{fail: map[string]error{"Destroy": errors.New("in use")}}
	d, err := New(d.root.Dir(), host)
	if err != nil || !exists(left) {
		t.Fatalf("%v, and it is there: %v", err, exists(left))
	}
	clear(host.fail)
	if _, err := New(d.root.Dir(), host); err != nil || exists(left) {
		t.Errorf("the next time: %v, and it is there: %v", err, exists(left))
	}
}

func TestRemoveIsWindows(t *testing.T) {
	d, host := openStack(t)
	host.fail["Destroy"] = errors.New("in use")
	if err := d.Remove(t.Context(), "2"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Remove: %v", err)
	}
	if ids, err := d.List(t.Context()); err != nil || !slices.Equal(ids, []string{"1"}) {
		t.Errorf("List: %v, %v", ids, err)
	}
}

// A layer that fails leaves nothing once it is removed, and nothing outside of its directory.
func TestBadLayersLeaveNothing(t *testing.T) {
	d, _ := openStack(t)
	before := files(t, d)
	for name, headers := range badLayers() {
		l := unpacked("9", "2", "1")
		create(t, d, l)
		data := pack(t, append([]*tar.Header{dir("Files"), reg("Files/good", "x")}, headers...)...)
		if _, err := d.Apply(t.Context(), l, bytes.NewReader(data)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		if err := d.Remove(t.Context(), "9"); err != nil {
			t.Fatal(err)
		}
	}
	if after := files(t, d); !slices.Equal(before, after) {
		t.Errorf("left %v, was %v", after, before)
	}
}

// Ids are numbers of base 36; some are names of devices.
func TestIDsThatAreDevices(t *testing.T) {
	d, _ := openStack(t)
	for _, id := range []string{"con", "aux", "nul", "prn", "com1", "lpt9"} {
		create(t, d, active(id, "2", "1"))
		m, err := d.Mounts(t.Context(), active(id, "2", "1"))
		if err != nil {
			t.Fatal(err)
		}
		for part := range strings.SplitSeq(filepath.ToSlash(m[0].Source), "/") {
			if winname.Reserved(part) {
				t.Errorf("layer %s is at %s", id, m[0].Source)
			}
		}
		if err := d.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}
