package containerd

import (
	"slices"
	"testing"

	eventtypes "github.com/containerd/containerd/api/events"
	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipwayd/slipway/engine"
)

// subscribe answers a stream that misses nothing from now on.
func subscribe(t *testing.T, h *host, filters ...string) eventsapi.Events_SubscribeClient {
	t.Helper()
	s := must(eventsapi.NewEventsClient(h).Subscribe(t.Context(), &eventsapi.SubscribeRequest{Filters: filters}))(t)
	must(s.Header())(t)
	return s
}

func TestEventsOfRecords(t *testing.T) {
	h := newReadyHost(t)
	s := subscribe(t, h)
	c, snaps := containersapi.NewContainersClient(h), snapshotsapi.NewSnapshotsClient(h)
	must(snaps.Prepare(in(t, "ns"), &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "fake", Key: "one"}))(t)
	must(c.Create(in(t, "ns"), &containersapi.CreateContainerRequest{Container: box("one")}))(t)
	must(c.Delete(in(t, "ns"), &containersapi.DeleteContainerRequest{ID: "one"}))(t)
	must(snaps.Remove(in(t, "ns"), &snapshotsapi.RemoveSnapshotRequest{Snapshotter: "fake", Key: "one"}))(t)
	for _, topic := range []string{"/snapshot/prepare", "/containers/create", "/containers/delete", "/snapshot/remove"} {
		ev := must(s.Recv())(t)
		if ev.Topic != topic || ev.Namespace != "ns" || ev.Timestamp == nil {
			t.Fatalf("got %v, want %s", ev, topic)
		}
		payload := must(typeurl.UnmarshalAny(ev.Event))(t)
		if create, ok := payload.(*eventtypes.ContainerCreate); ok && (create.ID != "one" || create.Runtime.GetName() != "io.containerd.runc.v2") {
			t.Errorf("payload is %v", create)
		}
	}
}

func TestEventFilters(t *testing.T) {
	h := newReadyHost(t)
	c := eventsapi.NewEventsClient(h)
	docker := subscribe(t, h, "namespace==moby,topic~=|^/tasks/|")
	one := subscribe(t, h, "event.container_id==one")
	forward := func(ns, topic, id string) {
		t.Helper()
		event := must(typeurl.MarshalAnyToProto(&eventtypes.TaskStart{ContainerID: id}))(t)
		must(c.Forward(t.Context(), &eventsapi.ForwardRequest{Envelope: &types.Envelope{
			Timestamp: timestamppb.Now(), Namespace: ns, Topic: topic, Event: event,
		}}))(t)
	}
	forward("other", "/tasks/start", "one")
	forward("moby", "/images/create", "two")
	forward("moby", "/tasks/start", "three")
	if ev := must(docker.Recv())(t); ev.Namespace != "moby" || ev.Topic != "/tasks/start" {
		t.Errorf("dockerd's filter let %v through", ev)
	}
	if ev := must(one.Recv())(t); ev.Namespace != "other" {
		t.Errorf("the filter on a field let %v through", ev)
	}
	_, err := must(c.Subscribe(t.Context(), &eventsapi.SubscribeRequest{Filters: []string{"topic~=/(/"}}))(t).Recv()
	wantCode(t, err, codes.InvalidArgument)
}

func TestPublishIsChecked(t *testing.T) {
	h := newReadyHost(t)
	c := eventsapi.NewEventsClient(h)
	s := subscribe(t, h)
	for topic, code := range map[string]codes.Code{"": codes.InvalidArgument, "x": codes.InvalidArgument, "/": codes.InvalidArgument, "/a//b": codes.InvalidArgument} {
		_, err := c.Publish(in(t, "ns"), &eventsapi.PublishRequest{Topic: topic, Event: &anypb.Any{TypeUrl: "t"}})
		wantCode(t, err, code)
	}
	_, err := c.Publish(in(t, "ns"), &eventsapi.PublishRequest{Topic: "/a"})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.Publish(t.Context(), &eventsapi.PublishRequest{Topic: "/a", Event: &anypb.Any{}})
	wantCode(t, err, codes.FailedPrecondition)
	_, err = c.Forward(t.Context(), &eventsapi.ForwardRequest{})
	wantCode(t, err, codes.InvalidArgument)
	must(c.Publish(in(t, "ns"), &eventsapi.PublishRequest{Topic: "/a/b", Event: &anypb.Any{TypeUrl: "t", Value: []byte("v")}}))(t)
	if ev := must(s.Recv())(t); ev.Topic != "/a/b" || ev.Event.TypeUrl != "t" || string(ev.Event.Value) != "v" {
		t.Errorf("got %v", ev)
	}
}

func TestIntrospection(t *testing.T) {
	h := newReadyHost(t)
	c := introspectionapi.NewIntrospectionClient(h)
	plugins := func(filters ...string) []*introspectionapi.Plugin {
		t.Helper()
		return must(c.Plugins(t.Context(), &introspectionapi.PluginsRequest{Filters: filters}))(t).Plugins
	}
	if got := plugins("type==io.containerd.runtime.v2,id==task"); len(got) != 1 || len(got[0].Platforms) == 0 {
		t.Errorf("BuildKit needs the runtime's platforms, got %v", got)
	}
	if got := plugins("type==io.containerd.snapshotter.v1"); len(got) != 1 || got[0].ID != "fake" || len(got[0].Capabilities) != 0 {
		t.Errorf("snapshotters are %v", got)
	}
	if got := plugins("id==restart"); len(got) != 1 || !slices.Equal(got[0].Capabilities, engine.RestartPolicies) { // nerdctl asks so
		t.Errorf("what restarts containers: %v", got)
	}
	_, err := c.Plugins(t.Context(), &introspectionapi.PluginsRequest{Filters: []string{"=="}})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.PluginInfo(t.Context(), &introspectionapi.PluginInfoRequest{Type: "x", ID: "y"})
	wantCode(t, err, codes.NotFound)

	one, two := must(c.Server(t.Context(), &emptypb.Empty{}))(t), must(c.Server(t.Context(), &emptypb.Empty{}))(t)
	if one.UUID == "" || one.UUID != two.UUID || one.Pid == 0 {
		t.Errorf("server tells %v, then %v", one, two)
	}
}
