package index

import (
	"sync"

	"github.com/klauspost/compress/zstd"
)

const windowSize = 32 << 10

// packer compresses windows. The same window gives the same bytes. A better level takes three times as long for one percent.
var packer = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(windowSize), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err) // the options are constant
	}
	return e
})

var unpacker = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(windowSize), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // the options are constant
	}
	return d
})

func pack(window []byte) []byte {
	if len(window) == 0 {
		return nil
	}
	return packer().EncodeAll(window, make([]byte, 0, len(window)/2))
}

func unpack(packed []byte) ([]byte, error) {
	if len(packed) == 0 {
		return nil, nil
	}
	window, err := unpacker().DecodeAll(packed, make([]byte, 0, windowSize))
	if err != nil || len(window) > windowSize {
		return nil, invalid("a checkpoint's window is damaged")
	}
	return window, nil
}
