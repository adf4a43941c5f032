package containerd

import (
	"testing"

	"github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/typeurl/v2"

	slipwayv1 "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/engine"
)

// TestEventsOfPulls: how far a pull is goes in a message that containerd's clients know, and can be asked for by image.
func TestEventsOfPulls(t *testing.T) {
	p := engine.PullProgress{Ref: "host/image:tag", State: "unpacking", Done: 3, Bytes: 4}
	got, ok := must(typeurl.UnmarshalAny(must(encodePayload(p))(t)))(t).(*transfer.Progress)
	if !ok || got.Name != p.Ref || got.Event != p.State || got.Progress != 3 || got.Total != 4 {
		t.Errorf("came as %v", got)
	}
	if v, ok := EventField(p, []string{"name"}); !ok || v != p.Ref {
		t.Errorf("its name is %q", v)
	}
}

func TestEventsOfLazyLayers(t *testing.T) {
	for want, p := range map[string]engine.Payload{
		"attach":   engine.LazyAttach{Image: "i", Layer: "l", Snapshot: "s", Index: "attach"},
		"complete": engine.LazyComplete{Image: "complete", Layer: "l", Snapshot: "s"},
		"fallback": engine.LazyFallback{Image: "i", Layer: "l", Snapshot: "s", Reason: "fallback"},
	} {
		any := must(encodePayload(p))(t)
		got := must(typeurl.UnmarshalAny(any))(t)
		var text string
		switch m := got.(type) {
		case *slipwayv1.LazyAttach:
			text = m.Index
		case *slipwayv1.LazyComplete:
			text = m.Image
		case *slipwayv1.LazyFallback:
			text = m.Reason
		}
		if text != want {
			t.Errorf("%T came as %v", p, got)
		}
		if v, ok := EventField(p, []string{"layer"}); !ok || v != "l" {
			t.Errorf("its layer is %q", v)
		}
		for _, path := range [][]string{nil, {"nothing"}, {"layer", "more"}} {
			if v, ok := EventField(p, path); ok {
				t.Errorf("%q is %q", path, v)
			}
		}
	}
}
