package spec_test

import (
	"reflect"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/spec"
)

func TestParseWindowsVolume(t *testing.T) {
	for v, want := range map[string]*specs.Mount{
		`C:\data:D:\in`:            {Source: `C:\data`, Destination: `D:\in`},
		`C:/data:C:/in:ro`:         {Source: `C:/data`, Destination: `C:/in`, Options: []string{"ro"}},
		`\\.\pipe\a:\\.\PIPE\b:rw`: {Source: `\\.\pipe\a`, Destination: `\\.\PIPE\b`},
		`C:\data`:                  nil, `C:\data:C:\in:rx`: nil, `data:C:\in`: nil, `\\.\pipe\a:C:\in`: nil, `C:\data:`: nil, ``: nil, `C:\a:C:\b:ro:rw`: nil,
	} {
		got, err := spec.ParseWindowsVolume(v)
		if want == nil {
			if err == nil {
				t.Errorf("%q is taken for %+v", v, got)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, *want) {
			t.Errorf("%q is %+v, %v", v, got, err)
		}
	}
}

func TestWindowsLimits(t *testing.T) {
	s, err := spec.New("windows", spec.Memory(64<<20), spec.CPUs(0.5))
	if err != nil {
		t.Fatal(err)
	}
	r := s.Windows.Resources
	if r.Memory == nil || *r.Memory.Limit != 64<<20 || r.CPU == nil || *r.CPU.Maximum == 0 || *r.CPU.Maximum > 5000 {
		t.Errorf("limits are %+v", r)
	}
	if _, err := spec.New("windows", spec.CPUs(0)); err == nil {
		t.Error("no CPUs at all are taken for a limit")
	}
}
