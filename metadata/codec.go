package metadata

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"slices"
)

// A container's or sandbox's record is its JSON without the bytes of its opaque values, which follow it as they are: specs are
// 10 KB and more, and JSON would make base64 of them. Each part comes after its length as a varint; the values come in the order
// runtime options, spec, extensions by name, with nothing for those that are nil.

var errCut = errors.New("it ends too early")

// values answers where a record keeps its opaque values. Those of extensions, which cannot be pointed to, are put back by done.
func values(runtime *Runtime, spec **Any, extensions *map[string]Any) (list []*[]byte, done func()) {
	for _, p := range []**Any{&runtime.Options, spec} {
		if *p != nil {
			own := **p // the caller's stays as it is
			*p = &own
			list = append(list, &own.Value)
		}
	}
	names := slices.Sorted(maps.Keys(*extensions))
	own := make([]Any, len(names))
	for i, name := range names {
		own[i] = (*extensions)[name]
		list = append(list, &own[i].Value)
	}
	return list, func() {
		if len(names) == 0 {
			return
		}
		*extensions = make(map[string]Any, len(names))
		for i, name := range names {
			(*extensions)[name] = own[i]
		}
	}
}

func encodeParts(record any, list []*[]byte, done func()) ([]byte, error) {
	var parts [][]byte
	for _, p := range list {
		parts = append(parts, *p)
		*p = nil
	}
	done()
	head, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	var data []byte
	for _, part := range append([][]byte{head}, parts...) {
		data = binary.AppendUvarint(data, uint64(len(part)))
		data = append(data, part...)
	}
	return data, nil
}

func nextPart(data []byte) (part, rest []byte, err error) {
	size, n := binary.Uvarint(data)
	if n <= 0 || size > uint64(len(data)-n) {
		return nil, nil, errCut
	}
	return data[n : n+int(size)], data[n+int(size):], nil
}

func decodeParts(data []byte, list []*[]byte, done func()) error {
	for _, p := range list {
		part, rest, err := nextPart(data)
		if err != nil {
			return err
		}
		*p, data = append([]byte(nil), part...), rest
	}
	done()
	return nil
}

func encodeContainer(c Container) ([]byte, error) {
	list, done := values(&c.Runtime, &c.Spec, &c.Extensions)
	return encodeParts(&c, list, done)
}

func decodeContainer(key string, data []byte) (c Container, err error) {
	head, rest, err := nextPart(data)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(head, &c); err != nil {
		return c, err
	}
	c.ID = key
	list, done := values(&c.Runtime, &c.Spec, &c.Extensions)
	err = decodeParts(rest, list, done)
	return c, err
}

func encodeSandbox(s Sandbox) ([]byte, error) {
	list, done := values(&s.Runtime, &s.Spec, &s.Extensions)
	return encodeParts(&s, list, done)
}

func decodeSandbox(key string, data []byte) (s Sandbox, err error) {
	head, rest, err := nextPart(data)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(head, &s); err != nil {
		return s, err
	}
	s.ID = key
	list, done := values(&s.Runtime, &s.Spec, &s.Extensions)
	err = decodeParts(rest, list, done)
	return s, err
}
