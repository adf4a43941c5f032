package metadata

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

// Labels that steer collection, as containerd defines them (docs/garbage-collection.md there).
const (
	labelCollect   = "containerd.io/gc." // what all of them begin with
	labelRoot      = "containerd.io/gc.root"
	labelExpire    = "containerd.io/gc.expire" // RFC 3339
	labelFlat      = "containerd.io/gc.flat"
	labelRef       = "containerd.io/gc.ref."
	labelBackRef   = "containerd.io/gc.bref."
	labelCondition = "containerd.io/gc.cond.snapshot"     // .<driver>[/…] = usedat(<|>)<duration>[,…]|<key>
	labelUsedAt    = "containerd.io/gc.cond.value-usedat" // RFC 3339
)

// condition keeps dependant while the snapshot that it is about lives and was used as it says.
type condition struct {
	dependant node
	newer     bool // used less than age ago, else more
	age       time.Duration
}

func (c condition) holds(usedAt string, now time.Time) bool {
	t, err := time.Parse(time.RFC3339, usedAt)
	if err != nil {
		return false
	}
	if c.newer {
		return now.Sub(t) < c.age
	}
	return now.Sub(t) > c.age
}

// steered says whether an encoded record can have labels of collection, without decoding it. JSON escapes none of their
// characters.
func steered(data []byte) bool { return bytes.Contains(data, []byte(labelCollect)) }

// steersItself is steered without labels that only keep other things, which manifests have: those need not be decoded to know
// whether the record is a root or hangs on others.
func steersItself(data []byte) bool {
	return steered(data) && slices.ContainsFunc([]string{labelRoot, labelExpire, labelBackRef, labelCondition},
		func(label string) bool { return bytes.Contains(data, []byte(label)) })
}

// reference reads a label's key, after labelRef or labelBackRef, and value: content, image and container with anything after a
// dot or slash, and snapshot.<driver> with anything after a slash.
func reference(ns, what, value string) (node, bool) {
	if driver, ok := strings.CutPrefix(what, "snapshot."); ok {
		driver, _, _ = strings.Cut(driver, "/")
		return snapshotNode(ns, driver, value), true
	}
	if i := strings.IndexAny(what, "./"); i >= 0 {
		what = what[:i]
	}
	bucket, ok := map[string]string{"content": bucketBlobs, "image": bucketImages, "container": bucketContainers}[what]
	return node{bucket, ns + separator + value}, ok
}

// references calls fn for each thing that labels keep.
func references(ns string, labels map[string]string, fn func(node)) {
	for k, v := range labels {
		if what, ok := strings.CutPrefix(k, labelRef); ok {
			if n, ok := reference(ns, what, v); ok && n.bucket != bucketContainers {
				fn(n)
			}
		}
	}
}

// backReferences calls fn for each thing that keeps the one with labels.
func backReferences(ns string, labels map[string]string, fn func(node)) {
	for k, v := range labels {
		if what, ok := strings.CutPrefix(k, labelBackRef); ok {
			if n, ok := reference(ns, what, v); ok {
				fn(n)
			}
		}
	}
}

// conditions calls fn for each snapshot that keeps dependant, whose labels these are, as long as a condition holds. Several
// conditions of a label are alternatives; those that cannot be read count for nothing.
func conditions(ns string, dependant node, labels map[string]string, fn func(snapshot node, c condition)) {
	for k, v := range labels {
		driver, ok := strings.CutPrefix(k, labelCondition)
		if !ok {
			continue
		}
		driver, _, _ = strings.Cut(strings.TrimLeft(driver, "./"), "/")
		list, key, ok := strings.Cut(v, "|")
		if !ok {
			continue
		}
		for _, text := range strings.Split(list, ",") {
			rest, ok := strings.CutPrefix(text, "usedat")
			if !ok || rest == "" || rest[0] != '<' && rest[0] != '>' {
				continue
			}
			age, err := time.ParseDuration(rest[1:])
			if err != nil {
				continue
			}
			fn(snapshotNode(ns, driver, key), condition{dependant, rest[0] == '<', age})
		}
	}
}

// expired reads the label containerd.io/gc.expire; neither without it, or when it is no time.
func expired(labels map[string]string, now time.Time) (yes, no bool) {
	t, err := time.Parse(time.RFC3339, labels[labelExpire])
	if err != nil {
		return false, false
	}
	return now.After(t), !now.After(t)
}

// rooted says whether labels of a blob or snapshot keep it by themselves.
func rooted(labels map[string]string, now time.Time) bool {
	if _, unexpired := expired(labels, now); unexpired {
		return true
	}
	for k := range labels {
		if strings.HasPrefix(k, labelRoot) {
			return true
		}
	}
	return false
}

// node names a record: its bucket and whole key.
type node struct{ bucket, key string }

func snapshotNode(ns, driver, key string) node {
	return node{bucketSnapshots, ns + separator + driver + separator + key}
}

// split answers the namespace, the driver of a snapshot, and the rest of the key.
func (n node) split() (ns, driver, name string) {
	ns, name, _ = strings.Cut(n.key, separator)
	if n.bucket == bucketSnapshots {
		driver, name, _ = strings.Cut(name, separator)
	}
	return ns, driver, name
}
