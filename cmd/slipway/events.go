package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/slipwayd/slipway/client"
)

func (a *app) eventsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "events [FILTER...]", Short: "Show what happens, as it happens, until it is interrupted", Args: cobra.ArbitraryArgs,
		Long: `Show what happens in the namespace from now on: a line for each event with its time, topic and content as JSON. A filter is one of
containerd's, such as 'topic~=^/tasks/'; with several, each event that matches any is shown.`,
		Example: `  slipway --namespace k8s.io events 'topic~=^/images/pull/'    # how far pulls are that a kubelet waits for`,
		RunE: func(cmd *cobra.Command, filters []string) error {
			own := "namespace==" + a.namespace
			for i, f := range filters {
				filters[i] = own + "," + f
			}
			if len(filters) == 0 {
				filters = []string{own}
			}
			return a.with(func(c *client.Client) error {
				for ev, err := range c.Events(cmd.Context(), filters...) {
					if err == nil {
						err = printEvent(a.out, ev)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

// printEvent writes no content of messages that this program does not know.
func printEvent(w io.Writer, ev client.Event) error {
	var text bytes.Buffer
	if m, ok := ev.Payload.(proto.Message); ok {
		data, err := protojson.Marshal(m)
		if err != nil {
			return fmt.Errorf("cannot show an event %s: %w", ev.Topic, err)
		}
		if err := json.Compact(&text, data); err != nil { // protojson's spaces are not the same each time
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s %s %s\n", ev.At.Local().Format(time.RFC3339Nano), ev.Topic, text.String())
	return err
}
