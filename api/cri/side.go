package cri

import (
	"fmt"
	goruntime "runtime"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/spec"
)

// side is the part of CRI that is about one system: what is in the sections "linux" and "windows" of its messages. A side refuses, by the field's
// name, what is asked of the other, as a limit that is ignored is worse than one that is refused.
type side interface {
	// pod and container add to what messages say for every system.
	pod(from *runtime.PodSandboxConfig, to *spec.Pod) error
	container(from *runtime.ContainerConfig, to *spec.PodContainer) error
	// update and updatePod answer limits; nil where none are said.
	update(*runtime.UpdateContainerResourcesRequest) (*spec.Resources, error)
	updatePod(*runtime.UpdatePodSandboxResourcesRequest) (overhead, resources *spec.Resources, err error)

	resources(*spec.Resources) *runtime.ContainerResources
	user(pods.Container) *runtime.ContainerUser
	stats(pods.PodStats, *runtime.PodSandboxStats)
	features() (*runtime.RuntimeFeatures, *runtime.RuntimeHandlerFeatures)
	config(pods.Config) *runtime.RuntimeConfigResponse
}

// thisSide is that of the system the daemon runs on. Both are built everywhere, so that both are tested everywhere.
func thisSide() side {
	if goruntime.GOOS == "windows" {
		return windowsSide{}
	}
	return linuxSide{}
}

// refuse is InvalidArgument when anything is said in a section that is for another system. Sections and messages in them may be there and say
// nothing: clients fill them in without a thought.
func refuse(section string, m proto.Message, here string) error {
	if field := firstField(section, m.ProtoReflect()); field != "" {
		return fmt.Errorf("%s is set, which containers on %s cannot have: %w", field, here, errdefs.ErrInvalidArgument)
	}
	return nil
}

// firstField is the path of the first field that is set, by the order in which the message declares them; "" when none is.
func firstField(path string, m protoreflect.Message) string {
	if !m.IsValid() { // a nil message
		return ""
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := path + "." + string(f.Name())
		switch {
		case !m.Has(f):
		case f.Message() != nil && !f.IsList() && !f.IsMap() && f.Message().Name() != "Int64Value": // 0 in one is said
			if inner := firstField(name, m.Get(f).Message()); inner != "" {
				return inner
			}
		default:
			return name
		}
	}
	return ""
}
