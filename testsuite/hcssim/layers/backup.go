package layers

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

// Backup streams are what BackupRead answers: WIN32_STREAM_ID headers (winbase.h), each with its name and its data.
const (
	streamHeader  = 20
	streamData    = 1
	streamSparse  = 9
	maxStreamName = 1024
	maxMetadata   = 1 << 20 // of all streams of a file but its data
)

// splitStreams reads a file's backup streams: the data goes to w, all others are answered as they came.
func splitStreams(r io.Reader, w io.Writer) ([]byte, error) {
	var rest []byte
	var last uint32
	for {
		var head [streamHeader]byte
		if _, err := io.ReadFull(r, head[:]); err == io.EOF {
			return rest, nil
		} else if err != nil {
			return nil, corrupt(err)
		}
		id, size, names := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint64(head[8:]), binary.LittleEndian.Uint32(head[16:])
		switch {
		case id == 0 || id > 10 || names > maxStreamName || size > 1<<62:
			return nil, hresult.New(hresult.InvalidData, "a backup stream of kind %d, %d bytes and a name of %d", id, size, names)
		case id == streamData && last == streamData:
			return nil, hresult.New(hresult.InvalidData, "a file with two streams of data")
		case id == streamSparse:
			return nil, hresult.New(hresult.NotSupported, "sparse files are not simulated")
		}
		last = id
		if id == streamData {
			if _, err := io.CopyN(w, r, int64(names)+int64(size)); err != nil {
				return nil, corrupt(err)
			}
			continue
		}
		if uint64(len(rest))+uint64(names)+size > maxMetadata {
			return nil, hresult.New(hresult.InvalidData, "a file with more than %d bytes of metadata", maxMetadata)
		}
		b := make([]byte, uint64(names)+size)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, corrupt(err)
		}
		rest = append(append(rest, head[:]...), b...)
	}
}

func corrupt(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return hresult.New(hresult.InvalidData, "backup streams end too early")
	}
	return err
}

// dataHeader begins the stream with a file's data.
func dataHeader(size int64) []byte {
	b := make([]byte, streamHeader)
	binary.LittleEndian.PutUint32(b, streamData)
	binary.LittleEndian.PutUint64(b[8:], uint64(size))
	return b
}
