package metadata

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/metadata/filter"
)

// table says how records of one type are kept in a bucket.
type table[T any] struct {
	bucket  string
	noun    string // "image"
	pin     string // field of filters whose value is the key
	maxSize int    // bytes of an encoded record
	encode  func(T) ([]byte, error)
	decode  func(key string, data []byte) (T, error)
	adapt   func(T) filter.Adaptor
}

// rows is the part of a table that one namespace (and driver) sees.
type rows[T any] struct {
	tx    *Tx
	table *table[T]
	ns    string
	scope string // what all keys begin with
	err   error  // why nothing of it can be used
}

func namespaced[T any](tx *Tx, t *table[T], ns string) rows[T] {
	return rows[T]{tx: tx, table: t, ns: ns, scope: ns + separator, err: validateNamespace(ns)}
}

func (r rows[T]) cannot(verb, key string, err error) error {
	if r.ns == "" {
		return fmt.Errorf("cannot %s %s %q: %w", verb, r.table.noun, key, err)
	}
	return fmt.Errorf("cannot %s %s %q in namespace %q: %w", verb, r.table.noun, key, r.ns, err)
}

func (r rows[T]) exists(key string) bool {
	return r.tx.get(r.table.bucket, r.scope+key) != nil
}

// get is NotFound when there is no such record.
func (r rows[T]) get(key string) (record T, err error) {
	if r.err != nil {
		return record, r.err
	}
	if key == "" || len(key) > maxName {
		return record, r.cannot("find", shorten(key), errdefs.ErrNotFound)
	}
	data := r.tx.get(r.table.bucket, r.scope+key)
	if data == nil {
		return record, r.cannot("find", key, errdefs.ErrNotFound)
	}
	return r.table.read(key, data)
}

func (t *table[T]) read(key string, data []byte) (T, error) {
	record, err := t.decode(key, data)
	if err != nil {
		return record, fmt.Errorf("the record of %s %q is damaged, delete it: %w: %w", t.noun, key, err, errdefs.ErrDataLoss)
	}
	return record, nil
}

// create is AlreadyExists when there is such a record, and joins the lease of the transaction as resource (unless that is "").
func (r rows[T]) create(key, resource string, record T) error {
	if err := r.vacant(key, resource); err != nil {
		return err
	}
	if err := r.tx.ensureNamespace(r.ns); err != nil {
		return err
	}
	if resource != "" {
		if err := r.tx.join(r.ns, r.tx.lease, Resource{Type: resource, ID: key}); err != nil {
			return err
		}
	}
	return r.put(key, record)
}

// vacant is AlreadyExists when there is such a record; the error makes Update have it join the lease.
func (r rows[T]) vacant(key, resource string) error {
	if r.err != nil {
		return r.err
	}
	if err := validateName(r.table.noun, key); err != nil {
		return err
	}
	if !r.exists(key) {
		return nil
	}
	err := r.cannot("create", key, errdefs.ErrAlreadyExists)
	if resource == "" || r.tx.lease == "" {
		return err
	}
	return &leasedError{error: err, namespace: r.ns, lease: r.tx.lease, resource: Resource{Type: resource, ID: key}}
}

func (r rows[T]) put(key string, record T) error {
	data, err := r.table.encode(record)
	if err != nil {
		return r.cannot("write", key, err)
	}
	if len(data) > r.table.maxSize {
		return r.cannot("write", key, fmt.Errorf("its record takes %d bytes, more than %d: %w", len(data), r.table.maxSize, errdefs.ErrInvalidArgument))
	}
	if err := r.tx.put(r.table.bucket, r.scope+key, data); err != nil {
		return r.cannot("write", key, err)
	}
	r.tx.db.tracker.touch(node{r.table.bucket, r.scope + key})
	return nil
}

// delete is NotFound when there is no such record.
func (r rows[T]) delete(key string) error {
	if r.err != nil {
		return r.err
	}
	if key == "" || len(key) > maxName || !r.exists(key) {
		return r.cannot("delete", shorten(key), errdefs.ErrNotFound)
	}
	return r.tx.remove(r.table.bucket, r.scope+key)
}

// page answers at most limit records (0: all) whose key comes after after, in order of their keys, which match any of filters.
func (r rows[T]) page(after string, limit int, filters []string) ([]T, error) {
	if r.err != nil {
		return nil, r.err
	}
	f, err := filter.Parse(filters...)
	if err != nil {
		return nil, err
	}
	var list []T
	add := func(key string, data []byte) (more bool, err error) {
		record, err := r.table.read(key, data)
		if err == nil && (f.All() || f.Match(r.table.adapt(record))) {
			list = append(list, record)
		}
		return limit <= 0 || len(list) < limit, err
	}
	keys, pinned := f.Pinned(r.table.pin)
	if !pinned {
		err := r.tx.scan(r.table.bucket, r.scope, after, add)
		return list, err
	}
	for _, key := range sorted(keys) {
		data := r.tx.get(r.table.bucket, r.scope+key)
		if data == nil || key <= after || len(key) == 0 {
			continue
		}
		if more, err := add(key, data); err != nil || !more {
			return list, err
		}
	}
	return list, nil
}

func encodeJSON[T any](record T) ([]byte, error) { return json.Marshal(record) }

// decodeJSON reads a record whose key is not in its JSON; name puts it there.
func decodeJSON[T any](name func(*T, string)) func(string, []byte) (T, error) {
	return func(key string, data []byte) (record T, err error) {
		err = json.Unmarshal(data, &record)
		name(&record, key)
		return record, err
	}
}
