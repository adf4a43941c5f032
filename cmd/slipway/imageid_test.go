package main

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/client"
)

func TestImageIDs(t *testing.T) {
	d := digest.FromString("image") // sha256:6105d6cc…
	full := d.Encoded()
	for id, want := range map[string]struct{ has, only bool }{
		d.String():           {true, true},
		full:                 {true, true},
		"sha256:" + full[:6]: {true, true},
		full[:12]:            {true, false}, // which may be a name too
		full[1:13]:           {false, false},
		"sha512:" + full:     {false, false},
		"busybox":            {false, false},
		"sha256:1":           {false, false},
	} {
		if has := imageID.MatchString(id) && hasID(d, id); has != want.has || isID(id) != want.only {
			t.Errorf("%s: is of the image: %v, is an id only: %v, want %v", id, has, isID(id), want)
		}
	}
}

func TestOneImage(t *testing.T) {
	image := func(name, content string) client.Image {
		img := client.Image{Name: name}
		img.Target.Digest = digest.FromString(content)
		return img
	}
	if _, err := oneImage(nil, "abcd"); !errdefs.IsNotFound(err) {
		t.Errorf("no image: %v", err)
	}
	if got, err := oneImage([]client.Image{image("a", "1"), image("b", "1")}, "abcd"); err != nil || len(got) != 2 {
		t.Errorf("two names: %v, %v", got, err)
	}
	if _, err := oneImage([]client.Image{image("a", "1"), image("b", "2")}, "abcd"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "more of it") {
		t.Errorf("two images: %v", err)
	}
}
