package lazyindex

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	flatbuffers "github.com/google/flatbuffers/go"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image"
	"github.com/slipwayd/slipway/storage/lazyfuse/index"
)

// table writes a FlatBuffers table; nil leaves a field out.
func table(b *flatbuffers.Builder, fields ...any) flatbuffers.UOffsetT {
	for i, f := range fields {
		switch v := f.(type) {
		case string:
			fields[i] = b.CreateString(v)
		case []byte:
			fields[i] = b.CreateByteVector(v)
		case []flatbuffers.UOffsetT:
			b.StartVector(4, len(v), 4)
			for _, o := range slices.Backward(v) {
				b.PrependUOffsetT(o)
			}
			fields[i] = b.EndVector(len(v))
		}
	}
	b.StartObject(len(fields))
	for i, f := range fields {
		switch v := f.(type) {
		case int64:
			b.PrependInt64Slot(i, v, 0)
		case byte:
			b.PrependByteSlot(i, v, 0)
		case flatbuffers.UOffsetT:
			b.PrependUOffsetTSlot(i, v, 0)
		}
	}
	return b.EndObject()
}

// tarWithZTOC is an uncompressed layer of one file, and its zTOC with one span.
func tarWithZTOC(t *testing.T) (layer, ztoc []byte) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	data := noise(1, 3000)
	err := w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Size: int64(len(data))})
	if err == nil {
		_, err = w.Write(data)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	layer = buf.Bytes()
	size := int64(len(layer))
	spans := flatbuffers.NewBuilder(0)
	spans.Finish(table(spans, nil, size, size))
	b := flatbuffers.NewBuilder(0)
	file := table(b, "hello", "reg", int64(512), int64(len(data)), "", int64(0o644))
	toc := table(b, []flatbuffers.UOffsetT{file})
	info := table(b, byte(2), nil, []flatbuffers.UOffsetT{b.CreateString(digest.FromBytes(layer).String())}, spans.FinishedBytes())
	b.Finish(table(b, "0.9", "test", size, size, toc, info))
	return layer, b.FinishedBytes()
}

func TestSOCI(t *testing.T) {
	layer, ztoc := tarWithZTOC(t)
	for name, c := range map[string]struct {
		kind    string
		trust   Trust
		spoil   func(*ocispec.Manifest)
		blob    []byte // in the place of the zTOC
		believe bool
	}{
		"v1":                   {kind: sociV1, trust: Trust{Registry: true}, believe: true},
		"v1 without a say":     {kind: sociV1, trust: Trust{Keys: []ed25519.PublicKey{public(1)}}},
		"v2":                   {kind: sociV2, believe: true},
		"v2 of another digest": {kind: sociV2, spoil: func(m *ocispec.Manifest) { m.Annotations = map[string]string{"spoilt": "yes"} }},
		"v1 of another image":  {kind: sociV1, trust: Trust{Registry: true}, spoil: func(m *ocispec.Manifest) { m.Subject.Digest = digest.FromString("other") }},
		"other layer": {kind: sociV2, spoil: func(m *ocispec.Manifest) {
			m.Layers[0].Annotations[sociLayerAnnotation] = digest.FromString("x").String()
		}},
		"no layer":               {kind: sociV1, trust: Trust{Registry: true}, spoil: func(m *ocispec.Manifest) { m.Layers[0].Annotations = nil }},
		"one layer twice":        {kind: sociV1, trust: Trust{Registry: true}, spoil: func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }},
		"huge zTOC":              {kind: sociV1, trust: Trust{Registry: true}, spoil: func(m *ocispec.Manifest) { m.Layers[0].Size = 1 << 40 }},
		"zTOC with a bad digest": {kind: sociV1, trust: Trust{Registry: true}, spoil: func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../x" }},
		"other zTOC":             {kind: sociV2, blob: noise(1, len(ztoc))},
		"garbage in the zTOC's place": {kind: sociV1, trust: Trust{Registry: true}, spoil: func(m *ocispec.Manifest) {
			m.Layers[0].Digest, m.Layers[0].Size = digest.FromBytes(noise(7, 500)), 500
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			l := image.Layer{Desc: describe(ocispec.MediaTypeImageLayer, layer), DiffID: digest.FromBytes(layer)}
			d := describe("application/octet-stream", ztoc)
			d.Annotations = map[string]string{sociLayerAnnotation: l.Desc.Digest.String()}
			w.PutBlob(d.Digest, ztoc)
			w.PutBlob(digest.FromBytes(noise(7, 500)), noise(7, 500))
			m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: describe(c.kind, []byte("{}")), Layers: []ocispec.Descriptor{d}}
			m.SchemaVersion = 2
			if c.kind == sociV1 {
				subject := w.image
				m.Subject = &subject
			}
			named := marshal(t, m)
			if c.spoil != nil {
				c.spoil(&m)
			}
			data := marshal(t, m)
			if c.kind == sociV2 && name != "v2 of another digest" {
				named = data
			}
			w.PutManifest("app", digest.FromBytes(named).String(), m.MediaType, data)
			if c.kind == sociV2 {
				w.image.Annotations = map[string]string{sociAnnotation: digest.FromBytes(named).String()}
			}
			if c.blob != nil {
				w.PutBlob(d.Digest, c.blob)
			}
			x, err := w.lookup(t, c.trust).Find(ctx, l)
			if (err == nil) != c.believe {
				t.Fatalf("found %q, %v", x.Origin, err)
			}
			if err != nil {
				return
			}
			parsed, err := index.Parse(x.Document, index.Limits{})
			if err != nil || x.Own || x.Kind != string(index.SOCI) {
				t.Fatalf("%s, own %v: %v", x.Kind, x.Own, err)
			}
			if at, ok := parsed.Find("hello"); !ok || parsed.Node(at).Size != 3000 {
				t.Error("the file is not in it")
			}
		})
	}
}

func marshal(t *testing.T, m ocispec.Manifest) []byte {
	t.Helper()
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
