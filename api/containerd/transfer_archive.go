package containerd

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/api/types"
	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/metadata"
)

func (s *transferServer) push(ctx context.Context, sc engine.Scope, src *transfertypes.ImageStore, dst *transfertypes.OCIRegistry, progress *progressStream) error {
	remote, closeStreams, err := s.remote(ctx, sc, dst)
	if err != nil {
		return err
	}
	defer closeStreams()
	progress.status("Pushing to OCI Registry (%s)", dst.Reference)
	progress.rename(src.Name)
	err = s.engine.Push(ctx, sc, engine.PushOptions{
		Image: src.Name, Ref: dst.Reference, Remote: remote,
		Platforms: types.OCIPlatformFromProto(src.Platforms), Progress: progress.part,
	})
	if err != nil {
		return err
	}
	progress.completed(nil, "Completed push to OCI Registry (%s)", dst.Reference)
	return nil
}

func (s *transferServer) importArchive(ctx context.Context, sc engine.Scope, src *transfertypes.ImageImportStream, dst *transfertypes.ImageStore, progress *progressStream) error {
	if src.ForceCompress {
		return fmt.Errorf("import that compresses layers: %w", errdefs.ErrNotImplemented)
	}
	stream, err := s.streams.claim(sc.Namespace, src.Stream)
	if err != nil {
		return err
	}
	defer stream.close()
	defer context.AfterFunc(ctx, stream.close)()
	progress.status("Importing")
	images, err := s.engine.Import(ctx, sc, &byteReader{s: stream}, engine.ImportOptions{
		Unpacks:  unpacks(dst),
		Records:  func(found []image.Imported) ([]metadata.Image, error) { return importedNames(dst, found), nil },
		Progress: progress.part,
	})
	if err != nil {
		return err
	}
	progress.completed(images, "Completed import")
	return nil
}

func (s *transferServer) export(ctx context.Context, sc engine.Scope, src *transfertypes.ImageStore, dst *transfertypes.ImageExportStream, progress *progressStream) error {
	names, err := lookupNames(src)
	if err != nil {
		return err
	}
	stream, err := s.streams.claim(sc.Namespace, dst.Stream)
	if err != nil {
		return err
	}
	w := newByteWriter(stream)
	defer w.Close()
	defer context.AfterFunc(ctx, stream.close)()
	progress.status("Exporting")
	err = s.engine.Export(ctx, sc, w, engine.ExportOptions{
		Images: names, Platforms: exportPlatforms(dst), NoDockerManifest: dst.SkipCompatibilityManifest,
	})
	if err != nil {
		return err
	}
	w.drain()
	progress.completed(nil, "Completed export")
	return nil
}

// exportPlatforms are the host's unless the client says otherwise; none stands for all.
func exportPlatforms(dst *transfertypes.ImageExportStream) []ocispec.Platform {
	switch {
	case dst.AllPlatforms:
		return nil
	case len(dst.Platforms) == 0:
		return []ocispec.Platform{platforms.DefaultSpec()}
	}
	return types.OCIPlatformFromProto(dst.Platforms)
}
