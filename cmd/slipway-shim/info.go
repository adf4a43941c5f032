package main

import (
	"io"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
)

// featuresType is containerd's name for runtime-spec's features in an Any; the value is JSON.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// writeInfo answers -info: a containerd.types.RuntimeInfo.
func writeInfo(stdout io.Writer) error {
	typeurl.Register(&features.Features{}, featuresType)
	any, err := typeurl.MarshalAnyToProto(runtimeFeatures())
	if err != nil {
		return err
	}
	data, err := proto.Marshal(&types.RuntimeInfo{
		Name: "io.containerd.slipway.v1", Version: &types.RuntimeVersion{Version: version}, Features: any,
	})
	if err != nil {
		return err
	}
	_, err = stdout.Write(data)
	return err
}

func runtimeFeatures() *features.Features {
	f := &features.Features{OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version}
	platformFeatures(f)
	return f
}
