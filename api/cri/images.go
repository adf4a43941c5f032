package cri

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/image/registry"
)

// imageService is ImageService.
type imageService struct {
	runtime.UnimplementedImageServiceServer
	pods *pods.Manager
}

func (s *imageService) ListImages(ctx context.Context, r *runtime.ListImagesRequest) (*runtime.ListImagesResponse, error) {
	list, err := s.list(ctx, r.Filter)
	return &runtime.ListImagesResponse{Images: list}, err
}

func (s *imageService) StreamImages(r *runtime.StreamImagesRequest, stream grpc.ServerStreamingServer[runtime.StreamImagesResponse]) error {
	list, err := s.list(stream.Context(), r.Filter)
	if err != nil {
		return err
	}
	return chunks(list, func(part []*runtime.Image) error { return stream.Send(&runtime.StreamImagesResponse{Images: part}) })
}

func (s *imageService) list(ctx context.Context, f *runtime.ImageFilter) ([]*runtime.Image, error) {
	if ref := f.GetImage().GetImage(); ref != "" {
		i, err := s.pods.Image(ctx, ref)
		if errdefs.IsNotFound(err) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		return []*runtime.Image{imageToWire(i)}, nil
	}
	all, err := s.pods.Images(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]*runtime.Image, 0, len(all))
	for _, i := range all {
		list = append(list, imageToWire(i))
	}
	return list, nil
}

// ImageStatus of an image that is not here is empty, not an error.
func (s *imageService) ImageStatus(ctx context.Context, r *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error) {
	i, err := s.pods.Image(ctx, r.GetImage().GetImage())
	if errdefs.IsNotFound(err) {
		return &runtime.ImageStatusResponse{}, nil
	} else if err != nil {
		return nil, err
	}
	resp := &runtime.ImageStatusResponse{Image: imageToWire(i)}
	if r.Verbose {
		resp.Info, err = info(map[string]any{"chainID": i.ChainID, "imageSpec": i.Config})
	}
	return resp, err
}

func (s *imageService) PullImage(ctx context.Context, r *runtime.PullImageRequest) (*runtime.PullImageResponse, error) {
	o := pods.PullOptions{Ref: r.GetImage().GetImage(), Handler: r.GetImage().GetRuntimeHandler()}
	if o.Ref == "" {
		return nil, fmt.Errorf("no image is named: %w", errdefs.ErrInvalidArgument)
	}
	o.Lazy = cmp.Or(r.GetImage().GetAnnotations()[engine.LabelLazy], r.GetSandboxConfig().GetAnnotations()[engine.LabelLazy])
	if err := credentials(&o, r.Auth); err != nil {
		return nil, err
	}
	id, err := s.pods.Pull(ctx, o)
	if err != nil {
		return nil, err
	}
	return &runtime.PullImageResponse{ImageRef: id}, nil
}

func (s *imageService) RemoveImage(ctx context.Context, r *runtime.RemoveImageRequest) (*runtime.RemoveImageResponse, error) {
	return &runtime.RemoveImageResponse{}, s.pods.RemoveImage(ctx, r.GetImage().GetImage())
}

// credentials makes a registry's of what kubelet found for it; the daemon's own hold without.
func credentials(o *pods.PullOptions, a *runtime.AuthConfig) error {
	if a == nil {
		return nil
	}
	c := registry.Credential{Username: a.Username, Password: a.Password, RefreshToken: a.IdentityToken, AccessToken: a.RegistryToken}
	if a.Auth != "" && c.Username == "" {
		plain, err := base64.StdEncoding.DecodeString(a.Auth)
		name, password, ok := strings.Cut(strings.Trim(string(plain), "\x00"), ":")
		if err != nil || !ok {
			return fmt.Errorf("auth is not the base64 of NAME:PASSWORD: %w", errdefs.ErrInvalidArgument)
		}
		c.Username, c.Password = name, password
	}
	if c == (registry.Credential{}) {
		return nil
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", []string{c.Username, c.Password, c.RefreshToken, c.AccessToken}))
	o.Who = hex.EncodeToString(sum[:])
	server := host(a.ServerAddress)
	o.Credentials = func(_ context.Context, asks string) (registry.Credential, error) {
		if server != "" && server != asks { // a mirror, which is not to learn it
			return registry.Credential{}, nil
		}
		return c, nil
	}
	return nil
}

// host is that of an AuthConfig's server_address, which may be an address of HTTP.
func host(server string) string {
	if _, rest, ok := strings.Cut(server, "://"); ok {
		server = rest
	}
	server, _, _ = strings.Cut(server, "/")
	if server == "index.docker.io" || server == "docker.io" {
		return "registry-1.docker.io"
	}
	return server
}

func imageToWire(i pods.Image) *runtime.Image {
	out := &runtime.Image{Id: i.ID, RepoTags: i.Tags, RepoDigests: i.Digests, Size: uint64(i.Size), Pinned: i.Pinned, Spec: &runtime.ImageSpec{Image: i.ID}}
	user, _, _ := strings.Cut(i.Config.Config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		out.Uid = &runtime.Int64Value{Value: uid}
	} else {
		out.Username = user
	}
	return out
}

func (s *imageService) ImageFsInfo(ctx context.Context, _ *runtime.ImageFsInfoRequest) (*runtime.ImageFsInfoResponse, error) {
	u, err := s.pods.ImageUsage(ctx)
	if err != nil {
		return nil, err
	}
	fs := []*runtime.FilesystemUsage{filesystemUsage(u)}
	return &runtime.ImageFsInfoResponse{ImageFilesystems: fs, ContainerFilesystems: fs}, nil
}
