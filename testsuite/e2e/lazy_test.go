package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// soak is true when tests take the time to do what they do as often as docs/lazy-criteria.md says.
var soak = os.Getenv("SLIPWAY_SOAK") != ""

// lazyConfig has layers stay where they are until somebody reads them, and reads wait for a registry for some seconds only.
const lazyConfig = `
[lazy]
mode = "always"
background = false
deadline = "2s"
`

// far is more than is fetched at once.
const far = 4 << 20

// startLazy starts a daemon that pulls nothing but what is read.
func startLazy(t *testing.T) *daemon {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("there is no FUSE: ", err)
	}
	return startDaemonWith(t, func(d *daemon) { d.config = lazyConfig })
}

// lazyImage is busybox and a layer of files below /data, both with a table of contents of their own.
type lazyImage struct {
	*ociimage.Built
	ref   string
	data  digest.Digest // of the layer with the files
	files map[string][]byte
}

// pushLazy pushes an image whose files are the same for the same seed only: daemons share equal files between images. Ballast is
// that many bytes of another file between the first files and the last, so that not all of them are fetched together.
func pushLazy(t *testing.T, r *registry.Registry, seed uint64, size int) *lazyImage {
	t.Helper()
	img, err := ociimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	img.Layers[0].Compression = ociimage.EStargz
	l := &lazyImage{files: map[string][]byte{}, ref: fmt.Sprintf("%s/lazy/%d:v1", r.Host(), seed)}
	files := []ociimage.File{ociimage.Dir("data", 0o755)}
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	for i := range 24 {
		body := make([]byte, 1000+i*i*700) // up to 370 KB: several chunks of 64 KiB
		_, _ = random.Read(body)
		name := fmt.Sprintf("data/file%02d", i)
		files = append(files, ociimage.Regular(name, 0o644, string(body)))
		l.files[name] = body
		if i == 11 {
			ballast := make([]byte, size)
			_, _ = random.Read(ballast)
			files = append(files, ociimage.Regular("ballast", 0o644, string(ballast)))
		}
	}
	img.Layers = append(img.Layers, ociimage.Layer{Compression: ociimage.EStargz, Files: files})
	l.Built = r.Push(fmt.Sprintf("lazy/%d:v1", seed), img)
	l.data = l.Layers[1].Digest
	return l
}

// sum is what hashAll prints for the image.
func (l *lazyImage) sum() string {
	var lines strings.Builder
	for _, name := range slices.Sorted(maps.Keys(l.files)) {
		fmt.Fprintf(&lines, "%x  %s\n", sha256.Sum256(l.files[name]), name)
	}
	all := sha256.Sum256([]byte(lines.String()))
	return hex.EncodeToString(all[:])
}

// hashAll is a shell command that prints one hash over all files of a lazyImage, and fails when one cannot be read.
const hashAll = `cd / && sha256sum data/* >/tmp/sums && sha256sum </tmp/sums | cut -d ' ' -f 1`

// fuse are the processes that serve layers: the keeper and its server.
func (d *daemon) fuse() (keeper, server int) {
	for _, pid := range d.processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		switch args := bytes.Split(cmdline, []byte{0}); {
		case len(args) < 2 || !strings.HasPrefix(filepath.Base(string(args[0])), "slipway-fuse"):
		case string(args[1]) == "keeper":
			keeper = pid
		case string(args[1]) == "serve":
			server = pid
		}
	}
	return keeper, server
}

// forgetPages has the next reads ask the file system anew.
func forgetPages(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
}

func (d *daemon) expectSum(t *testing.T, l *lazyImage) {
	t.Helper()
	if out, err := d.trySlipway(t, "run", "--rm", l.ref, "sh", "-c", hashAll); err != nil || strings.TrimSpace(out) != l.sum() {
		t.Errorf("all files: %q, %v; want %s", out, err, l.sum())
	}
}

// TestLazyStart runs a container of an image of which little is here, and looks at what was fetched.
func TestLazyStart(t *testing.T) {
	r, d := registry.Start(t), startLazy(t)
	l := pushLazy(t, r, 1, far)
	if out := d.slipway(t, "run", "--rm", l.ref, "head", "-c", "3", "/data/file00"); out != string(l.files["data/file00"][:3]) {
		t.Errorf("the first bytes are %q", out)
	}
	var fetched int64
	for _, req := range r.Requests() {
		if req.Method == "GET" && req.Digest == l.data {
			fetched += req.Bytes
		}
	}
	if whole := l.Layers[1].Size; fetched == 0 || fetched > whole/4 {
		t.Errorf("%d bytes of a layer of %d were fetched for the first bytes of its first file", fetched, whole)
	}
	d.expectSum(t, l)
	d.slipway(t, "rmi", l.ref)
	d.checkEmpty(t)
}

// TestLazySharedFiles is criterion 8: of two images with nearly the same files the second one's are here already.
func TestLazySharedFiles(t *testing.T) {
	r, d := registry.Start(t), startLazy(t)
	base, err := ociimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	base.Layers[0].Compression = ociimage.EStargz
	random := rand.NewChaCha8([32]byte{8})
	file := func(name string, size int) ociimage.File {
		body := make([]byte, size)
		_, _ = random.Read(body)
		return ociimage.Regular(name, 0o644, string(body))
	}
	shared := []ociimage.File{ociimage.Dir("data", 0o755)}
	for i := range 40 {
		shared = append(shared, file(fmt.Sprintf("data/shared%02d", i), 10_000*i))
	}
	for i, name := range []string{"a", "b"} {
		img := base
		img.Layers = append(slices.Clone(base.Layers), ociimage.Layer{Compression: ociimage.EStargz,
			Files: append(slices.Clone(shared), file("data/of-"+name, 100_000))})
		built := r.Push("lazy/shared"+name+":v1", img)
		r.Forget()
		d.slipway(t, "run", "--rm", r.Host()+"/lazy/shared"+name+":v1", "sh", "-c", "cat /data/* | wc -c")
		var fetched int64
		for _, req := range r.Requests() {
			fetched += req.Bytes
		}
		if whole := built.Layers[0].Size + built.Layers[1].Size; i == 1 && fetched > whole*15/100+(1<<20)+(512<<10) {
			t.Errorf("%d bytes of %d were fetched for files of which nine tenths were here", fetched, whole)
		} else if i == 0 && fetched < whole/2 {
			t.Errorf("%d bytes of %d were fetched for all files of the first image", fetched, whole)
		}
	}
}

// TestLazyCycles is criterion 26: two images with other content under the same names, in turn.
func TestLazyCycles(t *testing.T) {
	r, d := registry.Start(t), startLazy(t)
	images := []*lazyImage{pushLazy(t, r, 26, 0), pushLazy(t, r, 27, 0)}
	cycles := 12
	if soak {
		cycles = 300
	}
	for i := range cycles {
		l := images[i%2]
		d.expectSum(t, l)
		if i%3 == 2 {
			d.slipway(t, "rmi", l.ref)
		}
	}
}

// TestLazyTree is criterion 25 in a container: the same image pulled in full shows the same.
func TestLazyTree(t *testing.T) {
	r := registry.Start(t)
	img, err := ociimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	img.Layers = append(img.Layers, oddLayers()...)
	for i := range img.Layers {
		img.Layers[i].Compression = ociimage.EStargz
	}
	r.Push("lazy/odd:v1", img)
	var seen [2]string
	for i, d := range []*daemon{startLazy(t), startDaemonWith(t, func(d *daemon) { d.config = "[lazy]\nmode = \"never\"\n" })} {
		seen[i] = d.slipway(t, "run", "--rm", r.Host()+"/lazy/odd:v1", "sh", "-c", listAll)
		if _, server := d.fuse(); (server == 0) != (i == 1) {
			t.Errorf("daemon %d has FUSE server %d", i, server)
		}
	}
	lazy, full := strings.Split(seen[0], "\n"), strings.Split(seen[1], "\n")
	for i := range min(len(lazy), len(full)) {
		if lazy[i] != full[i] {
			t.Fatalf("lazy %s\nfull %s", lazy[i], full[i])
		}
	}
	if len(lazy) != len(full) || len(full) < 25 {
		t.Errorf("%d lines lazily, %d in full", len(lazy), len(full))
	}
}

// listAll prints what a container's image looks like: everything of names, files and links; of directories all but sizes.
const listAll = `find /odd /gone /opaque /becomes /bin/sh /usr /var -xdev | sort | while read -r f; do
if [ -L "$f" ]; then echo "$f $(readlink "$f") $(stat -c '%u:%g %Y' "$f")"
elif [ -d "$f" ]; then stat -c '%n %f %u:%g %Y' "$f"
elif [ -f "$f" ]; then echo "$(stat -c '%n %f %u:%g %s %h %Y' "$f") $(sha256sum <"$f")"
else stat -c '%n %f %u:%g %t:%T %h %Y' "$f"; fi; done`

// oddLayers hold what layers can say besides plain files.
func oddLayers() []ociimage.Layer {
	odd := func(name string, mode int64, uid, gid int) ociimage.File {
		f := ociimage.Regular(name, mode, "of "+name)
		f.Uid, f.Gid = uid, gid
		return f
	}
	device := ociimage.File{}
	device.Name, device.Typeflag, device.Mode, device.Devmajor, device.Devminor = "odd/null", '3', 0o666, 1, 3
	pipe := ociimage.File{}
	pipe.Name, pipe.Typeflag, pipe.Mode = "odd/pipe", '6', 0o640
	return []ociimage.Layer{
		{Files: []ociimage.File{
			ociimage.Dir("odd", 0o751), odd("odd/suid", 0o4755, 0, 0), odd("odd/sgid", 0o2755, 5, 6), odd("odd/owned", 0o600, 1000, 2000),
			ociimage.Hardlink("odd/twin", "odd/owned"), ociimage.Symlink("odd/link", "owned"), ociimage.Symlink("odd/dangling", "../no/where"),
			device, pipe, ociimage.Regular("odd/empty", 0o444, ""), ociimage.Dir("odd/sticky", 0o1777),
			ociimage.Dir("gone", 0o755), ociimage.Regular("gone/a", 0o644, "a"), ociimage.Dir("opaque", 0o755), ociimage.Regular("opaque/below", 0o644, "b"),
			ociimage.Regular("becomes", 0o644, "a file"), ociimage.Regular("odd/name with  blanks", 0o644, "c"), ociimage.Regular("odd/grösse", 0o644, "d"),
		}},
		{Files: []ociimage.File{
			ociimage.Whiteout("gone"), ociimage.Dir("opaque", 0o700), ociimage.Opaque("opaque"), ociimage.Regular("opaque/above", 0o644, "e"),
			ociimage.Dir("becomes", 0o755), ociimage.Regular("becomes/dir", 0o644, "f"), ociimage.Whiteout("odd/twin"),
			ociimage.Regular("odd/empty", 0o644, "not any more"),
		}},
		{Files: []ociimage.File{ociimage.Dir("gone", 0o711), ociimage.Regular("gone/again", 0o644, "g")}},
	}
}

// killProcess ends a process that the test did not start itself and waits until it is gone.
func killProcess(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("cannot kill %d: %v", pid, err)
	}
	eventually(t, "end of process "+strconv.Itoa(pid), func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}
