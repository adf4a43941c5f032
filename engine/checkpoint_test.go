package engine

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/shim"
)

func taskEvent(topic, id string) Event {
	return Event{Namespace: benchNS, Topic: topic, Payload: exitPayload{"container_id": id}}
}

func TestCheckpointAndRestore(t *testing.T) {
	b := newBench(t)
	b.container(t, "c", nil)
	b.tasks.images = map[string]string{"core-1.img": "core", "sub/pages-1.img": "pages"}
	sc := Scope{Namespace: benchNS}
	descs, err := b.CheckpointTask(t.Context(), sc, "c", "", nil)
	if err != nil || len(descs) != 2 || descs[0].MediaType != checkpointType || descs[1].MediaType != checkpointSpecType {
		t.Fatalf("got %+v, %v", descs, err)
	}
	var kept anypb.Any
	if spec, err := content.ReadAll(t.Context(), b.imageStore(sc), descs[1], 1<<20); err != nil || proto.Unmarshal(spec, &kept) != nil || kept.TypeUrl != "spec" {
		t.Errorf("the spec was kept as %q, %v", spec, err)
	}
	if left := dirNames(t, b.checkpoints()); len(left) > 0 {
		t.Errorf("directories are left: %q", left)
	}
	for _, topic := range []string{"/tasks/start", "/tasks/delete"} {
		if _, err := b.CreateTask(t.Context(), sc, TaskOptions{ContainerID: "c", Checkpoint: &descs[0]}); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(b.tasks.restore, b.tasks.images) {
			t.Errorf("restored from %q, want %q", b.tasks.restore, b.tasks.images)
		}
		dir := b.unpacked(benchNS, "c")
		if len(dirNames(t, dir)) == 0 {
			t.Error("the checkpoint is gone before the task has started")
		}
		if err := b.TaskEvent(t.Context(), taskEvent(topic, "c")); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after %s the checkpoint is there: %v", topic, err)
		}
	}
	if _, err := b.CreateTask(t.Context(), sc, TaskOptions{ContainerID: "c", Checkpoint: &descs[1]}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("restore from a spec: %v, want InvalidArgument", err)
	}
}

func TestCheckpointToPath(t *testing.T) {
	b := newBench(t)
	b.container(t, "c", nil)
	b.tasks.images = map[string]string{"core-1.img": "core", "sub/pages-1.img": "pages"}
	sc, parent := Scope{Namespace: benchNS}, t.TempDir()
	path := filepath.Join(parent, "images")
	for _, made := range []bool{false, true} { // by the client
		if made {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if descs, err := b.CheckpointTask(t.Context(), sc, "c", path, nil); err != nil || descs != nil {
			t.Fatalf("%+v, %v", descs, err)
		}
		if data, err := os.ReadFile(filepath.Join(path, "sub/pages-1.img")); err != nil || string(data) != "pages" {
			t.Errorf("%q, %v", data, err)
		}
		if _, err := b.CheckpointTask(t.Context(), sc, "c", path, nil); !errdefs.IsAlreadyExists(err) {
			t.Errorf("into one that is not empty: %v, want AlreadyExists", err)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.CheckpointTask(t.Context(), sc, "c", "relative", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("to a relative path: %v, want InvalidArgument", err)
	}
	b.tasks.images = map[string]string{"core-1.img": "core", "core-1.img/below a file": ""}
	if _, err := b.CheckpointTask(t.Context(), sc, "c", path, nil); err == nil {
		t.Error("a checkpoint that fails is told to have worked")
	}
	if left := append(dirNames(t, parent), dirNames(t, b.checkpoints())...); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestCheckpointsAfterCrash finds the halves that a daemon leaves that dies in the middle.
func TestCheckpointsAfterCrash(t *testing.T) {
	b := newBench(t)
	part := filepath.Join(t.TempDir(), "images.part-x")
	waiting, started := b.unpacked(benchNS, "waiting"), b.unpacked(benchNS, "started")
	for _, dir := range []string{part, waiting, started, filepath.Join(b.checkpoints(), "123")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "core-1.img"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range map[string]string{"images.part-x": part, "images.part-y.new": t.TempDir()} {
		if err := os.WriteFile(filepath.Join(b.checkpoints(), name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.tasks.tasks[benchNS+"/waiting"] = shim.State{Status: shim.Created}
	b.tasks.tasks[benchNS+"/started"] = shim.State{Status: shim.Running}
	if err := b.restoreCheckpoints(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := dirNames(t, b.checkpoints()); !reflect.DeepEqual(left, []string{unpackedDir}) {
		t.Errorf("left: %q", left)
	}
	for dir, want := range map[string]bool{part: false, started: false, waiting: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v, there is to be one: %v", dir, err, want)
		}
	}
	if err := b.TaskEvent(t.Context(), taskEvent("/tasks/start", "waiting")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(waiting); err == nil {
		t.Error("after the start of its task an adopted checkpoint is there")
	}
}

func dirNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestHostileCheckpointStaysInItsDirectory(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"dot dot":   {{Typeflag: tar.TypeReg, Name: "../out"}},
		"absolute":  {{Typeflag: tar.TypeReg, Name: "/out"}},
		"symlink":   {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/"}},
		"device":    {{Typeflag: tar.TypeChar, Name: "d"}},
		"twice":     {{Typeflag: tar.TypeReg, Name: "a"}, {Typeflag: tar.TypeReg, Name: "a"}},
		"hard link": {{Typeflag: tar.TypeLink, Name: "l", Linkname: "../x"}},
	} {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := untarFiles(&archive, dir); err == nil {
			t.Errorf("%s: no error", name)
		}
		if got := dirNames(t, filepath.Dir(dir)); len(got) != 1 {
			t.Errorf("%s: it wrote outside: %q", name, got)
		}
	}
}

func FuzzUntarFiles(f *testing.F) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "a/b", Size: 1}), writeAll(w, "x"), w.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(archive.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := filepath.Join(t.TempDir(), "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		_ = untarFiles(bytes.NewReader(data), dir) // any error will do, but nothing may leave dir
		if got := dirNames(t, filepath.Dir(dir)); len(got) != 1 {
			t.Errorf("it wrote outside: %q", got)
		}
	})
}

func writeAll(w *tar.Writer, s string) error {
	_, err := w.Write([]byte(s))
	return err
}
