// Package metadata keeps every record of the daemon in one bbolt file: namespaces, images, containers, snapshots, leases,
// blobs and ingests by namespace, sandboxes; and marks what garbage collection may remove.
//
// It knows names, labels and edges, and touches neither blobs nor layers: content and storage do. It imports no driver.
//
// What a crash leaves: the state of the last committed transaction. Blobs, layers and ingests that have no record are removed by
// start-up (engine), which finds them with Tx.Digests, Tx.LayerIDs and Tx.StoreRefs.
//
// # Transactions
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
// tx and variables it sets anew each time. It must not call Update, nor wait for anybody.
//
// # Order of records and stores
//
// What a record stands for is made durable before the record, and removed after it: blobs by DB.Reap and under DB.Hold, which
// tell how the two keep out of each other's way (reap.go); layers by their driver, whose ids are never used twice. Snapshots.Prepare is the
// exception: it chooses the id, so that after a crash an active snapshot may have a record and no layer yet.
//
// # Leases and collection
//
// What is created under a lease (WithLease, in a context or of a Tx) joins it. Collect removes the records of what neither a
// lease nor anything else keeps, while others read and write (collect.go).
package metadata
