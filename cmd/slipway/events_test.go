package main

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/transfer"

	"github.com/slipwayd/slipway/client"
)

func TestPrintEvent(t *testing.T) {
	var b strings.Builder
	for _, payload := range []any{&transfer.Progress{Name: "a/b:c", Event: "pulling", Progress: 3, Total: 7}, nil} {
		if err := printEvent(&b, client.Event{At: time.Now(), Topic: "/images/pull/progress", Payload: payload}); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(b.String(), "\n")
	for i, want := range []string{` /images/pull/progress {"event":"pulling","name":"a/b:c","progress":"3","total":"7"}`, " /images/pull/progress "} {
		if !strings.HasSuffix(lines[i], want) {
			t.Errorf("line %q does not end with %q", lines[i], want)
		}
	}
}
