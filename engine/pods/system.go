package pods

import (
	"context"
	"net"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/opaque"
	"github.com/slipwayd/slipway/internal/usage"
	"github.com/slipwayd/slipway/spec"
)

// system is what pods have on one operating system besides their records, and what documents of their containers say there. The rest of this
// package does not know which one it is on.
type system interface {
	// checkPod and checkContainer refuse what cannot be had here, and drop what is ignored.
	checkPod(s *spec.Pod) error
	checkContainer(p *pod, s *spec.PodContainer) error

	// make makes the pod's directory and what else it has of its own, with the text record beside it for a daemon that finds no other. After an error
	// nothing of it is left.
	make(ctx context.Context, p *pod, record []byte) error
	// alive is false when what make made has gone, as with the host's end.
	alive(p *pod) bool
	// remove takes away whatever of it is there.
	remove(ctx context.Context, p *pod) error
	// netns is what plugins of CNI call the pod's own network; "" for one in the host's.
	netns(p *pod) string
	// dial connects to a port of a pod as programs in it do.
	dial(ctx context.Context, p Pod, port uint16) (*net.TCPConn, error)

	// accounts reads the users of an image.
	accounts(ctx context.Context, snapshots *engine.Snapshots, chain string) (spec.Accounts, error)
	// user says as whom a container runs.
	user(p *pod, s *spec.PodContainer, img *image) (specs.User, error)
	// snapshotLabels tell the driver how a container's root file system is to be; s is nil for other snapshots of the pod.
	snapshotLabels(p *pod, s *spec.PodContainer) map[string]string
	// document says to the executor what the container is. undo takes back what had to be made for it.
	document(ctx context.Context, p *pod, c *container, img *image) (doc *specs.Spec, undo func(context.Context) error, err error)
	// limit puts limits into a document, and answers what an executor is told to change of one that runs.
	limit(doc *specs.Spec, r *spec.Resources) (opaque.Any, error)
	// nowhere is a file that keeps nothing.
	nowhere() string

	// use is what a container that runs uses, and how much of processors lately; nil when that cannot be told. more asks for usage.More.
	use(ctx context.Context, c *container, v Container, more bool) (*usage.Usage, *uint64)
	// podUse is that of the pod, nil when it is no more than its containers' together.
	podUse(p *pod, containers []Stats, more bool) (*usage.Usage, *uint64)
	// traffic answers the interfaces of each of several networks, named as netns does.
	traffic(ctx context.Context, netns []string) ([][]Interface, error)
}
