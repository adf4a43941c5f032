package testsuite

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/content"
)

func TestMemoryContent(t *testing.T) {
	TestContent(t, func(*testing.T) content.Store { return NewMemoryContent() })
}

func TestMemoryContentDamage(t *testing.T) {
	m := NewMemoryContent()
	dgst := put(t, m, []byte("good"))
	m.Damage(dgst, []byte("evil"))
	wantKind(t, "verify", m.Verify(t.Context(), dgst), errdefs.ErrDataLoss)
}
