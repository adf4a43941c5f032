package compute

import (
	"strings"
	"testing"
)

func TestGuards(t *testing.T) {
	var h Host
	add := `{"PropertyType":"ContainerCredentialGuard","Settings":{"Operation":"AddInstance","OperationDetails":{"Id":"a","CredentialSpec":"{}","Transport":"LRPC"}}}`
	remove := `{"PropertyType":"ContainerCredentialGuard","Settings":{"Operation":"RemoveInstance","OperationDetails":{"Id":"a"}}}`
	for _, step := range []struct {
		change string
		ok     bool
		lists  bool
	}{
		{remove, false, false},
		{add, true, true},
		{add, false, true},
		{strings.Replace(add, "LRPC", "TCP", 1), false, true},
		{`{"PropertyType":"Weather","Settings":{}}`, false, true},
		{remove, true, false},
	} {
		err := h.ModifyService(step.change)
		doc, listErr := h.ServiceProperties(`{"PropertyTypes":["ContainerCredentialGuard"]}`)
		if (err == nil) != step.ok || listErr != nil || strings.Contains(doc, "cookie-of-a") != step.lists {
			t.Errorf("%s: %v; then %s, %v", step.change, err, doc, listErr)
		}
	}
}
