package shim

import (
	"testing"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"google.golang.org/protobuf/proto"
)

func TestParseStart(t *testing.T) {
	modern, err := proto.Marshal(&bootstrap.BootstrapResult{Version: 3, Address: "unix:///a", Protocol: "ttrpc"})
	if err != nil {
		t.Fatal(err)
	}
	grpc, err := proto.Marshal(&bootstrap.BootstrapResult{Version: 3, Address: "unix:///a", Protocol: "grpc"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		in      string
		address string
		version int32
	}{
		{string(modern), "unix:///a", 3},
		{`{"version":3,"address":"unix:///b","protocol":"ttrpc"}`, "unix:///b", 3},
		{"unix:///c\n", "unix:///c", 2},
		{"/run/d", "/run/d", 2},
		{"", "", 0},
		{`{"version":4,"address":"unix:///b"}`, "", 0},
		{`{"version":1,"address":"unix:///b"}`, "", 0},
		{string(grpc), "", 0},
	} {
		got, err := parseStart([]byte(c.in))
		if (err != nil) != (c.address == "") || got.GetAddress() != c.address || got.GetVersion() != c.version {
			t.Errorf("%q: %v, %v", c.in, got, err)
		}
	}
}

func FuzzParseStart(f *testing.F) {
	for _, s := range []string{"", "unix:///x", `{"version":2}`, "\x08\x03\x12\x01a"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if r, err := parseStart(in); err == nil && (r.Address == "" || r.Version < 2 || r.Version > 3) {
			t.Fatalf("%q: %v", in, r)
		}
	})
}
