package e2e

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestLazyRegistryMisbehaves is criteria 13, 15 and 16 from a registry to a program in a container, which notices nothing. The
// fault begins when the image is mounted.
func TestLazyRegistryMisbehaves(t *testing.T) {
	r, d := registry.Start(t), startLazy(t)
	cases := map[string]registry.Fault{
		"cut":                 registry.Cut(1000),
		"cut at once":         registry.Cut(0),
		"no answer":           registry.Drop(),
		"shorter":             registry.Shorten(10),
		"longer":              registry.Pad(10),
		"without length":      registry.NoLength(),
		"wrong Content-Range": registry.ContentRange("bytes 0-99/100"),
		"other Content-Range": registry.ContentRange("bytes 5-104/1000000"),
		"200 for a range":     registry.IgnoreRange(),
		"500":                 registry.Status(500),
		"503 and Retry-After": registry.Unavailable(1),
		"429 and Retry-After": registry.TooManyRequests(1),
		"a changed byte":      registry.Corrupt(300),
		"storage that ends":   r.Redirect(2),
	}
	for i, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) {
			l := pushLazy(t, r, uint64(1000+i), 0)
			d.slipway(t, "pull", l.ref)
			match := registry.Match{Method: "GET", Path: "/blobs/", Digest: l.data, Times: 2}
			if name == "storage that ends" {
				match.Times = 0
			}
			r.Fault(match, cases[name])
			before := r.Count(match)
			d.expectSum(t, l)
			if r.Count(match) <= before+1 {
				t.Error("the fault met nobody")
			}
			r.Heal()
			d.slipway(t, "rmi", l.ref)
		})
	}
}

// TestLazyCorruptLayer is criterion 12: what is not the layer fails in its file alone, and is never seen.
func TestLazyCorruptLayer(t *testing.T) {
	r, d := registry.Start(t), startLazy(t)
	l := pushLazy(t, r, 12, 0)
	good := r.Blob(l.data)
	bad := slices.Clone(good)
	for i := len(bad) * 9 / 10; i < len(bad)*9/10+100; i++ { // in one of the big files, before the table of contents
		bad[i] ^= 0xff
	}
	r.PutBlob(l.data, bad)
	out, err := d.trySlipway(t, "run", "--rm", l.ref, "sh", "-c", `cd /data; for f in *; do sha256sum $f 2>/dev/null || echo "no $f"; done`)
	if err != nil {
		t.Fatal(err)
	}
	var failed []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); f[0] == "no" {
			failed = append(failed, f[1])
		} else if want := l.hash("data/" + f[1]); f[0] != want {
			t.Errorf("%s has hash %s, want %s", f[1], f[0], want)
		}
	}
	if len(failed) == 0 || len(failed) > 2 {
		t.Errorf("could not be read: %q, want the one or two files that are damaged", failed)
	}
	r.PutBlob(l.data, good)
	d.expectSum(t, l)
}

// TestLazyCredentials is criterion 14: tokens run out in mid-read, and what gets new ones survives a restart of everything.
func TestLazyCredentials(t *testing.T) {
	r, d := registry.Start(t), startLazy(t)
	l := pushLazy(t, r, 14, 0)
	r.RequireToken(registry.Token{Username: "me", Password: "secret", Uses: 3})
	d.slipway(t, "pull", "-u", "me:secret", l.ref)
	if out := d.slipway(t, "run", "--rm", l.ref, "sh", "-c", "sha256sum </data/file03"); !strings.HasPrefix(out, l.hash("data/file03")) {
		t.Errorf("the hash of file03 is %s", out)
	}
	d.killAll(t)
	d.start()
	d.expectSum(t, l)
	if n := r.Count(registry.Match{Path: "/token"}); n < 3 {
		t.Errorf("tokens for three requests each were asked for %d times", n)
	}
}

// TestLazyOutage is criterion 17: without the registry what is here is read, what is not waits, then fails, and recovers.
func TestLazyOutage(t *testing.T) {
	r, d := registry.Start(t), startLazy(t)
	l := pushLazy(t, r, 17, far)
	id := name(t)
	d.slipway(t, "run", "-d", "--name", id, l.ref, "sleep", "1000")
	read := func(file string) (string, error) {
		out, err := d.trySlipway(t, "exec", id, "sha256sum", "/data/"+file)
		sum, _, _ := strings.Cut(out, " ")
		return sum, err
	}
	if sum, err := read("file01"); err != nil || sum != l.hash("data/file01") {
		t.Fatalf("%s, %v", sum, err)
	}
	if err := r.Down(); err != nil {
		t.Fatal(err)
	}
	forgetPages(t)
	if sum, err := read("file01"); err != nil || sum != l.hash("data/file01") {
		t.Errorf("a file that is here, without the registry: %s, %v", sum, err)
	}
	if sum, err := read("file23"); err == nil || !strings.Contains(err.Error(), "Input/output error") {
		t.Errorf("a file that is not here, beyond the deadline: %q, %v; want an I/O error", sum, err)
	}
	waiting := make(chan error, 1)
	go func() {
		sum, err := read("file21")
		if err == nil && sum != l.hash("data/file21") {
			err = fmt.Errorf("hash %s", sum)
		}
		waiting <- err
	}()
	if err := r.Up(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err != nil {
		t.Errorf("a read from before the registry came back: %v", err)
	}
	if sum, err := read("file23"); err != nil || sum != l.hash("data/file23") {
		t.Errorf("the file that failed, when the registry is back: %s, %v", sum, err)
	}
	d.slipway(t, "rm", "-f", id)
}

// TestLazyStartWithoutRegistry is criterion 18: after a restart of everything the daemon starts, and so do containers that find all
// they need here.
func TestLazyStartWithoutRegistry(t *testing.T) {
	r, d := registry.Start(t), startLazy(t)
	read, unread := pushLazy(t, r, 18, far), pushLazy(t, r, 19, far)
	d.expectSum(t, read)
	d.slipway(t, "pull", unread.ref)
	_, server := d.fuse() // one that ends by itself has written all that it keeps
	if err := syscall.Kill(server, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another server", func() bool { _, now := d.fuse(); return now != 0 && now != server })
	d.killAll(t)
	if err := r.Down(); err != nil {
		t.Fatal(err)
	}
	d.start()
	d.expectSum(t, read)
	if out, err := d.trySlipway(t, "run", "--rm", unread.ref, "cat", "/data/file00"); err == nil {
		t.Errorf("a file that is not here, without a registry: %d bytes", len(out))
	}
	if err := r.Up(); err != nil {
		t.Fatal(err)
	}
	d.expectSum(t, unread)
}

// hashTree is a shell command that prints one hash over all of an image that is no directory, with modes, owners, times, links and
// contents, and fails when something cannot be read. Of busybox's links, which are one file, it reads a few.
const hashTree = `cd / && find . -xdev ! -type d ! -path "./tmp/*" ! -path "./etc/*" | sort >/tmp/names &&
xargs ls -ln </tmp/names >/tmp/tree && grep -v -e ^l -e "/bin/[^b]" /tmp/tree | sed "s/.* //" | xargs sha256sum >/tmp/sums && cat /tmp/sums >>/tmp/tree &&
sha256sum </tmp/tree | cut -d " " -f 1`

// treeOfFull is what hashTree prints for an image that is pulled in full.
func treeOfFull(t *testing.T, ref string) string {
	t.Helper()
	d := startDaemonWith(t, func(d *daemon) { d.config = "[lazy]\nmode = \"never\"\n" })
	sum := strings.TrimSpace(d.slipway(t, "run", "--rm", ref, "sh", "-c", hashTree))
	if tree := d.slipway(t, "run", "--rm", ref, "sh", "-c", hashTree+"; cat /tmp/tree"); strings.Count(tree, "./data/file23") != 2 || !strings.Contains(tree, "bin/busybox") {
		t.Fatalf("not all of the image was read: %s", tree)
	}
	return sum
}

// TestLazyKills is criteria 19 and 20: server, keeper and daemon are killed in any order while a container reads its whole tree again
// and again; no read fails or differs from the image when it is pulled in full. The longest stall is printed.
func TestLazyKills(t *testing.T) {
	r, d := registry.Start(t), startLazy(t)
	l := pushLazy(t, r, 20, 0)
	want := treeOfFull(t, l.ref)
	r.Fault(registry.Match{Method: "GET", Digest: l.data}, registry.Slow(8<<10, 1e6)) // so that kills meet reads
	id := name(t)
	d.slipway(t, "run", "-d", "--name", id, l.ref, "sh", "-c", `n=0; while sum=$(`+hashTree+`); do
[ "$sum" = `+want+` ] || { echo "differs: $sum"; exit 1; }; n=$((n+1)); echo "read $n"; done; echo "cannot be read"; exit 2`)
	watched := watchStalls(t, want, "data")
	kills, random := 9, rand.New(rand.NewPCG(19, 20))
	if soak {
		kills = 100
	}
	rounds := func() string {
		lines := strings.Split(strings.TrimSpace(d.slipway(t, "logs", id)), "\n")
		return lines[len(lines)-1]
	}
	for i := range kills {
		forgetPages(t)
		keeper, server := d.fuse()
		if keeper == 0 || server == 0 {
			t.Fatalf("after %d kills keeper %d and server %d run", i, keeper, server)
		}
		switch (i + random.IntN(2)) % 3 {
		case 0:
			killProcess(t, server)
			eventually(t, "another server", func() bool { _, now := d.fuse(); return now != 0 && now != server })
		case 1:
			killProcess(t, keeper)
			eventually(t, "another keeper", func() bool { now, server := d.fuse(); return now != 0 && now != keeper && server != 0 })
		case 2:
			d.kill()
			d.start()
		}
		before := rounds()
		eventually(t, "the container's next round", func() bool {
			now := rounds()
			return now != before && strings.HasPrefix(now, "read ") || strings.HasPrefix(now, "differs") || now == "cannot be read"
		})
		if now := rounds(); !strings.HasPrefix(now, "read ") {
			t.Fatalf("after %d kills: %s", i+1, now)
		}
	}
	watched.end(t)
	d.slipway(t, "rm", "-f", id)
}

// TestLazyAllKilled is criterion 20: without keeper and server what is mounted says so, and a restart puts it right for new containers.
func TestLazyAllKilled(t *testing.T) {
	r, d := registry.Start(t), startLazy(t)
	l := pushLazy(t, r, 21, 0)
	id := name(t)
	d.slipway(t, "run", "-d", "--name", id, l.ref, "sh", "-c", `while sum=$(`+hashAll+`); do [ "$sum" = `+l.sum()+` ] || { echo "differs: $sum"; exit 1; }; done; exit 2`)
	d.killAll(t)
	forgetPages(t)
	d.start()
	d.expectSum(t, l)
	if out := d.slipway(t, "logs", id); strings.Contains(out, "differs") {
		t.Errorf("the container that lost its files: %s", out)
	}
	d.slipway(t, "rm", "-f", id)
}

// TestLazyNoRoom is criterion 21: where the cache's disk is full, reads are served from memory.
func TestLazyNoRoom(t *testing.T) {
	r := registry.Start(t)
	d := startDaemonWith(t, func(d *daemon) {
		d.config = lazyConfig
		cache := filepath.Join(d.root, "lazy")
		if err := os.MkdirAll(cache, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", cache, "tmpfs", 0, "size=2m"); err != nil { // less than is kept free
			t.Skip("cannot mount a tmpfs: ", err)
		}
	})
	l := pushLazy(t, r, 22, 0)
	d.expectSum(t, l)
	forgetPages(t)
	d.expectSum(t, l)
	var disk syscall.Statfs_t
	if err := syscall.Statfs(filepath.Join(d.root, "lazy"), &disk); err != nil || disk.Bavail > disk.Blocks/4 {
		t.Errorf("%d of %d blocks are free, so nothing was tried: %v", disk.Bavail, disk.Blocks, err)
	}
}

// killAll ends the daemon and what serves layers, at once.
func (d *daemon) killAll(t *testing.T) {
	t.Helper()
	keeper, server := d.fuse()
	d.kill()
	for _, pid := range []int{keeper, server} {
		if pid != 0 {
			killProcess(t, pid)
		}
	}
}

// hash is a file's.
func (l *lazyImage) hash(name string) string {
	return fmt.Sprintf("%x", sha256.Sum256(l.files[name]))
}
