package containerd

import (
	"context"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/metadata"
)

type imageService struct {
	imagesapi.UnimplementedImagesServer
	eng *engine.Engine
}

func registerImages(r grpc.ServiceRegistrar, eng *engine.Engine, _ Options) {
	imagesapi.RegisterImagesServer(r, imageService{eng: eng})
}

func (s imageService) Get(ctx context.Context, req *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	img, err := s.eng.GetImage(ctx, sc.Namespace, req.Name)
	if err != nil {
		return nil, err
	}
	return &imagesapi.GetImageResponse{Image: imageToWire(img)}, nil
}

func (s imageService) List(ctx context.Context, req *imagesapi.ListImagesRequest) (*imagesapi.ListImagesResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.eng.ListImages(ctx, sc.Namespace, req.Filters...)
	if err != nil {
		return nil, err
	}
	resp := &imagesapi.ListImagesResponse{}
	for _, img := range all {
		resp.Images = append(resp.Images, imageToWire(img))
	}
	return resp, nil
}

func (s imageService) Create(ctx context.Context, req *imagesapi.CreateImageRequest) (*imagesapi.CreateImageResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	img, err := imageFromWire(req.Image)
	if err != nil {
		return nil, err
	}
	if req.SourceDateEpoch != nil {
		img.CreatedAt = req.SourceDateEpoch.AsTime()
		img.UpdatedAt = img.CreatedAt
	}
	img, err = s.eng.CreateImage(ctx, sc, img)
	if err != nil {
		return nil, err
	}
	return &imagesapi.CreateImageResponse{Image: imageToWire(img)}, nil
}

func (s imageService) Update(ctx context.Context, req *imagesapi.UpdateImageRequest) (*imagesapi.UpdateImageResponse, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	img, err := imageFromWire(req.Image)
	if err != nil {
		return nil, err
	}
	if req.SourceDateEpoch != nil {
		img.UpdatedAt = req.SourceDateEpoch.AsTime()
	}
	img, err = s.eng.UpdateImage(ctx, sc, img, req.UpdateMask.GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &imagesapi.UpdateImageResponse{Image: imageToWire(img)}, nil
}

func (s imageService) Delete(ctx context.Context, req *imagesapi.DeleteImageRequest) (*emptypb.Empty, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	var target *ocispec.Descriptor
	if req.Target.GetDigest() != "" {
		d, err := descriptorFromWire(req.Target)
		if err != nil {
			return nil, err
		}
		target = &d
	}
	return &emptypb.Empty{}, s.eng.DeleteImage(ctx, sc.Namespace, req.Name, target, req.Sync)
}

func imageToWire(img metadata.Image) *imagesapi.Image {
	return &imagesapi.Image{
		Name: img.Name, Labels: img.Labels, Target: descriptorToWire(img.Target),
		CreatedAt: toTime(img.CreatedAt), UpdatedAt: toTime(img.UpdatedAt),
	}
}

func imageFromWire(w *imagesapi.Image) (metadata.Image, error) {
	if w == nil {
		return metadata.Image{}, missing("image")
	}
	img := metadata.Image{Name: w.Name, Labels: w.Labels}
	// An update of labels alone names no target: clients send an empty one.
	if proto.Size(w.Target) > 0 {
		d, err := descriptorFromWire(w.Target)
		if err != nil {
			return img, err
		}
		img.Target = d
	}
	return img, nil
}
