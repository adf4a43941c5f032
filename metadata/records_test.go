package metadata

import (
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func dgst(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }

func blob(i int) Blob { return Blob{Digest: dgst(i), Size: int64(i)} }

func image(name string, target int) Image {
	return Image{Name: name, Target: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgst(target), Size: 1}}
}

func container(id string) Container {
	return Container{ID: id, Runtime: Runtime{Name: "io.containerd.runc.v2"}, Spec: &Any{TypeURL: "spec", Value: []byte("{}")}}
}
