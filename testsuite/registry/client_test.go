package registry_test

import (
	"testing"

	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/slipwayd/slipway/testsuite/ociimage"
	"github.com/slipwayd/slipway/testsuite/registry"
)

// TestRealClient pulls from and pushes to the registry with oras, under each way to authenticate and with redirects.
func TestRealClient(t *testing.T) {
	for name, require := range map[string]func(*registry.Registry){
		"open":  func(*registry.Registry) {},
		"basic": func(r *registry.Registry) { r.RequireBasic(registry.Basic{Username: "u", Password: "p"}) },
		"token": func(r *registry.Registry) { r.RequireToken(registry.Token{Username: "u", Password: "p"}) },
		"short-lived token": func(r *registry.Registry) {
			r.RequireToken(registry.Token{Username: "u", Password: "p", Uses: 1})
		},
		"redirect": func(r *registry.Registry) {
			r.RequireToken(registry.Token{Username: "u", Password: "p"})
			r.Fault(registry.Match{Method: "GET", Path: "/v2/.*/blobs/sha256:"}, r.Redirect(1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := registry.Start(t)
			built := r.Push("lib/hello:v1", ociimage.Image{Layers: []ociimage.Layer{{Files: []ociimage.File{ociimage.Regular("f", 0o644, "x")}}}})
			require(r)
			repository := func(name string) *remote.Repository {
				repo, err := remote.NewRepository(r.Host() + "/" + name)
				if err != nil {
					t.Fatal(err)
				}
				repo.PlainHTTP = true
				repo.Client = &auth.Client{
					Credential: auth.StaticCredential(r.Host(), auth.Credential{Username: "u", Password: "p"}),
					Cache:      auth.NewCache(),
				}
				return repo
			}
			local, oneByOne := memory.New(), oras.DefaultCopyOptions
			oneByOne.Concurrency = 1 // or one request uses up another's token
			desc, err := oras.Copy(t.Context(), repository("lib/hello"), "v1", local, "v1", oneByOne)
			if err != nil {
				t.Fatal(err)
			}
			if desc.Digest != built.Root.Digest {
				t.Fatalf("pulled %s, want %s", desc.Digest, built.Root.Digest)
			}
			if name == "short-lived token" && r.Count(registry.Match{Path: "^/token"}) < 3 {
				t.Error("the tokens did not expire")
			}
			if _, err := oras.Copy(t.Context(), local, "v1", repository("lib/other"), "v2", oneByOne); err != nil {
				t.Fatal(err)
			}
			r.AllowAll()
			if a := get(t, r, "/v2/lib/other/manifests/v2"); a.status != 200 {
				t.Errorf("what was pushed: %d", a.status)
			}
		})
	}
}
