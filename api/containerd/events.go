package containerd

import (
	"context"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/slipwayd/slipway/engine"
)

type eventService struct {
	eventsapi.UnimplementedEventsServer
	eng *engine.Engine
}

func registerEvents(r grpc.ServiceRegistrar, eng *engine.Engine, _ Options) {
	eventsapi.RegisterEventsServer(r, eventService{eng: eng})
}

func (s eventService) Publish(ctx context.Context, req *eventsapi.PublishRequest) (*emptypb.Empty, error) {
	sc, err := scope(ctx)
	if err != nil {
		return nil, err
	}
	if req.Event == nil {
		return nil, missing("event")
	}
	return &emptypb.Empty{}, s.eng.Publish(ctx, engine.Event{Namespace: sc.Namespace, Topic: req.Topic, Payload: *fromAny(req.Event)})
}

func (s eventService) Forward(ctx context.Context, req *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, forward(ctx, s.eng, req.Envelope)
}

// forward publishes an event that another process had published first; its namespace and time are in the envelope.
func forward(ctx context.Context, eng *engine.Engine, env *types.Envelope) error {
	if env == nil {
		return missing("envelope")
	}
	if env.Event == nil {
		return missing("event")
	}
	if err := engine.CheckNamespace(env.Namespace); err != nil {
		return err
	}
	ev := engine.Event{Namespace: env.Namespace, Topic: env.Topic, Payload: *fromAny(env.Event)}
	if env.Timestamp != nil {
		ev.At = env.Timestamp.AsTime()
	}
	return eng.Publish(ctx, ev)
}

func (s eventService) Subscribe(req *eventsapi.SubscribeRequest, stream eventsapi.Events_SubscribeServer) error {
	sub, err := s.eng.Subscribe(stream.Context(), req.Filters...)
	if err != nil {
		return err
	}
	defer sub.Close()
	// Headers now, so that a client can know that it misses nothing from here on.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		ev, err := sub.Next(stream.Context())
		if err != nil {
			return err
		}
		payload, err := encodePayload(ev.Payload)
		if err != nil {
			return err
		}
		env := &types.Envelope{Timestamp: toTime(ev.At), Namespace: ev.Namespace, Topic: ev.Topic, Event: payload}
		if err := stream.Send(env); err != nil {
			return err
		}
	}
}
