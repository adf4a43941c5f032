package document

import "strings"

// pipePrefix is where named pipes are, on the host and in a container.
const pipePrefix = `\\.\pipe\`

// pipeName answers the name of a pipe.
func pipeName(path string) (string, bool) {
	path = strings.ReplaceAll(path, "/", `\`)
	if len(path) < len(pipePrefix) || !strings.EqualFold(path[:len(pipePrefix)], pipePrefix) {
		return "", false
	}
	return path[len(pipePrefix):], true
}

func validPipe(name string) bool {
	return name != "" && len(name) <= 256 && !strings.ContainsAny(name, "\\/:*?\"<>|\x00")
}

// hostPath cleans an absolute path of the host: C:\x, \\server\share\x or \\?\Volume{GUID}\x.
func hostPath(path string) (string, error) {
	path = strings.ReplaceAll(path, "/", `\`)
	switch {
	case strings.IndexByte(path, 0) >= 0 || len(path) > maxText:
		return "", invalid("path %#.80q has a zero byte or is too long", path)
	case strings.HasPrefix(path, `\\`):
		return path, nil
	case len(path) < 3 || !isDrive(path) || path[2] != '\\':
		return "", invalid(`path %#q is not absolute: it must begin as C:\ does`, path)
	}
	return path[:2] + cleanBackslashes(path[2:]), nil
}

// containerPath cleans where something is to appear in a container. A path without a drive is on C:, the container's own.
func containerPath(path string) (string, error) {
	clean := strings.ReplaceAll(path, "/", `\`)
	if len(clean) > 0 && clean[0] == '\\' && !strings.HasPrefix(clean, `\\`) {
		clean = "C:" + clean
	}
	if len(clean) < 3 || !isDrive(clean) || clean[2] != '\\' {
		return "", invalid(`destination %#q is not absolute: it must begin as C:\ does`, path)
	}
	rest := cleanBackslashes(clean[2:])
	if rest == `\` {
		if clean[0] == 'C' || clean[0] == 'c' {
			return "", invalid("destination %#q is the container's own drive, which cannot be mounted over", path)
		}
		return clean[:3], nil
	}
	for name := range strings.SplitSeq(rest[1:], `\`) {
		if name == ".." || strings.ContainsAny(name, "<>:\"|?*\x00") || strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") {
			return "", invalid("destination %#q has a part %#q that is no name on Windows", path, name)
		}
	}
	return clean[:2] + rest, nil
}

func isDrive(path string) bool {
	letter := path[0] | 0x20
	return letter >= 'a' && letter <= 'z' && path[1] == ':'
}

// cleanBackslashes removes empty parts and dots, and the backslash at the end.
func cleanBackslashes(path string) string {
	var parts []string
	for part := range strings.SplitSeq(path, `\`) {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return `\` + strings.Join(parts, `\`)
}

// volumePath takes \\?\Volume{GUID}, with or without a backslash at its end, and answers it without.
func volumePath(path string) (string, error) {
	const prefix, example = `\\?\Volume{`, "01234567-0123-0123-0123-0123456789ab"
	volume := strings.TrimSuffix(path, `\`)
	inner, ok := strings.CutSuffix(volume, "}")
	if !ok || len(inner) < len(prefix) || !strings.EqualFold(inner[:len(prefix)], prefix) || !isGUID(inner[len(prefix):]) {
		return "", invalid(`root.path %#q is no volume: it must look as \\?\Volume{%s}\ does`, path, example)
	}
	return volume, nil
}

// isGUID knows only the form without braces.
func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F':
		default:
			return false
		}
	}
	return true
}
