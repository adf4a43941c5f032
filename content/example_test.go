package content_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/content"
)

// An ingest is begun, left half-way, resumed and committed.
func ExampleFS_Writer() {
	dir, err := os.MkdirTemp("", "content")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := content.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	ctx := context.Background()
	blob := "all the bytes of a layer"
	desc := ocispec.Descriptor{Digest: digest.FromString(blob), Size: int64(len(blob))}
	for range 2 {
		w, err := store.Writer(ctx, "pull/layer-1", desc)
		if err != nil {
			log.Fatal(err)
		}
		st, err := w.Status()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("resumed at", st.Offset)
		rest := strings.NewReader(blob[st.Offset:min(int(st.Offset)+12, len(blob))])
		if _, err := rest.WriteTo(w); err != nil {
			log.Fatal(err)
		}
		if st.Offset == 0 {
			err = w.Close() // the connection broke
		} else {
			err = w.Commit(ctx, desc.Size, desc.Digest)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
	data, err := content.ReadAll(ctx, store, desc, 1<<20)
	fmt.Println(string(data), err)
	// Output:
	// resumed at 0
	// resumed at 12
	// all the bytes of a layer <nil>
}
