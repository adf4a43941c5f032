package e2ewine

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/client"
	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
	"github.com/slipwayd/slipway/testsuite/winimage"
)

// collected is a configuration with which what nothing names is deleted at once.
const collected = "[gc]\ndelay = \"1ms\"\n"

// kept lists what a daemon has of layers, blobs and containers. It looks into no layer, for what is open cannot be destroyed.
func (d *daemon) kept() (names []string) {
	d.Helper()
	for _, pattern := range []string{`windowsfilter\*`, `windowsfilter\.new\*`, `windowsfilter\.trash\*`, `content\*\*\*`, `content\*\*`, `logs\*\*`} {
		found, err := filepath.Glob(filepath.Join(d.root, pattern))
		if err != nil {
			d.Fatal(err)
		}
		names = append(names, found...)
	}
	err := filepath.WalkDir(filepath.Join(d.state, "shim"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.Contains(e.Name(), "refused") {
			names = append(names, path)
		}
		return nil // what has gone meanwhile is as good as gone
	})
	if err != nil {
		d.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// keepsNoMore waits until a daemon has no more than it had before.
func (d *daemon) keepsNoMore(before []string) {
	d.Helper()
	d.eventually("something is left", func() error {
		for _, name := range d.kept() {
			if !slices.Contains(before, name) {
				return errors.New(name)
			}
		}
		return nil
	})
}

// TestRefusedImages: an image that this host cannot have is refused by what is wrong with it, and nothing of it is left.
func TestRefusedImages(t *testing.T) {
	d := newDaemonWith(t, collected)
	r := registry.Start(t)
	before := d.kept()
	layer := func(f ociimage.File) ociimage.Image {
		img := hello()
		img.Layers = append(img.Layers, winimage.Child(f))
		return img
	}
	for name, test := range map[string]struct {
		img  registry.Buildable
		kind error
		says string
	}{
		"a newer build":         {winimage.Image("10.0.26100.1", "cmd"), errdefs.ErrNotFound, "26100"},
		"an older build":        {winimage.Image("10.0.14393.1", "cmd"), errdefs.ErrNotFound, "14393"},
		"an index of others":    {winimage.Index("10.0.14393.1", "10.0.26100.1"), errdefs.ErrNotFound, "windows"},
		"a device":              {layer(winimage.File("CON", "x")), errdefs.ErrInvalidArgument, "CON"},
		"a device by any name":  {layer(winimage.File("lpt1.txt", "x")), errdefs.ErrInvalidArgument, "lpt1.txt"},
		"a trailing dot":        {layer(winimage.File("dot.", "x")), errdefs.ErrInvalidArgument, "dot."},
		"a trailing space":      {layer(winimage.File("space ", "x")), errdefs.ErrInvalidArgument, "space "},
		"a stream of nothing":   {layer(winimage.Stream("none.txt", "stream", "x")), errdefs.ErrInvalidArgument, "none.txt:stream"},
		"a name outside":        {layer(winimage.File("../../outside", "x")), errdefs.ErrInvalidArgument, ".."},
		"a backslash":           {layer(winimage.File(`a\..\..\b`, "x")), errdefs.ErrInvalidArgument, `..`},
		"hidden where it isn't": {layer(winimage.Gone("Windows/System32/config/SAM")), errdefs.ErrInvalidArgument, "SAM"},
	} {
		t.Run(name, func(t *testing.T) {
			d := *d
			d.TB = t
			r.Push("windows/bad:1", test.img)
			_, err := d.Pull(d.ctx, r.Host()+"/windows/bad:1", client.PullOptions{})
			if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Pull: %v; want %v with %q", err, test.kind, test.says)
			}
			if list, err := d.Images(d.ctx); err != nil || len(list) > 0 {
				t.Errorf("images %v, %v", list, err)
			}
			d.keepsNoMore(before)
		})
	}
}
