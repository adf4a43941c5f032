package metadata

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	_ "crypto/sha256" // digests that can be validated
	_ "crypto/sha512"
)

// Bounds on what clients may have kept. Those of identifiers and labels are containerd's, for its clients rely on them.
const (
	maxIdentifier = 76      // bytes
	maxLabel      = 4096    // bytes, key and value together
	maxName       = 4096    // bytes of a name, key, ref or digest
	maxRecord     = 1 << 20 // bytes of a record
	maxBigRecord  = 8 << 20 // bytes of a container's or sandbox's record, which hold a spec
	maxDepth      = 512     // layers of a snapshot
)

// ValidateIdentifier checks the name of a namespace, container, sandbox or driver: at most 76 letters, digits and single
// dots, dashes or underlines between them. Such a name is safe as a file name.
func ValidateIdentifier(what, s string) error {
	switch {
	case s == "":
		return invalid("%s is empty", what)
	case len(s) > maxIdentifier:
		return invalid("%s %q is longer than %d characters", what, shorten(s), maxIdentifier)
	case !isIdentifier(s):
		return invalid("%s %q is not made of letters and digits with single dots, dashes or underlines between them", what, s)
	}
	return nil
}

func isIdentifier(s string) bool {
	between := true // at the begin, or after a dot, dash or underline
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9':
			between = false
		case between || c != '.' && c != '-' && c != '_':
			return false
		default:
			between = true
		}
	}
	return !between
}

// ValidateLabels checks that no label is larger than 4096 bytes.
func ValidateLabels(labels map[string]string) error {
	for k, v := range labels {
		switch {
		case k == "":
			return invalid("a label has no key")
		case len(k)+len(v) > maxLabel:
			return invalid("label %q takes %d bytes with its value, more than %d", shorten(k), len(k)+len(v), maxLabel)
		}
	}
	return nil
}

// ValidateDigest checks that d is a digest of an algorithm that blobs can be verified with.
func ValidateDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return invalid("digest %q: %w", shorten(string(d)), err)
	}
	return nil
}

func validateNamespace(ns string) error {
	switch {
	case ns == "":
		return fmt.Errorf("namespace is required: %w", errdefs.ErrFailedPrecondition)
	case ns == "version":
		return invalid(`no namespace can be called "version"`)
	}
	return ValidateIdentifier("namespace", ns)
}

func validateName(noun, name string) error {
	switch {
	case name == "":
		return invalid("the name of the %s is empty", noun)
	case len(name) > maxName:
		return invalid("the name %q of the %s is longer than %d bytes", shorten(name), noun, maxName)
	case strings.Contains(name, separator):
		return invalid("the name %q of the %s has a NUL byte", shorten(name), noun)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// shorten keeps what a client sent from filling logs.
func shorten(s string) string {
	if len(s) > 64 {
		return s[:61] + "..."
	}
	return s
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}
