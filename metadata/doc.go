// Package metadata keeps every record of the daemon in one bbolt file: namespaces, images, containers, snapshots, leases,
// blobs and ingests by namespace, sandboxes; and marks what garbage collection may remove.
//
// It knows names, labels and edges, and touches neither blobs nor layers: content and storage do. It imports no driver.
//
// What a crash leaves: the state of the last committed transaction. Blobs and layers that have no record are removed by
// start-up (engine).
//
// Use is through transactions, so that a verb that touches several records is one commit (two fdatasync):
//
//	err := db.Update(ctx, func(tx *metadata.Tx) error {
//		if _, err := tx.Snapshots(ns, "overlay").Remove(key); err != nil {
//			return err
//		}
//		return tx.Containers(ns).Delete(id)
//	})
//
// Update groups the transactions of concurrent callers into one commit, so fn may run more than once: it must only touch
// tx and variables it sets anew each time.
package metadata
