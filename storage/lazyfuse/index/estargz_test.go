package index

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// made is a blob with a table of contents that package estargz wrote.
func made(t testing.TB, plain []byte, opts ...estargz.Option) (blob []byte, annotations map[string]string) {
	t.Helper()
	b, err := estargz.Build(io.NewSectionReader(bytes.NewReader(plain), 0, int64(len(plain))), opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if blob, err = io.ReadAll(b); err != nil {
		t.Fatal(err)
	}
	return blob, map[string]string{tocAnnotation: b.TOCDigest().String()}
}

func open(t testing.TB, blob []byte, annotations map[string]string) *Index {
	t.Helper()
	tail := blob[max(0, len(blob)-TailSize):]
	table, err := Locate(annotations, tail, int64(len(blob)))
	if err != nil {
		t.Fatal(err)
	}
	x, err := table.Parse(blob[table.Offset:table.Offset+table.Length], int64(len(blob)), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// forTables is the entries without those that a later one replaces, which tables of contents do not allow, and without
// parts of seconds, which eStargz does not keep.
func forTables(items []item) []item {
	var out []item
	for _, it := range items {
		if it.Name != "again" && !strings.HasPrefix(it.Name, "tree/a") {
			it.ModTime = it.ModTime.Truncate(time.Second)
			out = append(out, it)
		}
	}
	return out
}

func TestEStargz(t *testing.T) {
	plain := tarOf(t, forTables(allTypes(severalChunks)))
	for name, opts := range map[string][]estargz.Option{
		"plain":       nil,
		"chunks":      {estargz.WithChunkSize(64 << 10)},
		"merged":      {estargz.WithChunkSize(64 << 10), estargz.WithMinChunkSize(50_000)},
		"prioritised": {estargz.WithPrioritizedFiles([]string{"last", "usr/bin/third"})},
	} {
		t.Run(name, func(t *testing.T) {
			blob, annotations := made(t, plain, opts...)
			x := open(t, blob, annotations)
			want := describe(t, record(t, blob), blob) // what unpacking the blob makes
			same(t, "tree", describe(t, x, blob), want)
			if x.Kind() != EStargz || (name == "prioritised") != (x.PrefetchEnd() > 0) {
				t.Errorf("kind %s, prefetch to %d", x.Kind(), x.PrefetchEnd())
			}
			again, err := Parse(x.Marshal(), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			same(t, "parsed tree", describe(t, again, blob), want)
		})
	}
}

// TestEStargzTrust believes no table that the manifest does not vouch for.
func TestEStargzTrust(t *testing.T) {
	blob, annotations := made(t, tarOf(t, []item{reg("a", []byte("b"))}))
	if _, err := Locate(nil, blob, int64(len(blob))); !errdefs.IsNotImplemented(err) {
		t.Errorf("without annotation: %v", err)
	}
	table, err := Locate(annotations, blob, int64(len(blob)))
	if err != nil {
		t.Fatal(err)
	}
	table.Digest = digest.FromString("another")
	if _, err := table.Parse(blob[table.Offset:table.Offset+table.Length], int64(len(blob)), Limits{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("with a wrong digest: %v", err)
	}
	plain := gzipped(6)([]byte("plain"))
	if _, err := Locate(annotations, plain, int64(len(plain))); !errdefs.IsNotFound(err) {
		t.Errorf("without a table: %v", err)
	}
}

func TestStargzFooter(t *testing.T) {
	legacy := estargz.CreateGzipFooter([]byte(fmt.Sprintf("%016xSTARGZ", 0x1234)))
	if len(legacy) != stargzFooter {
		t.Fatalf("%d bytes", len(legacy))
	}
	for _, c := range []struct {
		tail []byte
		blob int64
		want int64
	}{
		{legacy, 1 << 20, 0x1234},
		{append([]byte("before"), legacy...), 1 << 20, 0x1234},
		{legacy, 0x1234, 0},
		{legacy[1:], 1 << 20, 0},
		{estargz.CreateGzipFooter([]byte(strings.Repeat("z", 16) + "STARGZ")), 1 << 20, 0},
		{estargz.CreateGzipFooter([]byte("-000000000000001STARGZ")), 1 << 20, 0},
		{nil, 0, 0},
	} {
		if at, _, _ := parseStargzFooter(c.tail, c.blob); at != c.want {
			t.Errorf("%q: %d, want %d", c.tail, at, c.want)
		}
	}
}

// testTable is a table of contents as it would be in a blob.
type testTable struct {
	packed []byte
	sum    digest.Digest
	blob   int64
}

func (tt testTable) parse(l Limits) (*Index, error) {
	return FromEStargz(tt.packed, tt.blob+int64(len(tt.packed)), tt.blob-1, tt.sum, l)
}

// tableOf packs JSON that write makes; size is how much it will be.
func tableOf(t testing.TB, size int64, blob int64, write func(io.Writer) error) testTable {
	t.Helper()
	var b bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&b, 1)
	tw := tar.NewWriter(zw)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: tocName, Size: size}); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if err := write(io.MultiWriter(tw, h)); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return testTable{b.Bytes(), digest.NewDigest(digest.SHA256, h), blob}
}

func jsonTable(t testing.TB, text string) testTable {
	t.Helper()
	return tableOf(t, int64(len(text)), 1<<30, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// tocOf is a table of n files of 1000 bytes in directories of a hundred.
func tocOf(t testing.TB, n int) testTable {
	t.Helper()
	toc := estargz.JTOC{Version: 1}
	for i := range n {
		sum := digest.FromString(fmt.Sprint(i)).String()
		toc.Entries = append(toc.Entries, &estargz.TOCEntry{
			Name: fmt.Sprintf("usr/lib/python3/dist-packages/module%d/name_of_file%d.py", i/100, i), Type: "reg", Size: 1000, Mode: 0o644,
			ModTime3339: "2024-01-02T03:04:05Z", Offset: int64(1 + 500*i), Digest: sum, ChunkDigest: sum,
		})
	}
	text, err := json.MarshalIndent(toc, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return jsonTable(t, string(text))
}
