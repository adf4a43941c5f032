package cri

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine/pods"
	"github.com/slipwayd/slipway/internal/usage"
)

// Metrics that kubelet passes on to monitoring. Names, units and labels are cAdvisor's (github.com/google/cadvisor, docs/storage/prometheus.md), which
// dashboards everywhere know.

// commonLabels are those of every metric; a family's own follow.
var commonLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// family is the metrics of one name. Values are whole numbers, so of seconds whole ones are told, as CRI wants it.
type family struct {
	name, help string
	kind       runtime.MetricType
	labels     []string // besides the common ones
	// of a container; each value has its own labels' values
	container func(pods.Stats) []value
	// of the pod as a whole
	pod func(pods.PodStats) []value
}

type value struct {
	n      uint64
	labels []string
}

const (
	counter = runtime.MetricType_COUNTER
	gauge   = runtime.MetricType_GAUGE
)

// used makes a family of something that every running container has.
func used(kind runtime.MetricType, name, help string, of func(*usage.Usage) uint64) family {
	return family{name: name, help: help, kind: kind, container: func(s pods.Stats) []value {
		if s.Use == nil || s.Use.More == nil {
			return nil
		}
		return []value{{n: of(s.Use)}}
	}}
}

// pressed is used where the kernel tells pressure.
func pressed(name, help string, of func(*usage.Pressures) uint64) family {
	f := used(counter, name, help, func(u *usage.Usage) uint64 { return of(u.Pressure) / nanos })
	all := f.container
	f.container = func(s pods.Stats) []value {
		if s.Use == nil || s.Use.Pressure == nil {
			return nil
		}
		return all(s)
	}
	return f
}

// traffic makes a family of what went over a pod's interfaces.
func traffic(name, help string, of func(pods.Interface) uint64) family {
	return family{name: name, help: help, kind: counter, labels: []string{"interface"}, pod: func(p pods.PodStats) []value {
		var all []value
		for _, i := range p.Network {
			if i.Name != "lo" {
				all = append(all, value{of(i), []string{i.Name}})
			}
		}
		return all
	}}
}

// disk makes a family of what went to or from block devices.
func disk(name, help string, of func(usage.Device) uint64) family {
	return family{name: name, help: help, kind: counter, labels: []string{"device", "major", "minor"}, container: func(s pods.Stats) []value {
		if s.Use == nil || s.Use.More == nil {
			return nil
		}
		var all []value
		for _, d := range s.Use.More.Devices {
			major, minor := fmt.Sprint(d.Major), fmt.Sprint(d.Minor)
			all = append(all, value{of(d), []string{major + ":" + minor, major, minor}})
		}
		return all
	}}
}

// layer makes a family of what is written to containers' layers.
func layer(name, help string, of func(*pods.FilesystemUsage) int64) family {
	return family{name: name, help: help, kind: gauge, labels: []string{"device"}, container: func(s pods.Stats) []value {
		if s.Layer == nil {
			return nil
		}
		return []value{{uint64(of(s.Layer)), []string{s.Layer.Path}}}
	}}
}

func (s *runtimeService) ListMetricDescriptors(context.Context, *runtime.ListMetricDescriptorsRequest) (*runtime.ListMetricDescriptorsResponse, error) {
	resp := &runtime.ListMetricDescriptorsResponse{}
	for _, f := range families {
		resp.Descriptors = append(resp.Descriptors, &runtime.MetricDescriptor{
			Name: f.name, Help: f.help, LabelKeys: append(append([]string{}, commonLabels...), f.labels...),
		})
	}
	return resp, nil
}

func (s *runtimeService) ListPodSandboxMetrics(ctx context.Context, _ *runtime.ListPodSandboxMetricsRequest) (*runtime.ListPodSandboxMetricsResponse, error) {
	return &runtime.ListPodSandboxMetricsResponse{PodMetrics: s.metrics(ctx)}, nil
}

func (s *runtimeService) StreamPodSandboxMetrics(_ *runtime.StreamPodSandboxMetricsRequest, stream grpc.ServerStreamingServer[runtime.StreamPodSandboxMetricsResponse]) error {
	return chunks(s.metrics(stream.Context()), func(part []*runtime.PodSandboxMetrics) error {
		return stream.Send(&runtime.StreamPodSandboxMetricsResponse{PodSandboxMetrics: part})
	})
}

func (s *runtimeService) metrics(ctx context.Context) []*runtime.PodSandboxMetrics {
	var all []*runtime.PodSandboxMetrics
	for _, p := range s.pods.Measurements(ctx) {
		all = append(all, podMetrics(p))
	}
	return all
}

func podMetrics(p pods.PodStats) *runtime.PodSandboxMetrics {
	spec := p.Pod.Spec
	out := &runtime.PodSandboxMetrics{PodSandboxId: p.Pod.ID}
	common := []string{"", spec.CgroupParent, "", p.Pod.ID, spec.Namespace, spec.Name}
	for _, f := range families {
		if f.pod != nil {
			out.Metrics = appendMetrics(out.Metrics, f, p.At, common, f.pod(p))
		}
	}
	for _, c := range p.Containers {
		one := &runtime.ContainerMetrics{ContainerId: c.Container.ID}
		id := strings.TrimSuffix(spec.CgroupParent, "/") + "/" + c.Container.ID
		common := []string{c.Container.Spec.Name, id, c.Container.Image, c.Container.ID, spec.Namespace, spec.Name}
		for _, f := range families {
			if f.container != nil {
				one.Metrics = appendMetrics(one.Metrics, f, p.At, common, f.container(c))
			}
		}
		out.ContainerMetrics = append(out.ContainerMetrics, one)
	}
	return out
}

func appendMetrics(to []*runtime.Metric, f family, at time.Time, common []string, values []value) []*runtime.Metric {
	for _, v := range values {
		labels := common
		if len(v.labels) > 0 {
			labels = append(append([]string{}, common...), v.labels...)
		}
		to = append(to, &runtime.Metric{Name: f.name, Timestamp: at.UnixNano(), MetricType: f.kind, LabelValues: labels, Value: count(v.n)})
	}
	return to
}
