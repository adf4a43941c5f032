package containerd

import (
	"testing"

	"github.com/containerd/typeurl/v2"

	slipwayv1 "github.com/slipwayd/slipway/api/slipway/v1"
	"github.com/slipwayd/slipway/engine"
)

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
