package index

import (
	"github.com/opencontainers/go-digest"
)

// TailSize is how many bytes of a blob's end are worth fetching at once: the footer and, of most layers, the table of
// contents before it.
const TailSize = 512 << 10

// Table is where a layer's own table of contents is.
type Table struct {
	Kind           Kind
	Offset, Length int64         // in the blob
	Digest         digest.Digest // that the manifest vouches for; of the decompressed table in eStargz, of the compressed one in zstd:chunked
}

// Locate finds a layer's table of contents by the annotations of its descriptor and the last bytes of its blob, which may be
// nil: then only annotations count. NotFound when it has none; NotImplemented when it has one that nothing vouches for.
func Locate(annotations map[string]string, tail []byte, blob int64) (Table, error) {
	for _, prefix := range chunkedPrefixes {
		sum, position := annotations[prefix+chunkedChecksum], annotations[prefix+chunkedPosition]
		if sum == "" || position == "" {
			continue
		}
		offset, length, _, err := parseChunkedPosition(position)
		if err != nil {
			return Table{}, err
		}
		return table(ZstdChunked, offset, length, blob, blob, sum)
	}
	if offset, footer, ok := parseStargzFooter(tail, blob); ok {
		return table(EStargz, offset, blob-footer-offset, blob, blob-footer, annotations[tocAnnotation])
	}
	if offset, length, _, ok := parseChunkedFooter(tail); ok {
		sum := annotations[chunkedPrefixes[0]+chunkedChecksum]
		if sum == "" {
			sum = annotations[chunkedPrefixes[1]+chunkedChecksum]
		}
		return table(ZstdChunked, offset, length, blob, blob, sum)
	}
	return Table{}, notFound("the layer has no table of contents")
}

func table(kind Kind, offset, length, blob, end int64, sum string) (Table, error) {
	if offset <= 0 || length <= 0 || blob >= maxSize || offset > end || length > end-offset {
		return Table{}, invalid("the table of contents is outside of the blob, %d bytes at %d of %d", length, offset, blob)
	}
	if length > DefaultLimits.Bytes {
		return Table{}, tooMuch("a table of contents of %d bytes", length)
	}
	if _, err := sha256Of([]byte(sum)); sum != "" && err != nil {
		return Table{}, err
	}
	return Table{kind, offset, length, digest.Digest(sum)}, sameDigest(digest.Digest(sum), digest.Digest(sum))
}

// Parse makes the index of the table's bytes.
func (t Table) Parse(bytes []byte, blob int64, limits Limits) (*Index, error) {
	switch t.Kind {
	case EStargz:
		return FromEStargz(bytes, blob, t.Offset, t.Digest, limits)
	case ZstdChunked:
		return FromZstdChunked(bytes, blob, t.Offset, t.Digest, limits)
	}
	return nil, unsupported("table of contents of kind %q", t.Kind)
}

// Promised says whether a layer's annotations vouch for a table of contents in its blob.
func Promised(annotations map[string]string) bool {
	for _, prefix := range chunkedPrefixes {
		if annotations[prefix+chunkedChecksum] != "" {
			return true
		}
	}
	return annotations[tocAnnotation] != ""
}
