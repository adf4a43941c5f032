package layer

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/slipwayd/slipway/storage/lazyfuse/fetch"
)

// sendBytes is how much of a blob is asked for and written at a time.
const sendBytes = 256 << 10

// Send writes the blob from off on, as SendBlob does.
func (l *Layer) Send(ctx context.Context, off int64, to io.Writer) error {
	return SendBlob(ctx, l.cfg.Blob, l.BlobSize(), off, to)
}

// SendBlob writes a blob of end bytes from off on to its end: for who brings all of the layer here, so that what readers have fetched
// comes from where it is kept. It does not check the bytes. OutOfRange when off is not in the blob.
func SendBlob(ctx context.Context, blob Blob, end, off int64, to io.Writer) error {
	if off < 0 || off > end {
		return fmt.Errorf("cannot send a blob of %d bytes from %d on: %w", end, off, errdefs.ErrOutOfRange)
	}
	buf := make([]byte, min(sendBytes, end-off))
	for off < end {
		p := buf[:min(sendBytes, end-off)]
		if err := blob.ReadAt(ctx, fetch.Background, p, off); err != nil {
			return err
		}
		if _, err := to.Write(p); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}
