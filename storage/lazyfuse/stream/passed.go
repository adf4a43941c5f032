package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
)

// passed is the file that tells what of the blob servers have seen: the number of bytes (8 bytes, little-endian; all ones when the layer
// was wrong), and their digest. It is for the life of a mount, so it need not outlive the host.
type passed struct {
	file *os.File
	n    int64 // that were seen before this server
	sum  []byte
}

const wrong = -1

func openPassed(name string) (*passed, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open what tells how much of a layer has passed: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	p := &passed{file: f}
	if len(data) > 8 {
		p.n, p.sum = int64(binary.LittleEndian.Uint64(data)), data[8:]
	}
	return p, nil
}

// held says whether a server before has seen more than n bytes.
func (p *passed) held(n int64) bool { return n < p.n }

// until is how many bytes may be read at n for the digests to meet.
func (p *passed) until(n, want int64) int64 {
	if n < p.n {
		return min(want, p.n-n)
	}
	return want
}

// note has the next server expect these bytes. DataLoss when a server before has seen others. One write survives any kill whole.
func (p *passed) note(n int64, sum []byte) error {
	switch {
	case p.n == wrong, n == p.n && !bytes.Equal(sum, p.sum):
		return fmt.Errorf("the registry sends other bytes than before: %w", errdefs.ErrDataLoss)
	case n <= p.n:
		return nil
	}
	return p.write(n, sum)
}

func (p *passed) write(n int64, sum []byte) error {
	if _, err := p.file.WriteAt(append(binary.LittleEndian.AppendUint64(nil, uint64(n)), sum...), 0); err != nil {
		return fmt.Errorf("cannot note how much of a layer has passed: %w", err)
	}
	return nil
}

// spoil has no server show the layer again.
func (p *passed) spoil() error { return p.write(wrong, make([]byte, max(1, len(p.sum)))) }

// remove is for when the kernel has forgotten the layer.
func (p *passed) remove() error {
	err := os.Remove(p.file.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, p.file.Close())
}
