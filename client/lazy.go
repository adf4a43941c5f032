package client

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	slipwayapi "github.com/slipwayd/slipway/api/slipway/v1"
)

// How a layer is here.
const (
	LayerLazy    = "lazy"    // in its registry, and served from there
	LayerArrived = "arrived" // was that, and is here
	LayerFull    = "full"    // was pulled in full
	LayerAbsent  = "absent"  // not unpacked
)

// LazyLayer tells how one layer of an image is here. Its JSON is what slipway inspect prints.
type LazyLayer struct {
	Digest  digest.Digest `json:"digest"` // of the blob
	Size    int64         `json:"size"`   // of the blob, in bytes
	ChainID digest.Digest `json:"chainID"`
	Mode    string        `json:"mode"`
	Reason  string        `json:"reason,omitempty"` // why it was pulled in full, if that is known
	Index   string        `json:"index,omitempty"`  // kind of the index that it is served by: estargz, zstd:chunked, spans, soci
	Origin  string        `json:"origin,omitempty"` // where that comes from
	Error   string        `json:"error,omitempty"`  // why it has not arrived, when that was tried and failed
	Reads   *LayerReads   `json:"reads,omitempty"`  // of one that is served; counts since its server started
}

// LayerReads is how a served layer is read, in bytes but for what counts reads.
type LayerReads struct {
	Files      int64 `json:"files"`      // of all its files
	Here       int64 `json:"here"`       // of files that were opened, here now
	Demand     int64 `json:"demand"`     // fetched for readers that waited
	Profile    int64 `json:"profile"`    // fetched for a start profile
	Background int64 `json:"background"` // fetched to bring all of it here
	Read       int64 `json:"read"`       // given to readers, but what the kernel serves by itself
	Count      int64 `json:"count"`      // reads
	Waited     int64 `json:"waited"`     // reads that found something missing
	Failed     int64 `json:"failed"`

	HitRate *float64 `json:"hitRate,omitempty"` // part of the reads that did not have to wait, 0 to 1; nil before the first
}

// hitRate is Count and Waited in one number.
func hitRate(count, waited int64) *float64 {
	if count == 0 {
		return nil
	}
	rate := float64(count-waited) / float64(count)
	return &rate
}

// LazyLayers lists the layers of the image of that full name for the daemon's platform, the base first. NotFound when there is no such
// image, NotImplemented from a daemon that is not Slipway's.
func (c *Client) LazyLayers(ctx context.Context, image string) ([]LazyLayer, error) {
	r, err := slipwayapi.NewLazyClient(c.conn).Layers(ctx, &slipwayapi.LazyLayersRequest{Image: image})
	if err != nil {
		return nil, err
	}
	layers := make([]LazyLayer, len(r.Layers))
	for i, w := range r.Layers {
		layers[i] = LazyLayer{
			Digest: digest.Digest(w.Digest), Size: w.Size, ChainID: digest.Digest(w.ChainId), Mode: w.Mode, Reason: w.Reason,
			Index: w.Index, Origin: w.Origin, Error: w.Error,
		}
		if w.Mode == LayerLazy {
			layers[i].Reads = &LayerReads{
				Files: w.FileBytes, Here: w.HereBytes, Demand: w.DemandBytes, Profile: w.ProfileBytes, Background: w.BackgroundBytes,
				Read: w.ReadBytes, Count: w.Reads, Waited: w.WaitedReads, Failed: w.ReadErrors, HitRate: hitRate(w.Reads, w.WaitedReads),
			}
		}
	}
	return layers, nil
}

// waitProgress is how often is asked how much is here.
const waitProgress = 250 * time.Millisecond

// WaitLazy hurries the layers of the image of that full name that are still in their registry, and returns when all are here. Until
// then progress, which may be nil, is called from one goroutine with the events downloading, extracting and complete of these layers.
func (c *Client) WaitLazy(ctx context.Context, image string, progress func(Progress)) error {
	if progress == nil {
		return c.waitLazy(ctx, image)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.waitLazy(ctx, image) }()
	ticker := time.NewTicker(waitProgress)
	defer ticker.Stop()
	waited := map[digest.Digest]bool{}
	for {
		layers, _ := c.LazyLayers(ctx, image) // what is wrong, waitLazy says
		for _, l := range layers {
			if p, ok := l.progress(image, waited); ok {
				progress(p)
			}
		}
		select {
		case err := <-done:
			for _, l := range layers {
				if err == nil && waited[l.Digest] {
					progress(Progress{Event: "complete", Name: "layer-" + l.Digest.String(), Parents: []string{image}, Offset: l.Size, Total: l.Size, Digest: l.Digest.String()})
				}
			}
			return err
		case <-ticker.C:
		}
	}
}

// progress is how far a layer is that is on its way, which is then noted in waited.
func (l LazyLayer) progress(image string, waited map[digest.Digest]bool) (Progress, bool) {
	if l.Mode != LayerLazy {
		return Progress{}, false
	}
	waited[l.Digest] = true
	p := Progress{Event: "downloading", Name: "layer-" + l.Digest.String(), Parents: []string{image}, Offset: l.Reads.Background, Total: l.Size, Digest: l.Digest.String()}
	if p.Offset >= p.Total {
		p.Event = "extracting"
	}
	return p, true
}

func (c *Client) waitLazy(ctx context.Context, image string) error {
	_, err := slipwayapi.NewLazyClient(c.conn).Wait(ctx, &slipwayapi.LazyWaitRequest{Image: image})
	return err
}
