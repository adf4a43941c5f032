package lazyfuse

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/storage/overlay"
)

// TestMarkUsed has several daemons on a host, whose layers have the same ids.
func TestMarkUsed(t *testing.T) {
	root := t.TempDir()
	layers, err := overlay.New(filepath.Join(root, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	d := &Driver{Driver: layers, cfg: Config{State: filepath.Join(root, "state")}}
	overlayLine := func(options string) string {
		return "40 30 0:50 / /run/rootfs rw - overlay overlay rw," + strings.ReplaceAll(options, "ROOT", root+"/overlay")
	}
	fuse := "41 30 %s %s /somewhere ro - fuse.slipway slipway ro,user_id=0"
	for _, tt := range []struct {
		line string
		used bool
	}{
		{overlayLine("lowerdir=ROOT/1/fs,upperdir=ROOT/2/fs,workdir=ROOT/2/work"), true},
		{overlayLine("lowerdir=ROOT/3/fs:ROOT/1/fs"), true},
		{overlayLine("lowerdir=ROOT/1/fs,upperdir=/others/2/fs"), true},
		{overlayLine("lowerdir+=ROOT/3/fs,lowerdir+=" + root + "/state/mnt/1"), true},
		{overlayLine("lowerdir=3/fs:1/fs,upperdir=ROOT/2/fs"), true},
		{overlayLine("lowerdir=3/fs:1/fs"), true},
		{overlayLine("lowerdir=/proc/self/fd/7,upperdir=ROOT/2/fs"), true},
		{overlayLine("lowerdir=/proc/self/fd/7"), true},
		{overlayLine("lowerdir=ROOT/3/fs,upperdir=ROOT/2/fs"), false},
		{overlayLine("lowerdir=3/fs,upperdir=ROOT/2/fs"), false},
		{overlayLine("lowerdir=/others/overlay/1/fs,upperdir=/others/overlay/2/fs"), false},
		{overlayLine("lowerdir=3/fs:1/fs,upperdir=/others/overlay/2/fs"), false},
		{overlayLine("lowerdir=/proc/self/fd/7,upperdir=/others/overlay/2/fs"), false},
		{fmt.Sprintf(fuse, "0:60", "/1"), true},
		{fmt.Sprintf(fuse, "0:60", "/1/usr"), true},
		{fmt.Sprintf(fuse, "0:60", "/3"), false},
		{fmt.Sprintf(fuse, "0:60", "/"), false},
		{fmt.Sprintf(fuse, "0:61", "/1"), false},
		{"nonsense", false},
	} {
		used := map[string]bool{}
		if d.markUsed(used, tt.line, "0:60", []string{"1"}); used["1"] != tt.used {
			t.Errorf("%s: used %v, want %v", tt.line, used["1"], tt.used)
		}
	}
	used := map[string]bool{}
	if d.markUsed(used, fmt.Sprintf(fuse, "0:61", "/1"), "", []string{"1"}); !used["1"] {
		t.Error("a mount that may be ours counts for nothing")
	}
}

func TestDeviceAt(t *testing.T) {
	table := []byte("41 30 0:60 / /a/mnt ro - fuse.slipway slipway ro\n42 30 0:61 / /b/mnt ro - fuse.slipway slipway ro\n" +
		"43 30 0:62 / /a/mnt ro - tmpfs tmpfs ro\n44 30 0:63 / /b/mnt ro - fuse.slipway slipway ro\n")
	for path, want := range map[string]string{"/a/mnt": "0:60", "/b/mnt": "0:63", "/c/mnt": ""} {
		if got := deviceAt(table, path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
