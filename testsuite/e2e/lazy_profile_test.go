package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestFullStartIsProfiled: the first starts of an image that was pulled in full are noted, so that the next pull, by the index that the first
// one recorded, fetches ahead what they opened.
func TestFullStartIsProfiled(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("there is no FUSE: ", err)
	}
	r := registry.Start(t)
	d := startDaemonWith(t, func(d *daemon) { d.config = "[lazy]\nbackground = false\n" })
	img, err := ociimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{33})
	files := []ociimage.File{ociimage.Dir("data", 0o755)}
	for i := range 40 {
		body := make([]byte, 100_000)
		_, _ = random.Read(body)
		files = append(files, ociimage.Regular(fmt.Sprintf("data/file%02d", i), 0o644, string(body)))
	}
	img.Layers = append(img.Layers, ociimage.Layer{Files: files})
	r.Push("profile/full:v1", img)
	ref := r.Host() + "/profile/full:v1"
	command := []string{"run", "--rm", ref, "sh", "-c", "cat /data/file03 /data/file30 | wc -c"}
	profiles := func() int {
		t.Helper()
		var list []struct {
			Starts, Files int
			Bytes         int64
		}
		if err := json.Unmarshal([]byte(d.slipway(t, "image", "profile", "--format", "json", ref)), &list); err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return 0
		}
		if list[0].Bytes < 200_000 || list[0].Bytes > 4_000_000 || list[0].Files < 3 || list[0].Files > 10 {
			t.Errorf("a start that opened two files and busybox has the profile %+v", list[0])
		}
		return list[0].Starts
	}
	for range 5 { // more than are noted
		d.slipway(t, command...)
	}
	eventually(t, "a profile of the first starts", func() bool { return profiles() == 3 })
	if got := d.modes(t, "default", ref); got != "full full" {
		t.Fatalf("layers are %s", got)
	}
	d.slipway(t, "rmi", ref)
	d.slipway(t, "pull", ref)
	if got := d.modes(t, "default", ref); got != "full lazy" && got != "lazy lazy" { // busybox is around auto's minimum
		t.Errorf("layers of the second pull are %s", got)
	}
	eventually(t, "what starts open is fetched ahead", func() bool {
		var found []struct {
			Layers []struct {
				Reads *struct{ Profile, Here int64 }
			}
		}
		if err := json.Unmarshal([]byte(d.slipway(t, "inspect", ref)), &found); err != nil {
			t.Fatal(err)
		}
		reads := found[0].Layers[1].Reads
		return reads != nil && reads.Profile >= 200_000 && reads.Here >= 200_000
	})
	d.slipway(t, command...)
}
