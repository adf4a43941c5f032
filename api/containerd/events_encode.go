package containerd

import (
	"fmt"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	slipwayv1 "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/engine"
	"github.com/slipwayd/slipway/internal/opaque"
)

// fielder is what the generated event messages offer to filters.
type fielder interface {
	Field(path []string) (string, bool)
}

// EventField answers a field of a payload for filters (engine.Parts.EventField). Messages of types that this build does not
// know have no fields.
func EventField(p engine.Payload, path []string) (string, bool) {
	if a, ok := p.(opaque.Any); ok {
		v, err := typeurl.UnmarshalByTypeURL(a.TypeURL, a.Value)
		if err != nil {
			return "", false
		}
		f, ok := v.(fielder)
		if !ok {
			return "", false
		}
		return f.Field(path)
	}
	msg, err := eventMessage(p)
	if err != nil {
		return "", false
	}
	if f, ok := msg.(fielder); ok {
		return f.Field(path)
	}
	return textField(msg, path)
}

// textField is Field for messages that have none; what is no string cannot be asked for.
func textField(msg proto.Message, path []string) (string, bool) {
	if len(path) != 1 {
		return "", false
	}
	m := msg.ProtoReflect()
	f := m.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	if f == nil || f.Kind() != protoreflect.StringKind || f.IsList() {
		return "", false
	}
	return m.Get(f).String(), true
}

// encodePayload is p as it goes over the wire.
func encodePayload(p engine.Payload) (*anypb.Any, error) {
	if a, ok := p.(opaque.Any); ok {
		return &anypb.Any{TypeUrl: a.TypeURL, Value: a.Value}, nil
	}
	msg, err := eventMessage(p)
	if err != nil {
		return nil, err
	}
	value, err := proto.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("cannot encode event %T: %w", p, err)
	}
	// Not anypb.New: clients look types up by containerd's bare names, without type.googleapis.com.
	return &anypb.Any{TypeUrl: string(msg.ProtoReflect().Descriptor().FullName()), Value: value}, nil
}

// eventMessage is the protobuf message for a payload of the engine.
func eventMessage(p engine.Payload) (proto.Message, error) {
	switch p := p.(type) {
	case engine.NamespaceCreate:
		return &eventsapi.NamespaceCreate{Name: p.Name, Labels: p.Labels}, nil
	case engine.NamespaceUpdate:
		return &eventsapi.NamespaceUpdate{Name: p.Name, Labels: p.Labels}, nil
	case engine.NamespaceDelete:
		return &eventsapi.NamespaceDelete{Name: p.Name}, nil
	case engine.ContainerCreate:
		return &eventsapi.ContainerCreate{ID: p.ID, Image: p.Image, Runtime: &eventsapi.ContainerCreate_Runtime{
			Name: p.Runtime.Name, Options: toAny(p.Runtime.Options),
		}}, nil
	case engine.ContainerUpdate:
		return &eventsapi.ContainerUpdate{ID: p.ID, Image: p.Image, Labels: p.Labels, SnapshotKey: p.SnapshotKey}, nil
	case engine.ContainerDelete:
		return &eventsapi.ContainerDelete{ID: p.ID}, nil
	case engine.StartRecorded:
		return StartProfile(p.StartProfile), nil
	case engine.StartReplayed:
		return StartProfile(p.StartProfile), nil
	case engine.ImageCreate:
		return &eventsapi.ImageCreate{Name: p.Name, Labels: p.Labels}, nil
	case engine.ImageUpdate:
		return &eventsapi.ImageUpdate{Name: p.Name, Labels: p.Labels}, nil
	case engine.ImageDelete:
		return &eventsapi.ImageDelete{Name: p.Name}, nil
	case engine.ContentCreate:
		return &eventsapi.ContentCreate{Digest: p.Digest.String(), Size: p.Size}, nil
	case engine.ContentDelete:
		return &eventsapi.ContentDelete{Digest: p.Digest.String()}, nil
	case engine.SnapshotPrepare:
		return &eventsapi.SnapshotPrepare{Key: p.Key, Parent: p.Parent, Snapshotter: p.Snapshotter}, nil
	case engine.SnapshotCommit:
		return &eventsapi.SnapshotCommit{Key: p.Key, Name: p.Name, Snapshotter: p.Snapshotter}, nil
	case engine.SnapshotRemove:
		return &eventsapi.SnapshotRemove{Key: p.Key, Snapshotter: p.Snapshotter}, nil
	case engine.PullProgress: // a message that containerd's clients can show
		return &transfer.Progress{Event: p.State, Name: p.Ref, Progress: p.Done, Total: p.Bytes}, nil
	case engine.LazyAttach:
		return &slipwayv1.LazyAttach{Image: p.Image, Layer: p.Layer, Snapshot: p.Snapshot, Index: p.Index}, nil
	case engine.LazyComplete:
		return &slipwayv1.LazyComplete{Image: p.Image, Layer: p.Layer, Snapshot: p.Snapshot}, nil
	case engine.LazyFallback:
		return &slipwayv1.LazyFallback{Image: p.Image, Layer: p.Layer, Snapshot: p.Snapshot, Reason: p.Reason}, nil
	}
	return nil, fmt.Errorf("event payload %T has no message: %w", p, errdefs.ErrInternal)
}

// StartProfile is a start profile on the wire, in Slipway's own API and in events.
func StartProfile(p engine.StartProfile) *slipwayv1.StartProfile {
	return &slipwayv1.StartProfile{Image: p.Image.String(), Command: p.Command, Args: p.Args, Origin: p.Origin, Starts: int32(p.Starts),
		Recorded: p.Recorded.Unix(), Layers: int32(p.Layers), Files: int32(p.Files), Bytes: p.Bytes}
}
