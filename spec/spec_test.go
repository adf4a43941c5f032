package spec

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestGolden(t *testing.T) {
	image := Image(ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, Env: []string{"A=1"}, WorkingDir: "/srv"})
	for name, tc := range map[string]struct {
		goos string
		opts []Opt
	}{
		"linux-default": {"linux", []Opt{OSVersion("10.0.20348")}},
		"linux-full": {"linux", []Opt{image, Args("sh", "-c", "true"), Env("A=2", "B=3", "PATH"), Hostname("web"), Terminal(), Memory(64 << 20), CPUs(0.5),
			HostNetwork(), ReadOnly(), CgroupsPath("/slipway/x"), Mounts(specs.Mount{Type: "bind", Source: "/a", Destination: "/run", Options: []string{"rbind"}})}},
		//lint:ignore SA1019 Windows images still set it
		"windows-default": {"windows", []Opt{Image(ocispec.ImageConfig{Cmd: []string{`cmd /c "ver"`}, ArgsEscaped: true}), OSVersion("10.0.20348.2113")}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := New(tc.goos, tc.opts...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			file := "testdata/" + name + ".json"
			if *update {
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(bytes.TrimSpace(want), got) {
				t.Errorf("document differs from %s; run with -update and look at the diff\n%s", file, got)
			}
		})
	}
}

func TestBadOptions(t *testing.T) {
	for name, o := range map[string]Opt{
		"relative cwd": Cwd("tmp"), "empty variable": Env("=x"), "tiny memory": Memory(1), "no cpu": CPUs(0),
		"NUL in variable": Env("A=\x00"),
	} {
		if _, err := New("linux", o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New("plan9"); err == nil {
		t.Error("plan9: no error")
	}
}

func TestDefaultSeccomp(t *testing.T) {
	s, err := New("linux", DefaultSeccomp())
	if err != nil {
		t.Fatal(err)
	}
	if s.Linux.Seccomp == nil || s.Linux.Seccomp.DefaultAction != specs.ActErrno || len(s.Linux.Seccomp.Syscalls) == 0 {
		t.Errorf("profile is not Docker's: %+v", s.Linux.Seccomp)
	}
}

func TestResolveUser(t *testing.T) {
	root := fstest.MapFS{
		"etc/passwd": {Data: []byte("root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n")},
		"etc/group":  {Data: []byte("root:x:0:\napp:x:1001:\nvideo:x:44:app\n")},
	}
	for in, want := range map[string]specs.User{
		"":            {},
		"root":        {},
		"app":         {UID: 1000, GID: 1001, AdditionalGids: []uint32{44}},
		"app:video":   {UID: 1000, GID: 44},
		"1000":        {UID: 1000, GID: 1001, AdditionalGids: []uint32{44}},
		"7:9":         {UID: 7, GID: 9},
		"4000000:app": {UID: 4000000, GID: 1001},
	} {
		got, err := ResolveUser(root, in)
		if err != nil || got.UID != want.UID || got.GID != want.GID || !slices.Equal(got.AdditionalGids, want.AdditionalGids) {
			t.Errorf("%q: got %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"nobody", "app:nogroup", "-1", "app:-4"} {
		if got, err := ResolveUser(root, in); err == nil {
			t.Errorf("%q: got %+v, want an error", in, got)
		} else if !strings.Contains(err.Error(), "etc/passwd") {
			t.Errorf("%q: error does not say where it looked: %v", in, err)
		}
	}
}

func TestParseVolume(t *testing.T) {
	m, err := ParseVolume("/data:/var/data:ro")
	if err != nil || m.Source != "/data" || m.Destination != "/var/data" || !slices.Equal(m.Options, []string{"rbind", "ro", "rprivate"}) {
		t.Errorf("volume: %+v, %v", m, err)
	}
	for _, in := range []string{"/a", "a:/b", "/a:b", "/a:/b:zz", "/a:/b:ro:x"} {
		if m, err := ParseVolume(in); err == nil {
			t.Errorf("ParseVolume(%q) = %+v, want an error", in, m)
		}
	}
}

func TestHostname(t *testing.T) {
	for name, ok := range map[string]bool{
		"web": true, "web-1.example": true, strings.Repeat("a", 64): true,
		"": false, "a b": false, "a/b": false, "ä": false, strings.Repeat("a", 65): false,
	} {
		if _, err := New("linux", Args("true"), Hostname(name)); (err == nil) != ok {
			t.Errorf("Hostname(%q): %v", name, err)
		}
	}
}
