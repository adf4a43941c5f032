package metadata

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
)

// Tx is one transaction, valid until the function that got it returns and in its goroutine only.
type Tx struct {
	db     *DB
	bolt   *bbolt.Tx
	lease  string
	writes *int      // number of changes so far; shared by the copies that WithLease makes
	now    time.Time // UTC
}

type leaseKey struct{}

// WithLease makes what Update creates under ctx join the lease id of its namespace.
func WithLease(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, leaseKey{}, id)
}

// LeaseFrom answers the lease of WithLease, or "".
func LeaseFrom(ctx context.Context) string {
	id, _ := ctx.Value(leaseKey{}).(string)
	return id
}

// WithLease answers the same transaction whose creations join the lease id; "" for none.
func (tx *Tx) WithLease(id string) *Tx {
	leased := *tx
	leased.lease = id
	return &leased
}

func (tx *Tx) get(bucket string, key string) []byte {
	return tx.bolt.Bucket([]byte(bucket)).Get([]byte(key))
}

func (tx *Tx) put(bucket, key string, value []byte) error {
	if !tx.bolt.Writable() {
		return fmt.Errorf("cannot write in a View, use Update: %w", errdefs.ErrFailedPrecondition)
	}
	*tx.writes++
	if err := tx.bolt.Bucket([]byte(bucket)).Put([]byte(key), value); err != nil {
		return fmt.Errorf("cannot write a record of %s: %w", bucket, err)
	}
	return nil
}

func (tx *Tx) remove(bucket, key string) error {
	if !tx.bolt.Writable() {
		return fmt.Errorf("cannot write in a View, use Update: %w", errdefs.ErrFailedPrecondition)
	}
	*tx.writes++
	if err := tx.bolt.Bucket([]byte(bucket)).Delete([]byte(key)); err != nil {
		return fmt.Errorf("cannot delete a record of %s: %w", bucket, err)
	}
	return nil
}

// scan calls fn for every key of bucket that begins with prefix and comes after prefix+after, in order, until fn says no. key is
// without the prefix; value is valid in the transaction only.
func (tx *Tx) scan(bucket, prefix, after string, fn func(key string, value []byte) (more bool, err error)) error {
	c := tx.bolt.Bucket([]byte(bucket)).Cursor()
	k, v := c.Seek([]byte(prefix + after))
	if after != "" && string(k) == prefix+after {
		k, v = c.Next()
	}
	for ; len(k) >= len(prefix) && string(k[:len(prefix)]) == prefix && k != nil; k, v = c.Next() {
		if more, err := fn(string(k[len(prefix):]), v); err != nil || !more {
			return err
		}
	}
	return nil
}

// holds says whether bucket has a key that begins with prefix.
func (tx *Tx) holds(bucket, prefix string) bool {
	found := false
	_ = tx.scan(bucket, prefix, "", func(string, []byte) (bool, error) { // fn does not fail
		found = true
		return false, nil
	})
	return found
}

// next counts up the sequence name, which never gives a number twice.
func (tx *Tx) next(name string) (uint64, error) {
	n := uint64(1)
	if v := tx.get(bucketSequences, name); len(v) == 8 {
		n += binary.BigEndian.Uint64(v)
	}
	return n, tx.put(bucketSequences, name, binary.BigEndian.AppendUint64(nil, n))
}
