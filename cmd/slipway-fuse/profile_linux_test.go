package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image/lazyindex"
	client "github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/image/startprofile"
	"github.com/slipwayd/slipway/internal/mount"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/shim"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// readers are tasks that read files, the arguments of their program, and end.
type readers struct {
	noTasks
	t *testing.T
}

func (r readers) Create(_ context.Context, o shim.CreateOptions) (uint32, error) {
	var doc document
	if err := json.Unmarshal(o.Spec, &doc); err != nil {
		return 0, err
	}
	return 1, mount.Temp(r.t.TempDir(), o.Rootfs, func(root string) error {
		for _, name := range doc.Process.Args[1:] {
			if _, err := os.ReadFile(filepath.Join(root, name)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (readers) Wait(context.Context, string, string, string) (shim.Exit, error) {
	return shim.Exit{}, nil
}

func (readers) State(context.Context, string, string, string) (shim.State, error) {
	return shim.State{}, errdefs.ErrNotFound
}

type document struct {
	Process process `json:"process"`
}

type process struct {
	Args []string `json:"args"`
}

// profiled is a host that notes what starts read.
func profiled(t *testing.T, trust lazyindex.Trust) node {
	t.Helper()
	return newNode(t, func(p *engine.Parts) {
		var err error
		p.Profiles, err = startprofile.Open(filepath.Join(p.Root, "startprofiles"), p.Log)
		check(t, err)
		p.Indexes.Trust, p.Tasks = trust, readers{t: t}
	})
}

// run has a container of the image read files.
func (n node) run(t *testing.T, ref, id string, files ...string) {
	t.Helper()
	spec, err := json.Marshal(document{process{append([]string{"/bin/reader"}, files...)}})
	check(t, err)
	layers, err := n.ImageLayers(t.Context(), "test", ref)
	check(t, err)
	_, err = n.CreateContainerOn(t.Context(), inTest, metadata.Container{ID: id, Image: ref, Runtime: metadata.Runtime{Name: "io.containerd.runc.v2"},
		Snapshotter: "overlayfs", SnapshotKey: id, Spec: &metadata.Any{TypeURL: "spec", Value: spec}}, layers[len(layers)-1].Chain.String(), nil)
	check(t, err)
	_, err = n.CreateTask(t.Context(), inTest, engine.TaskOptions{ContainerID: id})
	check(t, err)
}

// recorded runs fn and waits for the profile of the start that it makes.
func (n node) recorded(t *testing.T, fn func()) engine.StartProfile {
	t.Helper()
	events, err := n.Subscribe(t.Context(), `topic=="/images/profile/record"`)
	check(t, err)
	defer events.Close()
	fn()
	ev, err := events.Next(t.Context())
	check(t, err)
	return ev.Payload.(engine.StartRecorded).StartProfile
}

// ahead waits until so many bytes of files are here, and answers what was fetched for readers and for the profile.
func (n node) ahead(t *testing.T, ref string, size int64) (demand, profile int64) {
	t.Helper()
	for {
		layers, err := n.ImageLayers(t.Context(), "test", ref)
		check(t, err)
		demand, profile = 0, 0
		have := int64(0)
		for _, l := range layers {
			have, demand, profile = have+l.Lazy.CachedBytes, demand+l.Lazy.DemandBytes, profile+l.Lazy.ProfileBytes
		}
		if have >= size {
			return demand, profile
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestStartProfile starts an image, removes it, and starts it again: what the first start has read is fetched before the
// second one asks, on this host, and on another one that finds the profile beside the image.
func TestStartProfile(t *testing.T) {
	r := registry.Start(t)
	ref := push(t, r, "test/stargz:latest", stargzImage)
	files := []string{"dir/top", "data/noise", "bin/su"}
	const size = 2*700<<10 + 10
	n := profiled(t, lazyindex.Trust{})
	n.pull(t, ref, "")
	p := n.recorded(t, func() { n.run(t, ref, "first", files...) })
	if p.Files != 3 || p.Layers != 3 || p.Starts != 1 || p.Command != "reader" || p.Origin != "" {
		t.Fatalf("recorded %+v", p)
	}
	// The image goes, and with it all that the host has of its layers.
	s, err := n.Snapshots(inTest, "overlayfs")
	check(t, err)
	check(t, n.DeleteContainer(t.Context(), "test", "first"))
	check(t, s.Remove(t.Context(), "first"))
	check(t, n.DeleteImage(t.Context(), "test", ref, nil, true))
	check(t, s.Cleanup(t.Context()))

	again := func(n node, origin string, starts int) {
		t.Helper()
		replayed, err := n.Subscribe(t.Context(), `topic=="/images/profile/replay"`)
		check(t, err)
		defer replayed.Close()
		n.pull(t, ref, "")
		ev, err := replayed.Next(t.Context())
		check(t, err)
		if got := ev.Payload.(engine.StartReplayed); got.Files != 3 || got.Origin != origin {
			t.Errorf("replayed %+v", got)
		}
		if demand, profile := n.ahead(t, ref, size); demand != 0 || (profile == 0) == (origin != "") { // what this host had is in its cache
			t.Errorf("before the start: %d bytes for readers, %d for the profile", demand, profile)
		}
		check(t, r.Down())
		p := n.recorded(t, func() { n.run(t, ref, "second", files...) })
		check(t, r.Up())
		if p.Files != 3 || p.Starts != starts {
			t.Errorf("recorded %+v", p)
		}
		if demand, _ := n.ahead(t, ref, size); demand != 0 {
			t.Errorf("the start had to wait for %d bytes", demand)
		}
	}
	again(n, "", 2)

	public, private, err := ed25519.GenerateKey(nil)
	check(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	check(t, err)
	pushed, err := n.PushIndexes(t.Context(), inTest, engine.PushIndexesOptions{Image: ref, Remote: client.Options{PlainHTTP: true},
		Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})})
	check(t, err)
	if pushed.Profiles != 1 {
		t.Errorf("published %+v", pushed)
	}
	other := profiled(t, lazyindex.Trust{Keys: []ed25519.PublicKey{public}})
	again(other, "published with the image", 3)
}

// TestHostileProfile replays a profile that names what there is not, and too much.
func TestHostileProfile(t *testing.T) {
	r := registry.Start(t)
	ref := push(t, r, "test/stargz:latest", stargzImage)
	var store *startprofile.Store
	n := newNode(t, func(p *engine.Parts) {
		var err error
		store, err = startprofile.Open(t.TempDir(), slog.New(slog.DiscardHandler))
		check(t, err)
		p.Profiles = store
	})
	built, err := stargzImage()
	check(t, err)
	p := startprofile.Profile{Version: 1, Image: built.Root.Digest, Args: startprofile.Hash(nil), Starts: 1,
		Layers: []digest.Digest{digest.FromString("no layer"), built.Layers[0].Digest},
		Files: []startprofile.File{{Layer: 0, Path: "x"}, {Layer: 1, Path: "no/such/file"}, {Layer: 1, Path: "data"}, {Layer: 1, Path: "null"},
			{Layer: 1, Path: "data/big", Ranges: []startprofile.Range{{1 << 20, 1 << 62}}}, {Layer: 1, Path: "owned", Ranges: []startprofile.Range{{1 << 61, 1 << 62}}},
			{Layer: 1, Path: "bin/su"}}}
	check(t, store.Put(&p))
	n.pull(t, ref, "")
	if demand, _ := n.ahead(t, ref, 10); demand != 0 {
		t.Errorf("%d bytes for readers", demand)
	}
}
