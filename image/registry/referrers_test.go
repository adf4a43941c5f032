package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/slipwayd/slipway/image/registry"
	double "github.com/slipwayd/slipway/testsuite/registry"
)

const artifactType = "application/vnd.example.artifact"

var subject = digest.FromString("subject")

// artifact is a manifest about subject.
func artifact(t *testing.T, kind string) (ocispec.Descriptor, []byte) {
	t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind,
		Config: ocispec.Descriptor{MediaType: kind, Digest: digest.FromString("{}"), Size: 2}, Subject: &ocispec.Descriptor{Digest: subject}}
	m.SchemaVersion = 2
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: m.MediaType, ArtifactType: kind, Digest: digest.FromBytes(data), Size: int64(len(data))}, data
}

func TestReferrers(t *testing.T) {
	for name, old := range map[string]bool{"API": false, "tag": true} {
		t.Run(name, func(t *testing.T) {
			d := double.Start(t)
			d.RequireToken(double.Token{Username: "u", Password: "p", Uses: 3})
			if old {
				d.WithoutReferrers()
			}
			r := remote(t, d.Host()+"/app:v1", quick(), registry.Options{Credentials: credential("u", "p")})
			if list, err := r.Referrers(ctx, subject, artifactType); err != nil || len(list) != 0 {
				t.Errorf("an empty repository lists %v, %v", list, err)
			}
			want := map[digest.Digest]bool{}
			for _, kind := range []string{artifactType, "application/other", artifactType + "2"} {
				desc, data := artifact(t, kind)
				for range 2 { // the second time changes nothing
					if err := r.PushReferrer(ctx, desc, subject, data); err != nil {
						t.Fatal(err)
					}
				}
				if kind != "application/other" {
					want[desc.Digest] = true
				}
			}
			list, err := r.Referrers(ctx, subject, artifactType, artifactType+"2")
			if err != nil || len(list) != len(want) {
				t.Fatalf("lists %v, %v", list, err)
			}
			for _, l := range list {
				if !want[l.Digest] {
					t.Errorf("lists %+v", l)
				}
				if data, err := r.Manifest(ctx, l.Digest); err != nil || digest.FromBytes(data) != l.Digest {
					t.Errorf("manifest of %d bytes, %v", len(data), err)
				}
			}
		})
	}
}

// TestReferrersPages follows the pages of a list, within bounds and nowhere else.
func TestReferrersPages(t *testing.T) {
	var asked, elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	for name, c := range map[string]struct {
		pages, perPage int
		link           string // with a place for the number of the next page
		asked, found   int
	}{
		"three pages":     {3, 2, `</v2/app/referrers/x?page=%d>; rel="next"`, 3, 6},
		"endless":         {1 << 30, 1, `</v2/app/referrers/x?page=%d>; rel=next`, 8, 8},
		"too many":        {1 << 30, 600, `</v2/app/referrers/x?page=%d>; rel="next"`, 2, 1000},
		"another host":    {2, 1, `<` + other.URL + `/?page=%d>; rel="next"`, 2, 2},
		"other relations": {2, 1, `</x?page=%d>; rel="prev", <>;, broken`, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			asked.Store(0)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				page := 1
				_, _ = fmt.Sscan(r.URL.Query().Get("page"), &page)
				list := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
				for i := range c.perPage {
					list.Manifests = append(list.Manifests, ocispec.Descriptor{ArtifactType: artifactType, Digest: digest.FromString(fmt.Sprint(page, i)), Size: 1})
				}
				if page < c.pages {
					w.Header().Set("Link", fmt.Sprintf(c.link, page+1))
				}
				w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
				_ = json.NewEncoder(w).Encode(list)
			}))
			defer srv.Close()
			r := remote(t, strings.TrimPrefix(srv.URL, "http://")+"/app:v1", quick(), registry.Options{})
			list, err := r.Referrers(ctx, subject, artifactType)
			if err != nil || len(list) != c.found || int(asked.Load()) != c.asked || elsewhere.Load() != 0 {
				t.Errorf("found %d in %d requests and %d elsewhere: %v", len(list), asked.Load(), elsewhere.Load(), err)
			}
		})
	}
}

func TestReferrersHostile(t *testing.T) {
	good := digest.FromString("x").String()
	for name, c := range map[string]struct {
		media, body string
		fails       bool
	}{
		"no index":      {"text/html", "<html>", false}, // as good as no API
		"no JSON":       {ocispec.MediaTypeImageIndex, "{", true},
		"too large":     {ocispec.MediaTypeImageIndex, `{"manifests":[` + strings.Repeat(" ", 4<<20) + `]}`, true},
		"bad digest":    {ocispec.MediaTypeImageIndex, `{"manifests":[{"artifactType":"` + artifactType + `","digest":"sha256:../x","size":1}]}`, false},
		"negative size": {ocispec.MediaTypeImageIndex, `{"manifests":[{"artifactType":"` + artifactType + `","digest":"` + good + `","size":-1}]}`, false},
		"other type":    {ocispec.MediaTypeImageIndex, `{"manifests":[{"artifactType":"x","digest":"` + good + `","size":1}]}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/manifests/") {
					http.NotFound(w, r)
					return
				}
				w.Header().Set("Content-Type", c.media)
				_, _ = w.Write([]byte(c.body))
			}))
			defer srv.Close()
			r := remote(t, strings.TrimPrefix(srv.URL, "http://")+"/app:v1", quick(), registry.Options{})
			if list, err := r.Referrers(ctx, subject, artifactType); len(list) != 0 || (err != nil) != c.fails {
				t.Errorf("lists %v, %v", list, err)
			}
		})
	}
}

func TestManifestIsChecked(t *testing.T) {
	d := double.Start(t)
	desc, data := artifact(t, artifactType)
	d.PutManifest("app", desc.Digest.String(), desc.MediaType, append(data, ' '))
	r := remote(t, d.Host()+"/app:v1", quick(), registry.Options{})
	if _, err := r.Manifest(ctx, desc.Digest); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("other bytes: %v", err)
	}
	if _, err := r.Manifest(ctx, digest.FromString("none")); !errdefs.IsNotFound(err) {
		t.Errorf("no such manifest: %v", err)
	}
	if _, err := r.Manifest(ctx, "sha256:../../x"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no digest: %v", err)
	}
}
