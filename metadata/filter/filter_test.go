package filter

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

type object map[string]string // dotted path to value

func (o object) adaptor(path []string) (string, bool) {
	v, ok := o[strings.Join(path, ".")]
	return v, ok
}

func TestMatch(t *testing.T) {
	objects := map[string]object{
		"a": {"name": "a", "labels.app": "web", "labels.example.com/tier": "front end"},
		"b": {"name": "b", "labels.app": "db", "size": ""},
		"c": {"name": "c", "topic": "/tasks/start", "labels.x.y": `q"uote`, "labels.bell": "\a", "labels.raw": "\xff"},
	}
	tests := []struct {
		filters []string
		want    string
	}{
		{nil, "abc"},
		{[]string{""}, "abc"},
		{[]string{"name==a", ""}, "abc"},
		{[]string{"name"}, "abc"},
		{[]string{"size"}, "b"},
		{[]string{"size=="}, "error"},
		{[]string{`size==""`}, "b"},
		{[]string{"name==a"}, "a"},
		{[]string{" name == a , labels.app == web "}, "a"},
		{[]string{"name!=a"}, "bc"},
		{[]string{"labels.app!=web"}, "bc"}, // an absent field differs from every value
		{[]string{"labels.app"}, "ab"},
		{[]string{"labels.app==web,name==b"}, ""},
		{[]string{"name==a", "name==c"}, "ac"},
		{[]string{`labels."example.com/tier"=="front end"`}, "a"},
		{[]string{`labels.example.com/tier==x`}, "error"},
		{[]string{`labels."x.y"=="q\"uote"`}, "c"},
		{[]string{`labels.x.y~=/^q.uote$/`}, "c"},
		{[]string{`labels.bell=="\a"`}, "c"},
		{[]string{`labels.raw=="\xff"`}, "c"},
		{[]string{`topic~=|^/tasks/|`}, "c"},
		{[]string{`topic~=/^\/tasks\//`}, "c"},
		{[]string{`name~=^[ab]$`}, "ab"},
		{[]string{`name~=/^[a]{0,1}$/`}, "a"},
		{[]string{`name~="^[bc]$",name!=b`}, "c"},
		{[]string{`name==|a|`}, "error"},
		{[]string{`name==/a`}, "error"},
		{[]string{`labels.|app|==web`}, "error"},
		{[]string{`name~=/a`}, "error"},
		{[]string{`name~=/(/`}, "error"},
		{[]string{`name=a`}, "error"},
		{[]string{`name===a`}, "error"},
		{[]string{`name==a,`}, "error"},
		{[]string{`,name==a`}, "error"},
		{[]string{`labels.`}, "error"},
		{[]string{`name==a b`}, "error"},
		{[]string{`name=="\q"`}, "error"},
		{[]string{"name==\"a\nb\""}, "error"},
		{[]string{`"name`}, "error"},
		{[]string{"name==a\x00b"}, "error"},
		{[]string{"name==\xff"}, "error"},
		{[]string{strings.Repeat("x", maxBytes+1)}, "error"},
		{slices.Repeat([]string{"name"}, maxFilters+1), "error"},
	}
	for _, test := range tests {
		f, err := Parse(test.filters...)
		if test.want == "error" {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("Parse(%.80q): %v, want InvalidArgument", test.filters, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("Parse(%q): %v", test.filters, err)
			continue
		}
		got := ""
		for _, name := range []string{"a", "b", "c"} {
			if f.Match(objects[name].adaptor) {
				got += name
			}
		}
		if got != test.want {
			t.Errorf("%q matches %q, want %q", test.filters, got, test.want)
		}
	}
}

func TestPinned(t *testing.T) {
	tests := []struct {
		filters []string
		want    []string
		ok      bool
	}{
		{nil, nil, false},
		{[]string{"id==a"}, []string{"a"}, true},
		{[]string{"labels.x==y,id==a", "id==b", "id==a"}, []string{"a", "b"}, true},
		{[]string{"id==a", "labels.x==y"}, nil, false},
		{[]string{"id!=a"}, nil, false},
		{[]string{"labels.id==a"}, nil, false},
	}
	for _, test := range tests {
		f, err := Parse(test.filters...)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := f.Pinned("id")
		if ok != test.ok || !slices.Equal(got, test.want) {
			t.Errorf("%q pins id to %q, %v, want %q, %v", test.filters, got, ok, test.want, test.ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"name==a", `labels."a.b"~=/x\/y/,id!="q\""`, `a.b.c,d~=|^/tasks/|`, `x=="\u00e9\x41\101"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		parsed, err := Parse(s)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Fatalf("Parse(%q): %v is not InvalidArgument", s, err)
			}
			return
		}
		for _, all := range parsed.any {
			for _, sel := range all {
				if len(sel.path) == 0 {
					t.Fatalf("Parse(%q): a selector without a field", s)
				}
				// Every selector with == matches an object made for it, whatever quoting was used.
				if sel.op == equal && !sel.match(func([]string) (string, bool) { return sel.value, true }) {
					t.Fatalf("Parse(%q): == does not match its own value", s)
				}
			}
		}
		parsed.Match(func([]string) (string, bool) { return s, true })
	})
}
