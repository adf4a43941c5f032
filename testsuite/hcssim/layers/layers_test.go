package layers

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

func want(t *testing.T, err error, c hresult.Code) {
	t.Helper()
	if hresult.Of(err) != c {
		t.Fatalf("%v, want 0x%08x", err, uint32(c))
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// stream is one backup stream.
func stream(id uint32, data string) string {
	b := make([]byte, streamHeader)
	binary.LittleEndian.PutUint32(b, id)
	binary.LittleEndian.PutUint64(b[8:], uint64(len(data)))
	return string(b) + data
}

func attributes(a uint32) string { return string(binary.LittleEndian.AppendUint32(nil, a)) }

// transport writes a layer in the transport format: files by their paths below Files, and what is gone.
func transport(t *testing.T, files map[string]string, gone ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range deltas {
		write(t, filepath.Join(dir, hivesDir, d), "regf")
	}
	if err := os.MkdirAll(filepath.Join(dir, filesDir), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		write(t, filepath.Join(dir, filesDir, name), content)
	}
	if len(gone) > 0 {
		write(t, filepath.Join(dir, tombstones), tombstonesHead+"\r\n"+strings.Join(gone, "\n")+"\n")
	}
	return dir
}

func store(t *testing.T) (*Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := New(filepath.Join(dir, "state"), filepath.Join(dir, "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(dir, "base")
	for _, h := range hives {
		write(t, filepath.Join(base, filesDir, "Windows/System32/config", h), "regf")
	}
	write(t, filepath.Join(base, filesDir, "a.txt"), "base")
	write(t, filepath.Join(base, filesDir, "old/b.txt"), "base")
	want(t, s.ProcessBase(base), hresult.OK)
	return s, dir
}

func TestImportExport(t *testing.T) {
	s, dir := store(t)
	base, child := filepath.Join(dir, "base"), filepath.Join(dir, "child")
	from := transport(t, map[string]string{
		"a.txt":           attributes(0x21) + stream(3, "descriptor") + stream(streamData, "child"),
		"new" + dirSuffix: attributes(0x12) + stream(3, "directory's"),
		"new/c.txt":       attributes(0x20) + stream(streamData, "new"),
	}, `\old`)
	want(t, s.Import(child, from, []string{base}), hresult.OK)
	for name, content := range map[string]string{"a.txt": "child", "new/c.txt": "new"} {
		if got := read(t, filepath.Join(child, filesDir, name)); got != content {
			t.Errorf("%s is %q, want %q", name, got, content)
		}
	}
	if _, err := os.Stat(filepath.Join(child, filesDir, "old")); err == nil {
		t.Error("what the layer took away is there")
	}
	if got := read(t, filepath.Join(base, filesDir, "a.txt")); got != "base" {
		t.Errorf("the parent's file is %q", got)
	}
	want(t, s.Import(child, from, []string{base}), hresult.AlreadyExists)

	out := t.TempDir()
	want(t, s.Export(child, out, []string{base}), hresult.OK)
	for _, name := range []string{"a.txt", "new" + dirSuffix, "new/c.txt"} {
		if got, before := read(t, filepath.Join(out, filesDir, name)), read(t, filepath.Join(from, filesDir, name)); got != before {
			t.Errorf("%s came back as %q, was %q", name, got, before)
		}
	}
	if got := read(t, filepath.Join(out, tombstones)); got != tombstonesHead+"\n"+`\old`+"\n" {
		t.Errorf("tombstones %q", got)
	}
	if _, err := os.Stat(filepath.Join(out, filesDir, "Windows")); err == nil {
		t.Error("what the parent has is exported")
	}
}

// A directory that a layer does not touch is deleted in it as a file is, as hcsshim does when the layer hides it.
func TestPlaceholders(t *testing.T) {
	s, dir := store(t)
	base, one, two, scratch := filepath.Join(dir, "base"), filepath.Join(dir, "1"), filepath.Join(dir, "2"), filepath.Join(dir, "scratch")
	write(t, filepath.Join(base, filesDir, "old/deep/c.txt"), "base")
	plain := attributes(0x20) + stream(streamData, "x")
	want(t, s.Import(one, transport(t, map[string]string{"new/f": plain}), []string{base}), hresult.OK)
	if err := os.Remove(filepath.Join(one, filesDir, "old")); err != nil {
		t.Fatal(err)
	}
	want(t, s.Import(two, transport(t, map[string]string{"old/again": plain}), []string{one, base}), hresult.OK)
	for layer, c := range map[string]struct {
		parents []string
		gone    string
	}{one: {[]string{base}, `\old` + "\n"}, two: {[]string{one, base}, ""}} {
		out := t.TempDir()
		want(t, s.Export(layer, out, c.parents), hresult.OK)
		if got := read(t, filepath.Join(out, tombstones)); got != tombstonesHead+"\n"+c.gone {
			t.Errorf("tombstones of %s: %q", filepath.Base(layer), got)
		}
	}
	parents := []string{two, one, base}
	want(t, s.CreateScratch(scratch, parents), hresult.OK)
	want(t, s.Activate(scratch), hresult.OK)
	want(t, s.Prepare(scratch, parents), hresult.OK)
	files := s.Files(scratch)
	for name, there := range map[string]bool{"old/again": true, "old/b.txt": false, "old/deep": false, "new/f": true, "Windows/System32/config/SAM": true} {
		if _, err := os.Stat(filepath.Join(files, name)); (err == nil) != there {
			t.Errorf("%s: %v, should be there: %v", name, err, there)
		}
	}
}

func TestScratch(t *testing.T) {
	s, dir := store(t)
	base, scratch := filepath.Join(dir, "base"), filepath.Join(dir, "scratch")
	want(t, s.CreateScratch(scratch, nil), hresult.InvalidParameter)
	want(t, s.CreateScratch(scratch, []string{filepath.Join(dir, "none")}), hresult.PathNotFound)
	want(t, s.CreateScratch(scratch, []string{base}), hresult.OK)
	want(t, s.CreateScratch(scratch, []string{base}), hresult.AlreadyExistsFile)
	want(t, s.Prepare(scratch, []string{base}), hresult.InvalidState)
	if _, err := s.MountPath(scratch); hresult.Of(err) != hresult.InvalidState {
		t.Errorf("a scratch that isn't activated has a volume: %v", err)
	}
	want(t, s.Activate(scratch), hresult.OK)
	want(t, s.Prepare(scratch, []string{base}), hresult.OK)
	want(t, s.Prepare(scratch, []string{base}), hresult.AlreadyExists)
	volume, err := s.MountPath(scratch)
	want(t, err, hresult.OK)
	files := s.Files(volume + `\`)
	if read(t, filepath.Join(files, "a.txt")) != "base" {
		t.Error("the parent's files aren't there")
	}
	write(t, filepath.Join(files, "a.txt"), "changed")
	write(t, filepath.Join(files, "made/d.txt"), "made")
	if err := os.RemoveAll(filepath.Join(files, "old/b.txt")); err != nil {
		t.Fatal(err)
	}
	want(t, s.Destroy(scratch), hresult.SharingViolation)
	want(t, s.Deactivate(scratch), hresult.InvalidState)

	s, err = New(filepath.Join(dir, "state"), filepath.Join(dir, "volumes")) // as after the service's death
	want(t, err, hresult.OK)
	if s.Files(volume) != files {
		t.Errorf("after a restart the files are in %q", s.Files(volume))
	}
	for range 2 { // while mounted, and after
		out := t.TempDir()
		want(t, s.Export(scratch, out, []string{base}), hresult.OK)
		if got := read(t, filepath.Join(out, filesDir, "a.txt")); got != attributes(0x20)+stream(streamData, "changed") {
			t.Errorf("a.txt is exported as %q", got)
		}
		if got := read(t, filepath.Join(out, tombstones)); got != tombstonesHead+"\n"+`\old\b.txt`+"\n" {
			t.Errorf("tombstones %q", got)
		}
		if s.Files(volume) != "" {
			want(t, s.Unprepare(scratch), hresult.OK)
			want(t, s.Unprepare(scratch), hresult.ElementNotFound)
			want(t, s.Deactivate(scratch), hresult.OK)
			want(t, s.Deactivate(scratch), hresult.ElementNotFound)
		}
	}
	want(t, s.Destroy(scratch), hresult.OK)
	want(t, s.Destroy(scratch), hresult.OK)
	if left, _ := os.ReadDir(filepath.Join(dir, "volumes")); len(left) != 0 {
		t.Errorf("volumes left: %v", left)
	}
	if got := read(t, filepath.Join(base, filesDir, "a.txt")); got != "base" {
		t.Errorf("the parent's file is %q", got)
	}
}

func TestAttachedDisk(t *testing.T) {
	s, dir := store(t)
	scratch := filepath.Join(dir, "scratch")
	want(t, s.Attach(scratch), hresult.PathNotFound)
	want(t, s.CreateScratch(scratch, []string{filepath.Join(dir, "base")}), hresult.OK)
	want(t, s.ExpandScratch(scratch, 20<<30), hresult.OK)
	want(t, s.ExpandScratch(scratch, 1), hresult.InvalidParameter)
	want(t, s.Attach(scratch), hresult.OK)
	if v, err := s.MountPath(scratch); err != nil || !strings.HasPrefix(v, `\\?\Volume{`) {
		t.Errorf("%q, %v", v, err)
	}
	want(t, s.Destroy(scratch), hresult.OK)
}

func TestRefused(t *testing.T) {
	file := attributes(0x20) + stream(streamData, "x")
	for name, c := range map[string]struct {
		files map[string]string
		gone  []string
		code  hresult.Code
	}{
		"device":               {files: map[string]string{"CON": file}, code: hresult.InvalidName},
		"device with a suffix": {files: map[string]string{"dir/lpt1.txt": file}, code: hresult.InvalidName},
		"trailing dot":         {files: map[string]string{"a.": file}, code: hresult.InvalidName},
		"stream":               {files: map[string]string{"a:b": file}, code: hresult.InvalidName},
		"no attributes":        {files: map[string]string{"a": "x"}, code: hresult.InvalidData},
		"cut short":            {files: map[string]string{"a": file[:len(file)-1]}, code: hresult.InvalidData},
		"two datas":            {files: map[string]string{"a": file + stream(streamData, "y")}, code: hresult.InvalidData},
		"unknown stream":       {files: map[string]string{"a": file + stream(77, "y")}, code: hresult.InvalidData},
		"much metadata":        {files: map[string]string{"a": attributes(0) + stream(3, strings.Repeat("x", maxMetadata+1))}, code: hresult.InvalidData},
		"directory with data":  {files: map[string]string{"d/a": file, "d" + dirSuffix: file}, code: hresult.InvalidData},
		"tombstone out":        {gone: []string{`\..\..\x`}, code: hresult.InvalidName},
		"tombstone relative":   {gone: []string{`x`}, code: hresult.InvalidData},
		"base with tombstones": {gone: []string{`\old`}, code: hresult.OK},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := store(t)
			child := filepath.Join(dir, "child")
			want(t, s.Import(child, transport(t, c.files, c.gone...), []string{filepath.Join(dir, "base")}), c.code)
			want(t, s.Destroy(child), hresult.OK)
		})
	}
	s, dir := store(t)
	if err := os.Remove(filepath.Join(dir, "base", filesDir, "Windows/System32/config/SAM")); err != nil {
		t.Fatal(err)
	}
	want(t, s.ProcessBase(filepath.Join(dir, "base")), hresult.FileNotFound)
	want(t, s.ProcessUtility(dir), hresult.PathNotFound)
	want(t, s.Import(filepath.Join(dir, "c"), t.TempDir(), nil), hresult.InvalidParameter)
	want(t, s.Import(filepath.Join(dir, "c"), filepath.Join(dir, "none"), []string{filepath.Join(dir, "base")}), hresult.PathNotFound)
}

func TestGUID(t *testing.T) {
	if GUID("A") != GUID("a") || GUID("a") == GUID("b") {
		t.Error("a GUID is its name's, in any case")
	}
}

func FuzzSplitStreams(f *testing.F) {
	f.Add([]byte(stream(3, "x") + stream(streamData, "y")))
	f.Add([]byte(stream(9, "x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		var data bytes.Buffer
		rest, err := splitStreams(bytes.NewReader(b), &data)
		if err == nil && len(rest)+data.Len() > len(b) {
			t.Fatalf("%d bytes of %d", len(rest)+data.Len(), len(b))
		}
	})
}
