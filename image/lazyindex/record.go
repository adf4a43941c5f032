package lazyindex

import (
	"fmt"
	"io"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// Wants says whether the index of a layer is worth recording: it has no table of contents of its own, is not so small that it
// is here as soon as its index would be, and is not known already. It is part of image.Recorder.
func (s *Store) Wants(l image.Layer) bool {
	_, err := s.path(l.Desc.Digest)
	return err == nil && l.Desc.Size >= index.TailSize && !index.Promised(l.Desc.Annotations) && !s.Has(l.Desc.Digest)
}

// Record decompresses a layer and makes its index on the way. It is part of image.Recorder.
func (s *Store) Record(l image.Layer, blob io.Reader) (image.Recording, error) {
	r, err := index.NewRecorder(blob, index.Limits{})
	if err != nil {
		return nil, err
	}
	return &recording{Recorder: r, store: s, layer: l}, nil
}

// Make records the index of a layer whose blob is here, checked against its digest. Blobs that cannot be indexed are noted, as
// Get then says.
func (s *Store) Make(l image.Layer, blob io.Reader) error {
	check := l.Desc.Digest.Verifier()
	r, err := s.Record(l, io.TeeReader(blob, check))
	if err != nil {
		return fmt.Errorf("cannot decompress layer %s: %w", l.Desc.Digest, err)
	}
	defer r.Close()
	if _, err := io.Copy(r, r); err != nil {
		return fmt.Errorf("cannot decompress layer %s: %w", l.Desc.Digest, err)
	}
	if !check.Verified() {
		return fmt.Errorf("layer %s has other bytes, or some after its end: %w", l.Desc.Digest, errdefs.ErrDataLoss)
	}
	r.Keep()
	return nil
}

type recording struct {
	*index.Recorder
	store *Store
	layer image.Layer
}

// Keep keeps the index, or why there is none. What goes wrong is told to the log: the layer is here all the same.
func (r *recording) Keep() {
	s, layer := r.store, r.layer.Desc.Digest
	x, err := r.Finish()
	if err == nil && x.BlobSize() != r.layer.Desc.Size {
		err = fmt.Errorf("it has %d bytes after its end", r.layer.Desc.Size-x.BlobSize())
	}
	if err != nil {
		s.log.Info("a layer cannot be served before it is here", "image", r.layer.Image, "layer", layer, "err", err)
		err = s.Refuse(layer, err)
	} else {
		err = s.Put(layer, x.Marshal())
	}
	if err != nil {
		s.log.Warn("cannot keep an index", "image", r.layer.Image, "layer", layer, "err", err)
	}
}
