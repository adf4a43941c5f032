package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/startprofile"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/storage"
)

// StartRecorded is the payload of /images/profile/record: what a start has read is known.
type StartRecorded struct{ StartProfile }

// StartReplayed is the payload of /images/profile/replay: what a start will read is being fetched.
type StartReplayed struct{ StartProfile }

// StartProfile tells of what starts of an image read.
type StartProfile struct {
	Image    digest.Digest // manifest
	Command  string        // name of the program
	Args     string        // hash of the command line
	Origin   string        // where it comes from, empty for this host
	Starts   int           // that it is made of
	Recorded time.Time
	Layers   int
	Files    int
	Bytes    int64 // of files, without those of files that are wanted whole
}

func describeProfile(p *startprofile.Profile) StartProfile {
	return StartProfile{Image: p.Image, Command: p.Command, Args: p.Args, Origin: p.Origin, Starts: p.Starts, Recorded: p.Recorded,
		Layers: len(p.Layers), Files: len(p.Files), Bytes: p.Size()}
}

// starting is an image whose start is near: some of its layers are served.
type starting struct {
	namespace string
	driver    storage.Starter
	image     digest.Digest            // manifest
	args      []string                 // command line
	stack     []string                 // ids of layers, nearest first
	served    map[string]digest.Digest // blobs of those that are served
}

// stackOf answers the layers of a stack that are served, nil when there are none.
func (s *Snapshots) stackOf(ctx context.Context, stack []string) (*starting, error) {
	driver, ok := s.driver.(storage.Starter)
	if !ok || s.e.profiles == nil {
		return nil, nil
	}
	lazies, err := driver.Lazies(ctx, false)
	if err != nil {
		return nil, err
	}
	st := &starting{namespace: s.scope.Namespace, driver: driver, stack: stack, served: map[string]digest.Digest{}}
	for _, l := range lazies {
		if !l.Filled && slices.Contains(stack, l.ID) {
			st.served[l.ID] = l.Source.Descriptor.Digest
		}
	}
	if len(st.served) == 0 {
		return nil, nil
	}
	return st, nil
}

// beforeStart has fetched what the container's start will read, and begins to note what it does. It is nil when there is nothing to
// note. What goes wrong is told to the log: a start needs none of it.
func (e *Engine) beforeStart(ctx context.Context, sc Scope, c metadata.Container) *startRecorder {
	st, err := e.startOf(ctx, sc, c)
	if err == nil && st == nil {
		return nil
	}
	if err == nil {
		err = e.replay(ctx, st)
	}
	if err != nil {
		e.log.Info("what a start reads is not fetched ahead", "container", c.ID, "err", err)
	}
	if st == nil {
		return nil
	}
	return e.record(ctx, st, c.ID)
}

// startOf answers what there is to know of a container's start; nil when its image is here.
func (e *Engine) startOf(ctx context.Context, sc Scope, c metadata.Container) (*starting, error) {
	if e.profiles == nil || c.SnapshotKey == "" || c.Image == "" {
		return nil, nil
	}
	s, err := e.Snapshots(sc, c.Snapshotter)
	if err != nil {
		return nil, err
	}
	if _, ok := s.driver.(storage.Starter); !ok {
		return nil, nil
	}
	layer, err := s.layer(ctx, c.SnapshotKey)
	if err != nil {
		return nil, err
	}
	st, err := s.stackOf(ctx, layer.Parents)
	if st == nil || err != nil {
		return nil, err
	}
	if _, err := e.describeStart(ctx, sc, c, st); err != nil {
		return nil, err
	}
	return st, nil
}

// describeStart fills in the image and the command line of a container's start, and answers the image's manifest.
func (e *Engine) describeStart(ctx context.Context, sc Scope, c metadata.Container, st *starting) (ocispec.Manifest, error) {
	img, err := e.GetImage(ctx, sc.Namespace, c.Image)
	if err != nil {
		return ocispec.Manifest{}, err
	}
	desc, manifest, err := image.Manifest(ctx, e.Content(sc), img.Target, nil)
	if err != nil {
		return manifest, err
	}
	var doc struct {
		Process struct {
			Args []string `json:"args"`
		} `json:"process"`
	}
	if err := json.Unmarshal(c.Spec.Value, &doc); err != nil {
		return manifest, fmt.Errorf("cannot read the command line of container %s: %w", c.ID, err)
	}
	st.image, st.args = desc.Digest, doc.Process.Args
	return manifest, nil
}

// afterPull has fetched what a start of a pulled image will read, as this host has seen it or as is published beside the image.
func (e *Engine) afterPull(ctx context.Context, sc Scope, target ocispec.Descriptor, u Unpack, lazy *lazyPull) error {
	var platform *ocispec.Platform
	if u.Platform.OS != "" || u.Platform.Architecture != "" {
		platform = &u.Platform
	}
	layers, err := e.layers(sc, u.Snapshotter)
	if err != nil || e.profiles == nil {
		return err
	}
	manifest, m, err := image.Manifest(ctx, e.Content(sc), target, platform)
	if err != nil {
		return err
	}
	_, config, err := image.ReadConfig(ctx, e.Content(sc), m.Config)
	if err != nil || len(config.RootFS.DiffIDs) == 0 {
		return err
	}
	chains := image.ChainIDs(config.RootFS.DiffIDs)
	top, err := layers.s.layer(ctx, chains[len(chains)-1].String())
	if err != nil {
		return err
	}
	st, err := layers.s.stackOf(ctx, append([]string{top.ID}, top.Parents...))
	if st == nil || err != nil {
		return err
	}
	st.image, st.args = manifest.Digest, append(slices.Clone(config.Config.Entrypoint), config.Config.Cmd...)
	if len(e.profiles.List(st.image)) == 0 {
		if err := e.adopt(ctx, st.image, lazy); err != nil {
			e.log.Info("a published start profile is not used", "image", st.image, "err", err)
		}
	}
	return e.replay(ctx, st)
}

// adopt keeps the profiles that are published with an image, as far as they are believed.
func (e *Engine) adopt(ctx context.Context, img digest.Digest, lazy *lazyPull) error {
	lazy.mu.Lock()
	lookup := lazy.lookup
	lazy.mu.Unlock()
	if lookup == nil {
		return nil
	}
	published, err := lookup.Profiles(ctx)
	for _, doc := range published {
		p, bad := startprofile.Parse(doc.Data)
		if bad == nil && p.Image != img {
			bad = fmt.Errorf("the start profile is of image %s: %w", p.Image, errdefs.ErrInvalidArgument)
		}
		if bad != nil {
			return bad
		}
		p.Origin = "published with the image"
		if err := e.profiles.Put(p); err != nil {
			return err
		}
	}
	return err
}

// replay has fetched what a start will read; without a profile, what the layers' makers say that it will.
func (e *Engine) replay(ctx context.Context, st *starting) error {
	ids := make(map[digest.Digest]string, len(st.served))
	var blobs []digest.Digest
	for id, blob := range st.served {
		ids[blob] = id
		blobs = append(blobs, blob)
	}
	var files []storage.Wanted
	p, err := e.profiles.Find(st.image, startprofile.Hash(st.args), blobs)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if p != nil {
		for _, f := range p.Files {
			if id, ok := ids[p.Layers[f.Layer]]; ok {
				files = append(files, storage.Wanted{ID: id, Path: f.Path, Ranges: ranges(f.Ranges)})
			}
		}
	}
	if err := st.driver.Replay(ctx, st.stack, files); err != nil {
		return err
	}
	if len(files) > 0 {
		e.starts.replayed.Add(1)
		e.publish(st.namespace, "/images/profile/replay", StartReplayed{describeProfile(p)})
	}
	return nil
}

func ranges(of []startprofile.Range) [][2]int64 {
	out := make([][2]int64, len(of))
	for i, r := range of {
		out[i] = r
	}
	return out
}

// StartProfiles lists what this host knows of starts of an image, for its platform, the one used last first. NotFound when there
// is no such image.
func (e *Engine) StartProfiles(ctx context.Context, namespace, name string) ([]StartProfile, error) {
	all, err := e.profilesOf(ctx, namespace, name)
	var out []StartProfile
	for _, p := range all {
		out = append(out, describeProfile(p))
	}
	return out, err
}

func (e *Engine) profilesOf(ctx context.Context, namespace, name string) ([]*startprofile.Profile, error) {
	img, err := e.GetImage(ctx, namespace, name)
	if err != nil || e.profiles == nil {
		return nil, err
	}
	manifest, _, err := image.Manifest(ctx, e.Content(Scope{Namespace: namespace}), img.Target, nil)
	if err != nil {
		return nil, err
	}
	return e.profiles.List(manifest.Digest), nil
}

// startFiles lists the paths that starts of an image read, in order. NotFound when none was recorded.
func (e *Engine) startFiles(ctx context.Context, namespace, name string) ([]string, error) {
	all, err := e.profilesOf(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	var paths []string
	seen := map[string]bool{}
	for _, p := range all {
		for _, f := range p.Files {
			if !seen[f.Path] {
				seen[f.Path] = true
				paths = append(paths, f.Path)
			}
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("no start of image %s was recorded: run it once, or name the files: %w", name, errdefs.ErrNotFound)
	}
	return paths, nil
}

// ahead ends a pull: it has fetched what starts read, and gives up what the pull has begun.
func (e *Engine) ahead(sc Scope, u Unpack, target ocispec.Descriptor, lazy *lazyPull) {
	defer lazy.close()
	if err := e.afterPull(e.life, sc, target, u, lazy); err != nil && e.life.Err() == nil {
		e.log.Info("what a start reads is not fetched ahead", "image", target.Digest, "err", err)
	}
}
