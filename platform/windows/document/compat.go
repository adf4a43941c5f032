package document

import (
	"strconv"
	"strings"
)

// The first two builds of Windows Server whose images later hosts run too (Microsoft: "Windows container version compatibility").
const (
	server2022 = 20348
	server2025 = 26100
)

// compatible says whether a host of a build runs an image that was built for version ("10.0.20348.2113", "" for unknown).
//
// A container on the host's kernel needs the host's own build, or, on a host after Windows Server 2022, one from the long-term release
// before the host's on. A virtual machine runs every build up to the host's.
func compatible(host uint16, version string, hyperV bool) error {
	if version == "" {
		return nil
	}
	build, ok := parseBuild(version)
	if !ok {
		return invalid("annotation %s: %#.80q is no version of Windows, as 10.0.20348 is", osVersion, version)
	}
	oldest := host
	switch {
	case hyperV:
		oldest = 0
	case host > server2025:
		oldest = server2025
	case host > server2022:
		oldest = server2022
	}
	switch {
	case build > host:
		return invalid("the image is for Windows build %d and this host is %d: a host runs no newer images; take the image of an older version", build, host)
	case build < oldest:
		return invalid("the image is for Windows build %d and this host is %d, which without Hyper-V isolation runs images of build %d and later only: take the image of this version, or Hyper-V isolation", build, host, oldest)
	}
	return nil
}

// parseBuild reads 10.0.BUILD or 10.0.BUILD.REVISION.
func parseBuild(version string) (uint16, bool) {
	parts := strings.Split(version, ".")
	if len(parts) < 3 || len(parts) > 4 || parts[0] != "10" || parts[1] != "0" {
		return 0, false
	}
	for _, p := range parts[2:] {
		if _, err := strconv.ParseUint(p, 10, 32); err != nil {
			return 0, false
		}
	}
	build, err := strconv.ParseUint(parts[2], 10, 16)
	return uint16(build), err == nil && build > 0
}
