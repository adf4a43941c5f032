package image

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Releases of Windows Server by build whose successors run their containers without Hyper-V too (Microsoft, "Windows container version
// compatibility"). Before the first of them only the same build does.
var servers = []int{20348, 26100} // 2022, 2025

// hyperV is the feature that a platform may be asked for with, as in windows(10.0.20348+hyperv)/amd64: the container will have a kernel of its
// own, so images of older builds do as well.
const hyperV = "hyperv"

// matcher tells which platforms run on want, the best of them first. On Windows the build counts.
func matcher(want ocispec.Platform) platforms.MatchComparer {
	if want.OS != "windows" {
		return platforms.Only(want)
	}
	if host := hostPlatform(); want.OSVersion == "" && host.OS == "windows" {
		want.OSVersion = host.OSVersion
	}
	m := windowsMatcher{hyperV: slices.Contains(want.OSFeatures, hyperV)}
	m.host, m.known = parseVersion(want.OSVersion)
	m.rest = platforms.Only(bare(want))
	return m
}

// bare is a platform without what windowsMatcher looks at itself.
func bare(p ocispec.Platform) ocispec.Platform {
	p.OSVersion, p.OSFeatures = "", nil
	return p
}

type windowsMatcher struct {
	host   windowsVersion
	known  bool // false: any version does
	hyperV bool
	rest   platforms.MatchComparer // of architecture and variant
}

// fit is how well an image of some build runs on a host, the larger the better.
type fit int

const (
	fitNot    fit = iota
	fitHyperV     // older, in a virtual machine
	fitAny        // the image does not say what it is for
	fitStable     // another build, with the host's kernel
	fitSameBuild
)

func (m windowsMatcher) fit(osVersion string) fit {
	v, ok := parseVersion(osVersion)
	if !ok || !m.known {
		return fitAny
	}
	h := m.host
	switch {
	case v.major != h.major || v.minor != h.minor || v.build > h.build:
		return fitNot
	case v.build == h.build:
		return fitSameBuild
	case v.build >= oldestShared(h.build):
		return fitStable
	case m.hyperV:
		return fitHyperV
	}
	return fitNot
}

// oldestShared is the oldest build whose containers share the kernel of a host's build: of a release of Windows Server that is the release
// before it, and of what lies between two releases the same.
func oldestShared(build int) int {
	for i := len(servers) - 1; i >= 0; i-- {
		if build >= servers[i] {
			return servers[max(i-1, 0)]
		}
	}
	return build
}

func (m windowsMatcher) Match(p ocispec.Platform) bool {
	return m.rest.Match(bare(p)) && m.fit(p.OSVersion) != fitNot
}

// Less puts the host's architecture first, then the same build, then the newest that runs.
func (m windowsMatcher) Less(a, b ocispec.Platform) bool {
	x, y := bare(a), bare(b)
	if m.rest.Less(x, y) || m.rest.Less(y, x) {
		return m.rest.Less(x, y)
	}
	if f, g := m.fit(a.OSVersion), m.fit(b.OSVersion); f != g {
		return f > g
	}
	v, _ := parseVersion(a.OSVersion)
	w, _ := parseVersion(b.OSVersion)
	return v.compare(w) > 0
}

// windowsVersion is what an os.version such as 10.0.20348.2527 says; the revision may be missing.
type windowsVersion struct{ major, minor, build, revision int }

// parseVersion is false for what does not say a build, and then says nothing about where the image runs.
func parseVersion(s string) (v windowsVersion, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) < 3 || len(parts) > 4 {
		return v, false
	}
	for i, to := range []*int{&v.major, &v.minor, &v.build, &v.revision} {
		if i == len(parts) {
			break
		}
		n, err := strconv.ParseUint(parts[i], 10, 31)
		if err != nil {
			return windowsVersion{}, false
		}
		*to = int(n)
	}
	return v, true
}

func (v windowsVersion) compare(w windowsVersion) int {
	return cmp.Or(cmp.Compare(v.major, w.major), cmp.Compare(v.minor, w.minor), cmp.Compare(v.build, w.build), cmp.Compare(v.revision, w.revision))
}

// hintHyperV says how to get one of have that is only too old for want, if there is one.
func hintHyperV(have []ocispec.Platform, want ocispec.Platform) string {
	if want.OS != "windows" || slices.Contains(want.OSFeatures, hyperV) {
		return ""
	}
	want.OSFeatures = append(slices.Clone(want.OSFeatures), hyperV)
	if m := matcher(want); slices.ContainsFunc(have, m.Match) {
		return "; images of older builds run with Hyper-V isolation: ask for platform " + platforms.FormatAll(want)
	}
	return ""
}

// saysBuild is whether a descriptor alone tells where an image runs: one for Windows has to name the build.
func saysBuild(p *ocispec.Platform) bool {
	if p == nil {
		return false
	}
	_, ok := parseVersion(p.OSVersion)
	return p.OS != "windows" || ok
}
