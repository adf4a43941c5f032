package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/slipwayd/slipway/client"
)

func (a *app) inspectCmd() *cobra.Command {
	return &cobra.Command{
		Use: "inspect CONTAINER|IMAGE...", Short: "Show everything known of containers and images as JSON", Args: cobra.MinimumNArgs(1),
		Long: `Show everything known of containers and images as a JSON list. Of an image that is also how each of its layers is here (mode): lazy, with
counts of what was fetched and read; arrived; or full, with the reason when it could have been lazy.`,
		Example: `  slipway inspect web | jq '.[0].spec.process.args'
  slipway inspect python | jq '.[0].layers[] | {mode, reason, reads}'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				found := []any{}
				var errs []error
				for _, name := range args {
					v, err := inspect(cmd, c, name)
					if err != nil {
						errs = append(errs, err)
						continue
					}
					found = append(found, v)
				}
				return errors.Join(append(errs, printJSON(a.out, found))...)
			})
		},
	}
}

// inspect looks for a container first, then for an image.
func inspect(cmd *cobra.Command, c *client.Client, name string) (any, error) {
	ctx := cmd.Context()
	ct, err := c.Container(ctx, name)
	if err == nil {
		rows, err := containerRows(ctx, c, true)
		if err != nil {
			return nil, err
		}
		var row containerRow
		for _, r := range rows {
			if r.ID == ct.ID {
				row = r
			}
		}
		return struct {
			containerRow
			Runtime     string `json:"runtime"`
			Snapshotter string `json:"snapshotter"`
			SnapshotKey string `json:"snapshotKey"`
			Log         string `json:"log,omitempty"`
			Spec        any    `json:"spec"`

			LazyLayers []client.LazyLayer `json:"lazyLayers,omitempty"` // those of its image that are still in the registry
		}{row, ct.Runtime, ct.Snapshotter, ct.SnapshotKey, ct.Labels[client.LabelLog], ct.Spec, stillLazy(ctx, c, ct.Image)}, nil
	} else if !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
		return nil, err
	}
	img, err := findImage(ctx, c, name)
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return nil, fmt.Errorf("no container and no image is named %q in namespace %q: %w", name, c.Namespace(), errdefs.ErrNotFound)
	} else if err != nil {
		return nil, err
	}
	d, err := c.Detail(ctx, img, nil)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	layers, err := c.LazyLayers(ctx, img.Name)
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsNotImplemented(err) {
		return nil, err
	}
	return struct {
		imageRow
		Updated  time.Time          `json:"updated"`
		Manifest ocispec.Descriptor `json:"manifest"`
		Layers   []layer            `json:"layers"`
		Config   ocispec.Image      `json:"config"`
		ConfigID digest.Digest      `json:"configID"`
		ChainID  digest.Digest      `json:"chainID"` // the snapshot of the topmost layer
	}{rowOf(img, d), img.UpdatedAt, d.Manifest, layersOf(d, layers), d.Config, d.ConfigID, d.ChainID}, nil
}

// stillLazy is what can be learned of layers that a container reads from their registry: its image may have been removed.
func stillLazy(ctx context.Context, c *client.Client, image string) []client.LazyLayer {
	layers, _ := c.LazyLayers(ctx, image)
	return slices.DeleteFunc(layers, func(l client.LazyLayer) bool { return l.Mode != client.LayerLazy })
}

// layer is a descriptor and, from a daemon that tells it, how its layer is here.
type layer struct {
	ocispec.Descriptor
	here
}

// here is a level of its own so that encoding/json takes digest and size from the descriptor alone.
type here struct{ *client.LazyLayer }

func layersOf(d client.ImageDetail, known []client.LazyLayer) []layer {
	out := make([]layer, len(d.Layers))
	for i, desc := range d.Layers {
		out[i].Descriptor = desc
		if i < len(known) && known[i].Digest == desc.Digest {
			out[i].LazyLayer = &known[i]
		}
	}
	return out
}

func (a *app) infoCmd() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use: "info", Short: "Show what the daemon and its host can do", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				i, err := c.Info(cmd.Context())
				if err != nil {
					return err
				}
				if f == "json" {
					b, err := protojson.Marshal(i) // its names are camelCase, as everywhere here
					if err != nil {
						return err
					}
					return printJSON(a.out, json.RawMessage(b))
				}
				for _, kv := range [][2]string{
					{"Version", i.Version}, {"Root", i.Root}, {"State", i.State}, {"Snapshotter", i.DefaultSnapshotter},
					{"Snapshotters", strings.Join(i.Snapshotters, " ")}, {"Cgroups", i.Cgroup}, {"Kernel", i.Kernel},
					{"Platform", i.Os + "/" + i.Architecture}, {"PID", fmt.Sprint(i.Pid)}, {"UUID", i.Uuid},
				} {
					fmt.Fprintf(a.out, "%-13s %s\n", kv[0]+":", kv[1])
				}
				for _, n := range i.Notes {
					fmt.Fprintf(a.out, "%-13s %s\n", "Note:", n)
				}
				return nil
			})
		},
	}
	f.add(cmd)
	return cmd
}

func (a *app) versionCmd() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use: "version", Short: "Show the versions of client and daemon", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				daemon, revision, err := c.Version(cmd.Context())
				if f == "json" {
					return errors.Join(err, printJSON(a.out, map[string]string{"client": version, "daemon": daemon, "revision": revision}))
				}
				fmt.Fprintln(a.out, "Client:", version)
				if err == nil {
					fmt.Fprintln(a.out, "Daemon:", strings.TrimSpace(daemon+" "+revision))
				}
				return err
			})
		},
	}
	f.add(cmd)
	return cmd
}
