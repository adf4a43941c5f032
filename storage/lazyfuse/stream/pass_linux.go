package stream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"

	"github.com/slipwayd/slipway/internal/inflate"
	"github.com/slipwayd/slipway/storage/lazyfuse/fetch"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

const (
	readBytes  = 256 << 10 // of the blob, at a time
	writeBytes = 128 << 10 // of the uncompressed layer
	maxWindow  = 128 << 20 // of zstd, as much as pulling a layer allows
	// maxUnpacked is how many bytes an uncompressed layer may have, as many as for a pull.
	maxUnpacked = 256 << 30

	againAfter = time.Second            // after what the registry did not deliver
	lookEvery  = 100 * time.Millisecond // for whether the files are in place: whichever process dies, nobody has to tell another
)

// run is the layer's life: the pass, and then the files that slipwayd has put in place.
func (l *Layer) run(ctx context.Context) {
	err := l.pass(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		l.cfg.Log.Error("a layer is served no more before it has arrived", "layer", l.cfg.Desc.Digest, "error", errors.Join(err, l.passed.spoil()))
		l.fail(err)
		return
	}
	for ticker := time.NewTicker(lookEvery); ; {
		if done := l.arrive(); done {
			ticker.Stop()
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			ticker.Stop()
			return
		}
	}
}

// pass reads all of the blob. An error is the layer's fault or this host's, not the registry's: that is asked again and again.
func (l *Layer) pass(ctx context.Context) error {
	src := &blob{l: l, ctx: ctx, sum: l.cfg.Desc.Digest.Algorithm().Hash()}
	r, err := decompress(src)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, writeBytes)
	for at := int64(0); ; {
		n, err := r.Read(buf)
		if n > 0 {
			if err := l.take(buf[:n], at); err != nil {
				return err
			}
			at += int64(n)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot decompress it: %w", err)
		}
	}
	if _, err := io.Copy(io.Discard, src); err != nil {
		return err
	}
	if got, want := fmt.Sprintf("%x", src.sum.Sum(nil)), l.cfg.Desc.Digest.Encoded(); got != want {
		return fmt.Errorf("the blob has digest %s, not %s: %w", got, want, errdefs.ErrDataLoss)
	}
	return nil
}

// take keeps the next bytes of the uncompressed layer, and shows what they tell.
func (l *Layer) take(p []byte, at int64) error {
	if at+int64(len(p)) > maxUnpacked {
		return fmt.Errorf("it has more than %d bytes: %w", int64(maxUnpacked), errdefs.ErrOutOfRange)
	}
	if room := l.cfg.Room; room != nil && !room(int64(len(p))) {
		return fmt.Errorf("cannot keep what has come, there is no room in %s: %w", l.cfg.Dir, errdefs.ErrResourceExhausted)
	}
	if _, err := l.spool.WriteAt(p, at); err != nil {
		return fmt.Errorf("cannot keep what has come: %w", err)
	}
	_, _ = l.growing.Write(p) // Err tells
	l.change(func() { l.came = at + int64(len(p)) })
	if err := l.growing.Err(); errors.Is(err, index.ErrTakenBack) {
		return err
	}
	return nil
}

// blob reads the layer's blob for one pass, notes what was seen, and waits out a registry that does not deliver. It keeps its context
// because io.Reader has no place for one.
type blob struct {
	l   *Layer
	ctx context.Context
	at  int64
	sum hash.Hash
}

func (b *blob) Read(p []byte) (int, error) {
	want := min(int64(len(p)), readBytes, b.l.cfg.Desc.Size-b.at)
	if want <= 0 {
		return 0, io.EOF
	}
	p = p[:b.l.passed.until(b.at, want)]
	for {
		err := b.l.cfg.Blob.ReadAt(b.ctx, fetch.Foreground, p, b.at)
		if err == nil {
			break
		}
		if b.ctx.Err() != nil {
			return 0, b.ctx.Err()
		}
		b.l.upset(err)
		select {
		case <-time.After(againAfter):
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
	b.at += int64(len(p))
	b.sum.Write(p)
	if err := b.l.passed.note(b.at, b.sum.Sum(nil)); err != nil {
		return 0, err
	}
	b.l.change(func() { b.l.held = b.l.passed.held(b.at) })
	b.l.read.Store(b.at)
	return len(p), nil
}

// decompress tells the compression by the first bytes, as unpacking does.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, readBytes)
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return inflate.NewReader(b)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		d, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

// arrive serves the layer's files if they are in place, and says whether they are.
func (l *Layer) arrive() bool {
	if st, err := os.Lstat(l.cfg.Files); err != nil || !st.IsDir() {
		return false // err: the layer is being removed
	}
	t, err := openTree(l.cfg.Files, l.growing)
	if err != nil {
		l.cfg.Log.Error("cannot serve the files of a layer that has arrived", "layer", l.cfg.Desc.Digest, "error", err)
		l.upset(err)
		return false
	}
	l.reading.Lock()
	defer l.reading.Unlock()
	l.change(func() { l.whole.Store(t) })
	if err := l.spool.Close(); err != nil {
		l.cfg.Log.Warn("cannot close what was kept of a layer", "layer", l.cfg.Desc.Digest, "error", err)
	}
	return true
}
