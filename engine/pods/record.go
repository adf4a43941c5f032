package pods

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/metadata"
	"github.com/slipwayd/slipway/spec"
)

// Extensions of records, in JSON.
const (
	podExtension       = "slipway.io/pod"
	containerExtension = "slipway.io/pod-container"
)

// Labels that containerd's CRI puts on containers, which tools filter by.
const (
	labelKind     = "io.cri-containerd.kind"
	kindSandbox   = "sandbox"
	kindContainer = "container"
)

const specURL = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// podRecord is the extension of a sandbox.
type podRecord struct {
	Spec      *spec.Pod
	Stopped   bool     `json:",omitempty"`
	Restoring bool     `json:",omitempty"` // from a checkpoint, and not whole: the next start removes it
	Held      bool     `json:",omitempty"` // by a process
	Pins      []string `json:",omitempty"` // namespaces of its own
	IPs       []string `json:",omitempty"`
	Network   []byte   `json:",omitempty"` // network.Attachment.Result
	NetConfig string   `json:",omitempty"`
}

// containerRecord is the extension of a container.
type containerRecord struct {
	Spec       *spec.PodContainer
	ImageID    string
	ImageRef   string `json:",omitempty"` // REPOSITORY@DIGEST
	LogPath    string `json:",omitempty"` // absolute
	StopSignal string `json:",omitempty"`
	User       specs.User
	Resources  *spec.Resources `json:",omitempty"`
	Checkpoint string          `json:",omitempty"` // directory of CRIU's that Start restores from
	Status     containerStatus
}

// containerStatus is what changes over a container's life.
type containerStatus struct {
	Started  time.Time `json:",omitzero"`
	Finished time.Time `json:",omitzero"`
	ExitCode int32     `json:",omitempty"`
	Reason   string    `json:",omitempty"` // OOMKilled, StartError…
	Message  string    `json:",omitempty"`
}

func encodeExtension(name string, v any) (map[string]metadata.Any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a record: %w", err)
	}
	return map[string]metadata.Any{name: {TypeURL: name, Value: data}}, nil
}

func decodeExtension(all map[string]metadata.Any, name string, v any) error {
	a, ok := all[name]
	if !ok {
		return fmt.Errorf("it has no extension %s: %w", name, errdefs.ErrNotFound)
	}
	return json.Unmarshal(a.Value, v)
}

// fingerprint tells whether two calls ask for the same.
func fingerprint(v any) string {
	data, _ := json.Marshal(v) // of plain structs
	return string(data)
}

func encodeSpec(s *specs.Spec) (*opaque.Any, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the container's document: %w", err)
	}
	return &opaque.Any{TypeURL: specURL, Value: data}, nil
}

// fits keeps of labels those that a record can have.
func fits(labels map[string]string) map[string]string {
	kept := map[string]string{}
	for k, v := range labels {
		if metadata.ValidateLabels(map[string]string{k: v}) == nil {
			kept[k] = v
		}
	}
	return kept
}
