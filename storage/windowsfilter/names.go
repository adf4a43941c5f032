package windowsfilter

import (
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/slipwayd/slipway/internal/winname"
)

// What a name may have, in UTF-16 units (NTFS, and the NT object manager's limit for a path).
const (
	maxPart = 255
	maxName = 32000
)

// metadataSuffix ends the names of files in which Windows' transport format keeps what belongs to directories; in a layer of an image it
// would be mistaken for one.
const metadataSuffix = ".$wcidirs$"

func refuse(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// entryName answers the clean form of the name of an entry of a layer's tar: relative, with slashes, below Files, Hives or UtilityVM. A
// file's alternate stream is cut off and answered apart. InvalidArgument for names that Windows would take for something else than a file
// at that place.
func entryName(name string) (clean, stream string, err error) {
	if len(name) > 3*maxName { // bytes of UTF-8
		return "", "", refuse("a name of %d bytes is too long", len(name))
	}
	if !utf8.ValidString(name) {
		return "", "", refuse("name %q is not UTF-8", name)
	}
	if strings.HasPrefix(name, "/") {
		return "", "", refuse("name %q is absolute", name)
	}
	if len(name) >= 2 && name[1] == ':' {
		return "", "", refuse("name %q begins with a drive letter", name)
	}
	rest := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if dir, base := path.Split(rest); strings.Contains(base, ":") {
		base, stream, _ = strings.Cut(base, ":")
		if stream, err = streamName(name, stream); err != nil {
			return "", "", err
		}
		rest = dir + base
	}
	parts := strings.Split(rest, "/")
	units := len(parts)
	for _, part := range parts {
		if err := checkPart(name, part); err != nil {
			return "", "", err
		}
		units += utf16Len(part)
	}
	if units > maxName {
		return "", "", refuse("name %.100q… is too long: %d characters, of %d", name, units, maxName)
	}
	return rest, stream, checkTop(name, parts)
}

// checkPart says whether Windows can have a file of that name, and takes it for nothing else (Win32, "Naming Files, Paths, and Namespaces").
func checkPart(name, part string) error {
	switch {
	case part == "":
		return refuse("name %q has an empty part", name)
	case part == "." || part == "..":
		return refuse("name %q has the part %q", name, part)
	case utf16Len(part) > maxPart:
		return refuse("name %.100q… has a part that is longer than %d characters", name, maxPart)
	case strings.HasSuffix(part, ".") || strings.HasSuffix(part, " "):
		return refuse("name %q has a part that ends with a dot or a space, which Windows drops", name)
	case strings.HasSuffix(strings.ToLower(part), metadataSuffix):
		return refuse("name %q ends with %s, which Windows keeps for itself in layers", name, metadataSuffix)
	}
	for _, c := range part {
		if c < ' ' || strings.ContainsRune(`<>:"\|?*`, c) {
			return refuse("name %q has the character %q, which names on Windows cannot have", name, c)
		}
	}
	if winname.Reserved(part) {
		return refuse("name %q has the part %q, which is a device on Windows", name, part)
	}
	return nil
}

// checkTop says whether a layer may have something there.
func checkTop(name string, parts []string) error {
	switch parts[0] {
	case "Files":
		return nil
	case "Hives":
		if len(parts) <= 2 {
			return nil
		}
	case "UtilityVM":
		if len(parts) == 1 || parts[1] == "Files" {
			return nil
		}
	}
	return refuse("name %q is not below Files, Hives or UtilityVM/Files: is the layer one of Windows?", name)
}

// streamName answers the name of an alternate stream without its type, of which only data can be.
func streamName(name, stream string) (string, error) {
	stream = strings.TrimSuffix(stream, ":$DATA")
	if stream == "" || utf16Len(stream) > maxPart {
		return "", refuse("name %.200q has no good name of a stream", name)
	}
	for _, c := range stream {
		if c < ' ' || strings.ContainsRune(`:\/`, c) {
			return "", refuse("name %q has the character %q in the name of a stream", name, c)
		}
	}
	return stream, nil
}

// fold answers a form of a name that is the same for names that are the same to NTFS. Its table of capitals maps single
// characters of two bytes, as this does.
func fold(name string) string {
	return strings.Map(func(c rune) rune {
		if up := unicode.ToUpper(c); c <= 0xffff && up <= 0xffff {
			return up
		}
		return c
	}, name)
}

func utf16Len(s string) (n int) {
	for _, c := range s {
		n++
		if c > 0xffff {
			n++
		}
	}
	return n
}
