package stdio

import (
	"bytes"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestParse(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("these are Unix's paths; TestParsePipes has those of Windows")
	}
	for _, c := range []struct {
		uri  string
		want target
		bad  bool
	}{
		{uri: ""},
		{uri: "/run/fifo", want: target{scheme: "fifo", path: "/run/fifo"}},
		{uri: "fifo:///run/fifo", want: target{scheme: "fifo", path: "/run/fifo"}},
		{uri: "file:///var/log/x", want: target{scheme: "file", path: "/var/log/x"}},
		{uri: "file:///var/../log", want: target{scheme: "file", path: "/log"}},
		{uri: "file:///x?format=cri", want: target{scheme: "cri", path: "/x"}},
		{uri: "binary:///bin/log?b=2&a=1&flag", want: target{scheme: "binary", path: "/bin/log", args: []string{"b", "2", "a", "1", "flag"}}},
		{uri: "binary-v2:///bin/log?x=a%20b", want: target{scheme: "binary-v2", path: "/bin/log", args: []string{"x", "a b"}}},
		{uri: "relative", bad: true},
		{uri: "file://host/x", bad: true},
		{uri: "file:///x?format=json", bad: true},
		{uri: "http:///x", bad: true},
		{uri: "/a\x00b", bad: true},
		{uri: "/" + strings.Repeat("a", 5000), bad: true},
	} {
		got, err := parse(c.uri)
		if c.bad {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%.40q: %+v, %v", c.uri, got, err)
			}
			continue
		}
		if err != nil || got.scheme != c.want.scheme || got.path != c.want.path || !slices.Equal(got.args, c.want.args) {
			t.Errorf("%q: %+v, %v", c.uri, got, err)
		}
	}
	if err := (Streams{Stdin: "file:///x"}).Validate(); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a file for standard input: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "/x", "file:///x?format=cri", "binary:///x?a=%zz&=&b", "://", "fifo://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		got, err := parse(uri)
		if err == nil && uri != "" && (got.scheme == "" || !strings.HasPrefix(got.path, "/")) {
			t.Fatalf("%q: %+v", uri, got)
		}
	})
}

var moment = time.Date(2026, 1, 2, 3, 4, 5, 60, time.UTC)

const stamp = "2026-01-02T03:04:05.000000060Z stdout "

func TestAppendCRI(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"one\n", stamp + "F one\n"},
		{"\n", stamp + "F \n"},
		{"one\ntwo", stamp + "F one\n" + stamp + "P two\n"},
		{long, stamp + "P " + long + "\n"},
		{long + "\n", stamp + "F " + long + "\n"},
		{long + "yy\nz\n", stamp + "P " + long + "\n" + stamp + "F yy\n" + stamp + "F z\n"},
	} {
		if got := string(appendCRI(nil, moment, "stdout", []byte(c.in))); got != c.want {
			t.Errorf("%.20q (%d bytes): %.200q", c.in, len(c.in), got)
		}
	}
}

// Whatever a program writes, the log's text is that, and no line of it is too long.
func FuzzAppendCRI(f *testing.F) {
	f.Add([]byte("a\nb"))
	f.Add(bytes.Repeat([]byte("y"), 2*maxLine+3))
	f.Fuzz(func(t *testing.T, in []byte) {
		var back []byte
		for line := range bytes.Lines(appendCRI(nil, moment, "stdout", in)) {
			rest, ok := bytes.CutPrefix(line, []byte(stamp))
			if !ok || len(rest) < 3 || len(rest) > maxLine+3 {
				t.Fatalf("line %.80q", line)
			}
			text := rest[2 : len(rest)-1]
			back = append(back, text...)
			if rest[0] == 'F' {
				back = append(back, '\n')
			}
		}
		if !bytes.Equal(back, in) {
			t.Fatalf("%.80q came back as %.80q", in, back)
		}
	})
}

func BenchmarkAppendCRI(b *testing.B) {
	in := bytes.Repeat([]byte("a line of an ordinary program's output, not very long\n"), 300)
	b.SetBytes(int64(len(in)))
	var buf []byte
	for b.Loop() {
		buf = appendCRI(buf[:0], moment, "stdout", in)
	}
}
