package containerd

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	"github.com/containerd/containerd/api/types"
	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/image/registry"
	"github.com/slipwayd/slipway/metadata"
)

// transferServer is the Transfer service: one call whose source and destination say whether it is a pull, a push, an
// import, an export or a tag. Progress, credentials and archives go over streams that the client opened before.
type transferServer struct {
	transferapi.UnimplementedTransferServer
	engine  *engine.Engine
	streams *streamTable
}

func (s *transferServer) Transfer(ctx context.Context, r *transferapi.TransferRequest) (*emptypb.Empty, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	source, err := decodeEndpoint(r.Source)
	if err != nil {
		return nil, fmt.Errorf("source of the transfer: %w", err)
	}
	destination, err := decodeEndpoint(r.Destination)
	if err != nil {
		return nil, fmt.Errorf("destination of the transfer: %w", err)
	}
	progress, err := s.openProgress(sc, r.GetOptions().GetProgressStream())
	if err != nil {
		return nil, err
	}
	defer progress.close()

	switch src := source.(type) {
	case *transfertypes.OCIRegistry:
		if dst, ok := destination.(*transfertypes.ImageStore); ok {
			return &emptypb.Empty{}, s.pull(ctx, sc, src, dst, progress)
		}
	case *transfertypes.ImageImportStream:
		if dst, ok := destination.(*transfertypes.ImageStore); ok {
			return &emptypb.Empty{}, s.importArchive(ctx, sc, src, dst, progress)
		}
	case *transfertypes.ImageStore:
		switch dst := destination.(type) {
		case *transfertypes.OCIRegistry:
			return &emptypb.Empty{}, s.push(ctx, sc, src, dst, progress)
		case *transfertypes.ImageExportStream:
			return &emptypb.Empty{}, s.export(ctx, sc, src, dst, progress)
		case *transfertypes.ImageStore:
			return &emptypb.Empty{}, s.tag(ctx, sc, src, dst)
		}
	}
	return nil, fmt.Errorf("transfer from %s to %s: %w", r.Source.GetTypeUrl(), r.Destination.GetTypeUrl(), errdefs.ErrNotImplemented)
}

// decodeEndpoint reads a source or destination of one of the types that a transfer can have.
func decodeEndpoint(a *anypb.Any) (any, error) {
	known := []any{
		&transfertypes.OCIRegistry{}, &transfertypes.ImageStore{},
		&transfertypes.ImageImportStream{}, &transfertypes.ImageExportStream{},
	}
	for _, v := range known {
		if !typeurl.Is(a, v) {
			continue
		}
		if err := typeurl.UnmarshalTo(a, v); err != nil {
			return nil, fmt.Errorf("cannot decode %s: %w: %w", a.GetTypeUrl(), err, errdefs.ErrInvalidArgument)
		}
		return v, nil
	}
	return nil, fmt.Errorf("type %q: %w", a.GetTypeUrl(), errdefs.ErrNotImplemented)
}

func (s *transferServer) pull(ctx context.Context, sc engine.Scope, src *transfertypes.OCIRegistry, dst *transfertypes.ImageStore, progress *progressStream) error {
	remote, closeStreams, err := s.remote(ctx, sc, src)
	if err != nil {
		return err
	}
	defer closeStreams()
	progress.status("Resolving from OCI Registry (%s)", src.Reference)
	progress.rename(dst.Name)
	images, err := s.engine.Pull(ctx, sc, engine.PullOptions{
		Ref:          src.Reference,
		Remote:       remote,
		Platforms:    types.OCIPlatformFromProto(dst.Platforms),
		AllPlatforms: len(dst.Platforms) == 0,
		Unpacks:      unpacks(dst),
		Lazy:         dst.Labels[engine.LabelLazy],
		Records: func(r image.Result) ([]metadata.Image, error) {
			return storedNames(dst, r.Target), nil
		},
		Progress: func(part image.Progress) {
			if part.State == image.Downloading {
				progress.status("Pulling from OCI Registry (%s)", src.Reference)
			}
			progress.part(part)
		},
	})
	if err != nil {
		return err
	}
	progress.completed(images, "Completed pull from OCI Registry (%s)", src.Reference)
	return nil
}

func (s *transferServer) tag(ctx context.Context, sc engine.Scope, src, dst *transfertypes.ImageStore) error {
	_, err := s.engine.Tag(ctx, sc, src.Name, func(target ocispec.Descriptor) ([]metadata.Image, error) {
		return storedNames(dst, target), nil
	})
	return err
}

// remote translates how to reach a registry. The streams it claims end with the function it answers.
func (s *transferServer) remote(ctx context.Context, sc engine.Scope, r *transfertypes.OCIRegistry) (registry.Options, func(), error) {
	var o registry.Options
	resolver := r.GetResolver()
	if resolver == nil {
		return o, func() {}, nil
	}
	switch resolver.DefaultScheme {
	case "", "https":
	case "http":
		o.PlainHTTP = true
	default:
		return o, nil, fmt.Errorf("default scheme %q is neither http nor https: %w", resolver.DefaultScheme, errdefs.ErrInvalidArgument)
	}
	if resolver.HostDir != "" {
		o.HostsDirs = []string{resolver.HostDir}
	}
	if len(resolver.Headers) > 0 {
		o.Header = http.Header{}
		for k, v := range resolver.Headers {
			if strings.ContainsAny(k+v, "\r\n") {
				return o, nil, fmt.Errorf("header %q holds a line break: %w", k, errdefs.ErrInvalidArgument)
			}
			o.Header.Add(k, v)
		}
	}
	if resolver.AuthStream == "" {
		return o, func() {}, nil
	}
	stream, err := s.streams.claim(sc.Namespace, resolver.AuthStream)
	if err != nil {
		return o, nil, err
	}
	stop := context.AfterFunc(ctx, stream.close)
	asker := &credentialStream{s: stream, reference: r.Reference, turn: make(chan struct{}, 1)}
	o.Credentials = asker.ask
	return o, func() { stop(); stream.close() }, nil
}

func unpacks(dst *transfertypes.ImageStore) []engine.Unpack {
	var all []engine.Unpack
	for _, u := range dst.Unpacks {
		unpack := engine.Unpack{Snapshotter: u.Snapshotter}
		if u.Platform != nil {
			unpack.Platform = types.OCIPlatformFromProto([]*types.Platform{u.Platform})[0]
		}
		all = append(all, unpack)
	}
	return all
}

func registerTransfer(r grpc.ServiceRegistrar, eng *engine.Engine, _ Options) {
	streams := newStreamTable()
	registerStreaming(r, streams)
	transferapi.RegisterTransferServer(r, &transferServer{engine: eng, streams: streams})
}
