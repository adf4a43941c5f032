package containerd

import (
	"google.golang.org/grpc"

	"github.com/slipwayd/slipway/engine"
)

// services registers each service of the API; to add one is to add a line.
var services = []func(grpc.ServiceRegistrar, *engine.Engine, Options){
	registerVersion,
	registerNamespaces,
	registerContainers,
	registerImages,
	registerLeases,
	registerContent,
	registerSnapshots,
	registerDiff,
	registerIntrospection,
	registerEvents,
	registerMounts,
	registerTasks,
	registerTransfer,
}
