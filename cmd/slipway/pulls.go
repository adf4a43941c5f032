package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/slipwayd/slipway/client"
)

func (a *app) pullsCmd() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use: "pulls", Short: "List images that are being pulled", Args: cobra.NoArgs,
		Long:    "List images that are being pulled in the namespace, whoever asked for them, and how much of them is here.",
		Example: "  slipway --namespace k8s.io image pulls    # those that a kubelet waits for",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				pulls, err := c.Pulls(cmd.Context())
				if err != nil {
					return err
				}
				return list(a.out, f, pulls, []string{"IMAGE", "BEGUN", "HERE", "STATE"}, pullColumns)
			})
		},
	}
	f.add(cmd)
	return cmd
}

func pullColumns(p client.Pulling) []string {
	state, here := "downloading", ""
	if p.Unpacking {
		state = "unpacking"
	}
	if p.Total > 0 {
		here = fmt.Sprintf("%s of %s", size(p.Done), size(p.Total))
	}
	return []string{p.Ref, ago(p.Begun), here, state}
}
