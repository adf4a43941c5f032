// Package opaque holds the one type for values that a client typed and Slipway only carries. It imports nothing.
package opaque

// Any is google.protobuf.Any without protobuf: a type URL and bytes, kept as they came.
type Any struct {
	TypeURL string `json:"t,omitempty"`
	Value   []byte `json:"v,omitempty"`
}
