package cri

import (
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/slipwayd/slipway/engine/pods"
)

// Credentials go to the registry that they are for, and to any that is asked where the client did not say.
func TestCredentials(t *testing.T) {
	for _, c := range []struct{ server, asks, want string }{
		{"", "registry.example", "me"},
		{"registry.example", "registry.example", "me"},
		{"https://registry.example/v1/", "registry.example", "me"},
		{"registry.example", "mirror.example", ""},
		{"https://index.docker.io/v1/", "registry-1.docker.io", "me"},
		{"registry.example:5000/team", "registry.example:5000", "me"},
	} {
		var o pods.PullOptions
		if err := credentials(&o, &runtime.AuthConfig{Auth: "bWU6c2VjcmV0", ServerAddress: c.server}); err != nil { // me:secret
			t.Fatal(err)
		}
		if got, err := o.Credentials(t.Context(), c.asks); err != nil || got.Username != c.want {
			t.Errorf("for %q asked by %s: %+v, %v", c.server, c.asks, got, err)
		}
	}
	var o pods.PullOptions
	if err := credentials(&o, &runtime.AuthConfig{Auth: "not base64"}); err == nil {
		t.Error("nonsense was taken")
	}
}
