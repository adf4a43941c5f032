package metadata

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// smallFile is a file of few pages: small buckets are inline in the root.
func smallFile(t testing.TB) []byte {
	path := filepath.Join(t.TempDir(), "small.db")
	b, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 1024, NoFreelistSync: true, NoGrowSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := migrate(b, migrations); err != nil {
		t.Fatal(err)
	}
	if err := b.Update(func(tx *bbolt.Tx) error {
		for i := range 30 {
			if err := tx.Bucket([]byte(bucketBlobs)).Put([]byte("ns"+separator+dgst(i).String()), []byte("{}")); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestCheckFile(t *testing.T) {
	data := smallFile(t)
	if err := checkFile(bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	if err := checkFile(bytes.NewReader(nil), 0); err == nil {
		t.Error("an empty file is sound")
	}
	if err := checkFile(bytes.NewReader(data[:5*1024]), 5*1024); err == nil {
		t.Error("a cut file is sound")
	}
}

func FuzzCheckFile(f *testing.F) {
	data := smallFile(f)
	f.Add(data[:2048], data[2048:])
	f.Fuzz(func(t *testing.T, meta, pages []byte) {
		// The metas are checked by their sums, so that changed ones are refused at once: keep those of the seed too.
		for _, file := range [][]byte{append(bytes.Clone(meta), pages...), append(bytes.Clone(data[:2048]), pages...)} {
			_ = checkFile(bytes.NewReader(file), int64(len(file))) // it must end, and not panic
		}
	})
}
