//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/testsuite/ociimage"
)

// twinPrefix is where the eStargz twins of images are: made by estargz's own library, so that they are the same for all.
const twinPrefix = "bench-estargz/"

// prepare puts what is missing into the registry: the two images made here, and twins of all.
func (h hub) prepare(ctx context.Context, images []workload) error {
	for _, img := range images {
		if img.files != nil && !h.has(ctx, img.repo) {
			fmt.Fprintln(os.Stderr, "building", img.repo)
			if err := h.generate(ctx, img); err != nil {
				return fmt.Errorf("cannot build %s: %w", img.repo, err)
			}
		}
		if !h.has(ctx, twinPrefix+img.repo) {
			fmt.Fprintln(os.Stderr, "converting", img.repo)
			if err := h.twin(ctx, img.repo); err != nil {
				return fmt.Errorf("cannot convert %s to eStargz: %w", img.repo, err)
			}
		}
	}
	return nil
}

// generate builds an image of ours out of its layers, with the program reader in the first one.
func (h hub) generate(ctx context.Context, img workload) error {
	reader, err := buildReader(ctx)
	if err != nil {
		return err
	}
	b := built{hub: h, repo: img.repo}
	base := []ociimage.File{ociimage.Dir("bin", 0o755), ociimage.Regular("bin/reader", 0o755, string(reader)), ociimage.Dir("data", 0o755)}
	for i := -1; ; i++ {
		files := base
		if i >= 0 {
			if files = img.files(i); files == nil {
				break
			}
		}
		one, err := ociimage.Image{Layers: []ociimage.Layer{{Files: files}}}.Build()
		if err != nil {
			return err
		}
		if err := b.add(ctx, one.Layers[0], one.DiffIDs[0], bytes.NewReader(one.Bytes(one.Layers[0]))); err != nil {
			return err
		}
	}
	return b.finish(ctx, ocispec.Image{Created: &ociimage.Epoch, Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}})
}

func buildReader(ctx context.Context) ([]byte, error) {
	dir, err := os.MkdirTemp("", "benchlazy-reader.")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "reader")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", out, "./testsuite/benchlazy/reader")
	cmd.Env, cmd.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// bigFiles is an image of 2 GB: a file of 256 MB, then 17 layers of 100 files of 1 MB each.
func bigFiles(layer int) []ociimage.File {
	switch {
	case layer == 0:
		return []ociimage.File{ociimage.Regular("data/big", 0o644, noise(1, 256e6))}
	case layer > 17:
		return nil
	}
	files := []ociimage.File{ociimage.Dir(fmt.Sprintf("data/%d", layer), 0o755)}
	for i := range 100 {
		files = append(files, ociimage.Regular(fmt.Sprintf("data/%d/%d", layer, i), 0o644, noise(uint64(layer*1000+i), 1e6)))
	}
	return files
}

// manyFiles is an image of 100,000 files of up to 2 KB.
func manyFiles(layer int) []ociimage.File {
	if layer > 0 {
		return nil
	}
	var files []ociimage.File
	for d := range 1000 {
		files = append(files, ociimage.Dir(fmt.Sprintf("data/%d", d), 0o755))
		for i := range 100 {
			files = append(files, ociimage.Regular(fmt.Sprintf("data/%d/%d", d, i), 0o644, noise(uint64(d*100+i), 20*(i+1))))
		}
	}
	return files
}

// noise is n bytes that compress to three quarters, the same for the same seed.
func noise(seed uint64, n int) string {
	data := make([]byte, n)
	for i := range data {
		seed = seed*6364136223846793005 + 1442695040888963407
		data[i] = byte(seed >> 58)
	}
	return string(data)
}

// twin converts an image's layers to eStargz, with the library's defaults but for the level, and keeps the rest.
func (h hub) twin(ctx context.Context, repo string) error {
	m, err := h.manifest(ctx, repo)
	if err != nil {
		return err
	}
	var config ocispec.Image
	if err := h.fetchJSON(ctx, repo, m.Config.Digest, &config); err != nil {
		return err
	}
	b := built{hub: h, repo: twinPrefix + repo}
	for _, desc := range m.Layers {
		if err := h.twinLayer(ctx, repo, desc, &b); err != nil {
			return fmt.Errorf("layer %s: %w", desc.Digest, err)
		}
	}
	return b.finish(ctx, config)
}

func (h hub) twinLayer(ctx context.Context, repo string, desc ocispec.Descriptor, b *built) error {
	in, err := h.spool(ctx, repo, desc.Digest)
	if err != nil {
		return err
	}
	defer os.Remove(in.Name())
	defer in.Close()
	blob, err := estargz.Build(io.NewSectionReader(in, 0, desc.Size), estargz.WithContext(ctx), estargz.WithCompressionLevel(gzip.DefaultCompression))
	if err != nil {
		return err
	}
	defer blob.Close()
	out, err := os.CreateTemp("/var/tmp", "benchlazy-twin.")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	sum := digest.SHA256.Digester()
	size, err := io.Copy(io.MultiWriter(out, sum.Hash()), blob)
	if err != nil {
		return err
	}
	raw, err := blob.UncompressedSize()
	if err != nil {
		return err
	}
	made := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: sum.Digest(), Size: size, Annotations: map[string]string{
		estargz.TOCJSONDigestAnnotation: blob.TOCDigest().String(), estargz.StoreUncompressedSizeAnnotation: fmt.Sprint(raw)}}
	return b.addFile(ctx, made, blob.DiffID(), out.Name())
}

// spool copies a blob to a temporary file.
func (h hub) spool(ctx context.Context, repo string, d digest.Digest) (_ *os.File, err error) {
	r, err := h.blob(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := os.CreateTemp("/var/tmp", "benchlazy-twin.")
	if err != nil {
		return nil, err
	}
	if _, err = io.Copy(f, r); err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return nil, err
	}
	return f, nil
}
