package metadata

import (
	"maps"
	"strings"

	"github.com/slipwayd/slipway/metadata/filter"
)

// merge applies one path of an update mask (google.protobuf.FieldMask as containerd reads it) to the map called field: "field"
// replaces all of it, "field.key" one entry, where the key may have dots. False when path is about something else.
func merge[V any](old *map[string]V, update map[string]V, field, path string) bool {
	if path == field {
		*old = maps.Clone(update)
		return true
	}
	key, ok := strings.CutPrefix(path, field+".")
	if !ok {
		return false
	}
	// Not in place: the map may be one that the caller has too.
	next := maps.Clone(*old)
	if v, ok := update[key]; !ok {
		delete(next, key)
	} else {
		if next == nil {
			next = map[string]V{}
		}
		next[key] = v
	}
	*old = next
	return true
}

// nonEmpty drops entries without a value: setting a label to "" is how clients delete it.
func nonEmpty(labels map[string]string) map[string]string {
	for _, v := range labels {
		if v == "" {
			labels = maps.Clone(labels)
			maps.DeleteFunc(labels, func(_, v string) bool { return v == "" })
			break
		}
	}
	return labels
}

// relabel applies an update mask to a record of which clients may change the labels only.
func relabel(noun string, old *map[string]string, update map[string]string, paths []string) error {
	if len(paths) == 0 {
		paths = []string{"labels"}
	}
	for _, path := range paths {
		if !merge(old, update, "labels", path) {
			return invalid("cannot change field %q of a %s, only labels", shorten(path), noun)
		}
	}
	*old = nonEmpty(*old)
	return ValidateLabels(*old)
}

// field answers a filter's question about one of a record's plain fields, or the part of a map of that name.
func field(path []string, plain map[string]string, maps map[string]map[string]string) (string, bool) {
	if len(path) == 0 {
		return "", false
	}
	if m, ok := maps[path[0]]; ok && len(path) > 1 {
		v, ok := m[strings.Join(path[1:], ".")]
		return v, ok
	}
	v := plain[strings.Join(path, ".")]
	return v, v != ""
}

// adaptor makes an answer to filters of a record's fields and labels.
func adaptor(plain map[string]string, labels map[string]string) filter.Adaptor {
	return func(path []string) (string, bool) {
		return field(path, plain, map[string]map[string]string{"labels": labels})
	}
}
