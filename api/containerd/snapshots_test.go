package containerd

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"testing"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func TestSnapshotterMustBeKnown(t *testing.T) {
	h := newReadyHost(t)
	c := snapshotsapi.NewSnapshotsClient(h)
	for _, name := range []string{"", "zfs"} {
		_, err := c.Prepare(in(t, "ns"), &snapshotsapi.PrepareSnapshotRequest{Snapshotter: name, Key: "k"})
		wantCode(t, err, codes.InvalidArgument)
		_, err = must(c.List(in(t, "ns"), &snapshotsapi.ListSnapshotsRequest{Snapshotter: name}))(t).Recv()
		wantCode(t, err, codes.InvalidArgument)
	}
}

func TestSnapshotLife(t *testing.T) {
	h := newReadyHost(t)
	c := snapshotsapi.NewSnapshotsClient(h)
	ctx := in(t, "ns")
	prepare := func(key, parent string, labels map[string]string) error {
		_, err := c.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "fake", Key: key, Parent: parent, Labels: labels})
		return err
	}
	wantCode(t, prepare("", "", nil), codes.InvalidArgument)
	wantCode(t, prepare("a", "none", nil), codes.NotFound)
	wantCode(t, prepare("a", "", map[string]string{"x": "y", "containerd.io/snapshot/z": "1"}), codes.OK)
	wantCode(t, prepare("a", "", nil), codes.AlreadyExists)
	wantCode(t, prepare("b", "a", nil), codes.FailedPrecondition) // not committed

	mounts := must(c.Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: "fake", Key: "a"}))(t).Mounts
	if len(mounts) != 1 || mounts[0].Type != "fake" || mounts[0].Options[0] != "rw" {
		t.Errorf("mounts are %v", mounts)
	}
	commit := func(name, key, parent string) error {
		_, err := c.Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: "fake", Name: name, Key: key, Parent: parent, Labels: map[string]string{"l": "v"}})
		return err
	}
	wantCode(t, commit("base", "none", ""), codes.NotFound)
	wantCode(t, commit("base", "a", "elsewhere"), codes.Unimplemented) // this driver cannot rebase
	wantCode(t, commit("base", "a", ""), codes.OK)
	wantCode(t, commit("base2", "base", ""), codes.FailedPrecondition)
	info := must(c.Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: "fake", Key: "base"}))(t).Info
	if info.Kind != snapshotsapi.Kind_COMMITTED || info.Labels["l"] != "v" || info.Labels["x"] != "" {
		t.Errorf("committed as %v", info)
	}
	_, err := c.Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: "fake", Key: "a"})
	wantCode(t, err, codes.NotFound)
	_, err = c.Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: "fake", Key: "base"})
	wantCode(t, err, codes.FailedPrecondition)

	// What somebody else pulled is found by the remote snapshotter's protocol.
	wantCode(t, prepare("extract", "", map[string]string{"containerd.io/snapshot.ref": "base"}), codes.AlreadyExists)

	wantCode(t, prepare("b", "base", nil), codes.OK)
	wantCode(t, commit("base", "b", ""), codes.AlreadyExists)
	must(c.View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: "fake", Key: "v", Parent: "base"}))(t)
	wantCode(t, commit("fromview", "v", ""), codes.FailedPrecondition)
	remove := func(key string) error {
		_, err := c.Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: "fake", Key: key})
		return err
	}
	wantCode(t, remove("base"), codes.FailedPrecondition)
	must(c.Usage(ctx, &snapshotsapi.UsageRequest{Snapshotter: "fake", Key: "base"}))(t)
	must(c.Usage(ctx, &snapshotsapi.UsageRequest{Snapshotter: "fake", Key: "b"}))(t)
	for _, key := range []string{"v", "b", "base"} {
		wantCode(t, remove(key), codes.OK)
	}
	wantCode(t, remove("base"), codes.NotFound)
	must(c.Cleanup(ctx, &snapshotsapi.CleanupRequest{Snapshotter: "fake"}))(t)
	if left := must(h.driver.List(ctx))(t); len(left) != 0 {
		t.Errorf("layers left: %v", left)
	}
}

func TestSnapshotUpdateAndList(t *testing.T) {
	h := newReadyHost(t)
	c := snapshotsapi.NewSnapshotsClient(h)
	for _, key := range []string{"a", "b"} {
		must(c.Prepare(in(t, "ns"), &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "fake", Key: key, Labels: map[string]string{"k": key}}))(t)
	}
	must(c.Update(in(t, "ns"), &snapshotsapi.UpdateSnapshotRequest{
		Snapshotter: "fake", Info: &snapshotsapi.Info{Name: "a", Labels: map[string]string{"n": "1"}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels.n"}},
	}))(t)
	_, err := c.Update(in(t, "ns"), &snapshotsapi.UpdateSnapshotRequest{Snapshotter: "fake"})
	wantCode(t, err, codes.InvalidArgument)
	for filter, want := range map[string]string{"kind==active": "ab", "labels.n==1": "a", "labels.k==b": "b", "kind==committed": ""} {
		s := must(c.List(in(t, "ns"), &snapshotsapi.ListSnapshotsRequest{Snapshotter: "fake", Filters: []string{filter}}))(t)
		var got string
		for {
			m, err := s.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, info := range m.Info {
				got += info.Name
			}
		}
		if got != want {
			t.Errorf("filter %s lists %q, want %q", filter, got, want)
		}
	}
}

// layerTar is a layer with one file.
func layerTar(t *testing.T, name, data string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))})
	if err == nil {
		_, err = io.WriteString(w, data)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

const tarLayer = "application/vnd.oci.image.layer.v1.tar"

func TestApplyAndDiff(t *testing.T) {
	h := newReadyHost(t)
	snaps, diffs := snapshotsapi.NewSnapshotsClient(h), diffapi.NewDiffClient(h)
	ctx := in(t, "ns")
	// Bytes after the end of the archive belong to the layer and its digest.
	layer := append(layerTar(t, "file", "content"), make([]byte, 4096)...)
	blob := must(put(t, h, ctx, string(layer), nil))(t)
	desc := &types.Descriptor{MediaType: tarLayer, Digest: blob.String(), Size: int64(len(layer))}

	base := must(snaps.View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: "fake", Key: "nothing"}))(t).Mounts
	mounts := must(snaps.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "fake", Key: "a"}))(t).Mounts
	applied := must(diffs.Apply(ctx, &diffapi.ApplyRequest{Diff: desc, Mounts: mounts}))(t).Applied
	if applied.Digest != blob.String() || applied.Size != int64(len(layer)) {
		t.Errorf("applied %v, want the digest and size of the uncompressed layer", applied)
	}
	made := must(diffs.Diff(ctx, &diffapi.DiffRequest{Left: base, Right: mounts, MediaType: tarLayer + "+gzip"}))(t).Diff
	plain := must(diffs.Diff(ctx, &diffapi.DiffRequest{Left: base, Right: mounts, MediaType: tarLayer}))(t).Diff
	if got := readBlob(t, h, "ns", digest.Digest(plain.Digest), 0, 0); !bytes.Contains(got, []byte("content")) || plain.Size != int64(len(got)) {
		t.Errorf("the difference %v has no file", plain)
	}
	if made.Digest == plain.Digest || made.MediaType != tarLayer+"+gzip" {
		t.Errorf("the difference %v is not compressed", made)
	}
	// What was made can be applied, compression undone.
	again := must(snaps.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "fake", Key: "b"}))(t).Mounts
	if got := must(diffs.Apply(ctx, &diffapi.ApplyRequest{Diff: made, Mounts: again}))(t).Applied; got.Digest != plain.Digest {
		t.Errorf("applied %v, want the digest of the uncompressed difference", got)
	}
}

func TestApplyRefuses(t *testing.T) {
	h := newReadyHost(t)
	snaps, diffs := snapshotsapi.NewSnapshotsClient(h), diffapi.NewDiffClient(h)
	ctx := in(t, "ns")
	mounts := must(snaps.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "fake", Key: "a"}))(t).Mounts
	blob := must(put(t, h, ctx, "no archive at all", nil))(t)
	desc := func(mediaType string, d digest.Digest) *types.Descriptor {
		return &types.Descriptor{MediaType: mediaType, Digest: d.String(), Size: 17}
	}
	for name, test := range map[string]struct {
		req  *diffapi.ApplyRequest
		code codes.Code
	}{
		"no descriptor":   {&diffapi.ApplyRequest{Mounts: mounts}, codes.InvalidArgument},
		"no mounts":       {&diffapi.ApplyRequest{Diff: desc(tarLayer, blob)}, codes.InvalidArgument},
		"another type":    {&diffapi.ApplyRequest{Diff: desc("text/plain", blob), Mounts: mounts}, codes.Unimplemented},
		"encrypted":       {&diffapi.ApplyRequest{Diff: desc(tarLayer+"+gzip+encrypted", blob), Mounts: mounts}, codes.Unimplemented},
		"bad digest":      {&diffapi.ApplyRequest{Diff: desc(tarLayer, "sha256:../../x"), Mounts: mounts}, codes.InvalidArgument},
		"missing content": {&diffapi.ApplyRequest{Diff: desc(tarLayer, digest.FromString("none")), Mounts: mounts}, codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := diffs.Apply(ctx, test.req)
			wantCode(t, err, test.code)
		})
	}
}
