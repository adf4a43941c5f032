package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
	"github.com/slipwayd/slipway/image/reference"
	"github.com/slipwayd/slipway/image/registry"
)

// refKey names the ingest of a blob as containerd's clients do, so that an ingest they began is resumed and theirs resume ours.
func refKey(d ocispec.Descriptor) string { return kind(d.MediaType) + "-" + d.Digest.String() }

// fetcher brings blobs of one repository into the store.
type fetcher struct {
	store  Store
	remote *registry.Remote
	limits Limits
	pace   func(ctx context.Context, n int) error                      // before each read, with the bytes of the last one; may be nil
	near   func(ctx context.Context, off int64) (io.ReadCloser, error) // as FillOptions say

	sent    []byte // the manifest that came with its name
	sentFor digest.Digest
}

// sourceLabels say where a blob came from, for pushes that may mount it.
func sourceLabels(ref reference.Ref) map[string]string {
	return map[string]string{"containerd.io/distribution.source." + ref.Host: ref.Repository}
}

func (f *fetcher) labels() map[string]string { return sourceLabels(f.remote.Ref()) }

// found reports whether the blob is here, and then notes the repository as one more source of it.
func (f *fetcher) found(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	_, err := f.store.Info(ctx, d.Digest)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot look for blob %s: %w", d.Digest, err)
	}
	labels, err := f.store.Labels(ctx, d.Digest)
	if err != nil {
		return false, fmt.Errorf("cannot read the labels of blob %s: %w", d.Digest, err)
	}
	for key, repo := range f.labels() {
		var known []string
		if labels[key] != "" {
			known = strings.Split(labels[key], ",")
		}
		if slices.Contains(known, repo) || len(key)+len(labels[key])+1+len(repo) > 4096 {
			continue
		}
		known = append(known, repo)
		slices.Sort(known)
		if err := f.store.SetLabels(ctx, d.Digest, map[string]string{key: strings.Join(known, ",")}); err != nil {
			return false, fmt.Errorf("cannot label blob %s: %w", d.Digest, err)
		}
	}
	return true, nil
}

// bytes fetches a small blob, checked, and keeps it in the store; labels are computed from the bytes and may refuse them.
func (f *fetcher) bytes(ctx context.Context, d ocispec.Descriptor, limit int64, p *Part, labels func([]byte) (map[string]string, error)) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("%s %s has %d bytes, more than the %d allowed: %w", kind(d.MediaType), d.Digest, d.Size, limit, errdefs.ErrOutOfRange)
	}
	here, err := f.found(ctx, d)
	if err != nil {
		return nil, err
	}
	if here {
		data, err := readBlob(ctx, f.store, d, limit)
		if err != nil {
			return nil, err
		}
		if l, err := labels(data); err != nil {
			return nil, err
		} else if err := f.addLabels(ctx, d, l); err != nil {
			return nil, err
		}
		p.Enter(Exists)
		return data, nil
	}
	p.Enter(Downloading)
	data := f.sent
	if d.Digest != f.sentFor || data == nil {
		if data, err = f.download(ctx, d); err != nil {
			return nil, err
		}
	}
	l, err := labels(data)
	if err != nil {
		return nil, err
	}
	for k, v := range f.labels() {
		l[k] = v
	}
	if err := writeBlob(ctx, f.store, d, data, l); err != nil {
		return nil, err
	}
	p.Enter(Done)
	return data, nil
}

// addLabels sets what is missing, for a blob that came here without its edges, such as one a client wrote.
func (f *fetcher) addLabels(ctx context.Context, d ocispec.Descriptor, want map[string]string) error {
	have, err := f.store.Labels(ctx, d.Digest)
	if err != nil {
		return fmt.Errorf("cannot read the labels of blob %s: %w", d.Digest, err)
	}
	missing := map[string]string{}
	for k, v := range want {
		if have[k] != v {
			missing[k] = v
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := f.store.SetLabels(ctx, d.Digest, missing); err != nil {
		return fmt.Errorf("cannot label blob %s: %w", d.Digest, err)
	}
	return nil
}

func (f *fetcher) download(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	for {
		data, err := f.downloadOnce(ctx, d)
		if err == nil {
			if err = checkSent(d, data); err == nil {
				return data, nil
			}
			if f.remote.Distrust(d.Digest) {
				continue
			}
		}
		return nil, err
	}
}

func checkSent(d ocispec.Descriptor, data []byte) error {
	if got := d.Digest.Algorithm().FromBytes(data); got != d.Digest {
		return fmt.Errorf("the registry sent bytes with digest %s for %s: %w", got, d.Digest, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (f *fetcher) downloadOnce(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	r, err := f.remote.Fetch(ctx, d, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data := make([]byte, d.Size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != io.EOF {
		return nil, err
	}
	return data, nil
}

// writeBlob stores bytes that are known to be d's.
func writeBlob(ctx context.Context, s Store, d ocispec.Descriptor, data []byte, labels map[string]string) error {
	w, err := openWriter(ctx, s, d, labels)
	if errdefs.IsAlreadyExists(err) {
		return s.SetLabels(ctx, d.Digest, labels)
	}
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Truncate(0); err != nil {
		return fmt.Errorf("cannot begin %s anew: %w", d.Digest, err)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("cannot write %s: %w", d.Digest, err)
	}
	if err := w.Commit(ctx, int64(len(data)), d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("cannot commit %s: %w", d.Digest, err)
	}
	return nil
}

// openWriter waits while somebody else writes the same blob: when they are done it is AlreadyExists, when they give up we go on.
func openWriter(ctx context.Context, s Store, d ocispec.Descriptor, labels map[string]string) (content.Writer, error) {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		w, err := s.Writer(ctx, refKey(d), d, labels)
		if err == nil || errdefs.IsAlreadyExists(err) {
			return w, err
		}
		if !errdefs.IsUnavailable(err) {
			return nil, fmt.Errorf("cannot open an ingest for %s: %w", d.Digest, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("%s is being written by somebody else: %w", d.Digest, context.Cause(ctx))
		}
	}
}

// blob brings a blob into the store, and when to is not nil sends all of its bytes there too: while they arrive, or from the
// store when they are there already or were begun by an earlier pull.
func (f *fetcher) blob(ctx context.Context, d ocispec.Descriptor, to *pipe, p *Part) error {
	if d.Size > f.limits.Blob {
		return fmt.Errorf("%s %s has %d bytes, more than the %d allowed: %w", kind(d.MediaType), d.Digest, d.Size, f.limits.Blob, errdefs.ErrOutOfRange)
	}
	here, err := f.found(ctx, d)
	if err != nil {
		return err
	}
	if !here {
		p.Enter(Waiting)
		streamed, err := f.ingest(ctx, d, to, p)
		if err != nil {
			return err
		}
		if streamed || to == nil {
			return nil
		}
	}
	if to == nil {
		p.Enter(Exists)
		return nil
	}
	return sendBlob(ctx, f.store, d, to, p)
}

// ingest downloads a blob. streamed is whether all of it was sent to the pipe.
func (f *fetcher) ingest(ctx context.Context, d ocispec.Descriptor, to *pipe, p *Part) (streamed bool, err error) {
	w, err := openWriter(ctx, f.store, d, f.labels())
	if errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer w.Close()
	status, err := w.Status()
	if err != nil {
		return false, fmt.Errorf("cannot read the ingest of %s: %w", d.Digest, err)
	}
	offset := status.Offset
	if offset > d.Size {
		if err := w.Truncate(0); err != nil {
			return false, fmt.Errorf("cannot begin %s anew: %w", d.Digest, err)
		}
		offset = 0
	}
	if offset > 0 {
		to = nil // its beginning is not in memory; it is unpacked from the store
	}
	p.Enter(Downloading)
	if err := f.copy(ctx, d, w, offset, to, p); err != nil {
		return false, err
	}
	if to == nil {
		defer p.Enter(Done)
	} else {
		p.Enter(Unpacking)
	}
	err = w.Commit(ctx, d.Size, d.Digest)
	if errdefs.IsFailedPrecondition(err) {
		// What is there is wrong from the start: a repeated pull must not resume it.
		if abortErr := f.store.Abort(context.WithoutCancel(ctx), refKey(d)); abortErr != nil {
			return false, errors.Join(err, abortErr)
		}
		// Who sent what of an ingest that was resumed, or came from near, is not known. The first time it is they that get the blame.
		again := status.Offset > 0 || f.near != nil || f.remote.Distrust(d.Digest)
		f.near = nil
		if again && to == nil {
			return f.ingest(ctx, d, nil, p)
		}
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return false, fmt.Errorf("cannot commit %s from %s: %w", d.Digest, f.remote.Ref().Name(), err)
	}
	return to != nil, nil
}

// elsewhere answers whether it was because of wrong bytes of d that a layer could not be unpacked while they came, and has
// then put the right ones, of another host, into the store.
func (f *fetcher) elsewhere(ctx context.Context, d ocispec.Descriptor, p *Part, err error) bool {
	wrong := errdefs.IsFailedPrecondition(err) || errdefs.IsInvalidArgument(err) || errdefs.IsDataLoss(err) || errors.Is(err, io.ErrUnexpectedEOF)
	if !wrong || !f.remote.Mirrored() || ctx.Err() != nil {
		return false
	}
	return f.blob(ctx, d, nil, p) == nil && f.remote.Distrusted(d.Digest)
}

// copy downloads from offset on into the writer and the pipe, in blocks.
func (f *fetcher) copy(ctx context.Context, d ocispec.Descriptor, w io.Writer, offset int64, to *pipe, p *Part) error {
	if offset == d.Size && offset > 0 {
		return nil
	}
	r, err := f.open(ctx, d, offset)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		b := block{data: blocks.Get().(*[blockSize]byte)}
		var err error
		for b.n < blockSize/4 && err == nil { // full blocks are cheaper, but what a slow line brings is to be seen
			var n int
			n, err = r.Read(b.data[b.n:])
			b.n += n
		}
		offset += int64(b.n)
		if _, werr := w.Write(b.data[:b.n]); werr != nil {
			return fmt.Errorf("cannot write %s: %w", d.Digest, werr)
		}
		p.At(offset)
		if f.pace != nil && err == nil {
			err = f.pace(ctx, b.n)
		}
		if to == nil || b.n == 0 {
			blocks.Put(b.data)
		} else if sendErr := to.send(b); sendErr != nil {
			return sendErr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
