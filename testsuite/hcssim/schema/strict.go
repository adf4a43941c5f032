// Package schema holds the documents that are given to the compute service, in versions 1 and 2 of its schema, as far as
// containers use them, and checks them strictly: a property that isn't in the schema, one in another case, a value of another
// type, a required one that is missing, limits that exclude each other. Windows says no more than an HRESULT and one error event;
// so do these errors (package hresult), naming the property.
//
// The structures are Slipway's own, written after Microsoft's published schema reference
// (https://learn.microsoft.com/virtualization/api/hcs/schemareference) and what hcsshim sends. Package schema keeps no state.
package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/slipwayd/slipway/testsuite/hcssim/hresult"
)

// maxDepth bounds how deeply a document nests; the schema needs nine levels.
const maxDepth = 32

// Decode reads one JSON document into v, a pointer to a structure of this package, strictly.
func Decode(doc string, v any) error {
	var tree any
	d := json.NewDecoder(strings.NewReader(doc))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		return invalid("$", "%v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return invalid("$", "more than one value")
	}
	if err := known("$", tree, reflect.TypeOf(v).Elem(), 0); err != nil {
		return err
	}
	d = json.NewDecoder(bytes.NewReader([]byte(doc)))
	if err := d.Decode(v); err != nil {
		return invalid("$", "%v", err)
	}
	return nil
}

func invalid(path, format string, args ...any) error {
	return hresult.New(hresult.InvalidJSON, "Invalid JSON document '%s': %s", path, fmt.Sprintf(format, args...))
}

// known walks document and type together and finds the first property that the type doesn't have.
func known(path string, tree any, t reflect.Type, depth int) error {
	if depth > maxDepth {
		return invalid(path, "nested too deeply")
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[json.RawMessage]() || t.Kind() == reflect.Interface {
		return nil
	}
	switch node := tree.(type) {
	case map[string]any:
		for key, value := range node {
			inner, ok := property(t, key)
			if !ok {
				return invalid(path, "Unknown property '%s'", key)
			}
			if err := known(path+"."+key, value, inner, depth+1); err != nil {
				return err
			}
		}
	case []any:
		if t.Kind() != reflect.Slice && t.Kind() != reflect.Array {
			return invalid(path, "an array where none belongs")
		}
		if t.Kind() == reflect.Array && len(node) != t.Len() {
			return invalid(path, "%d elements instead of %d", len(node), t.Len())
		}
		for i, value := range node {
			if err := known(fmt.Sprintf("%s[%d]", path, i), value, t.Elem(), depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// property is the type of a property of t, a structure or a map, whose name must be right to the letter.
func property(t reflect.Type, name string) (reflect.Type, bool) {
	switch t.Kind() {
	case reflect.Map:
		return t.Elem(), true
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if tag == "" {
				tag = f.Name
			}
			if tag == name {
				return f.Type, true
			}
		}
	}
	return nil, false
}
