package launch

import (
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"github.com/slipwayd/slipway/testsuite/hcssim/schema"
)

// mapping is where the simulator has a container's directories: of two that fit, the longer one counts.
type mapping struct {
	files string // drive C: of the container; "" when the scratch isn't known, and paths mean the host's
	dirs  []schema.Directory
}

func view(s *schema.System, files func(string) string) mapping {
	scratch := s.Volume
	if s.HyperV {
		scratch = s.Scratch
	}
	return mapping{files: files(scratch), dirs: s.Directories}
}

// host turns a path of the container into one of the host; what isn't there stays as it is, as Windows' own programs do.
func (m mapping) host(path string) string {
	best, to := "", ""
	for _, d := range m.dirs {
		if under(path, d.Container) && len(d.Container) > len(best) {
			best, to = d.Container, d.Host
		}
	}
	if best != "" {
		return to + path[len(strings.TrimRight(best, `\`)):]
	}
	if m.files == "" || len(path) < 3 || !strings.EqualFold(path[:3], `C:\`) {
		return path
	}
	inside := filepath.Join(m.files, path[3:])
	if _, err := os.Stat(inside); err == nil {
		return inside
	}
	if _, err := os.Stat(filepath.Dir(inside)); err == nil && !strings.EqualFold(filepath.Dir(path), `C:\windows\system32`) {
		return inside // a file to be made
	}
	return path
}

func under(path, dir string) bool {
	dir = strings.TrimRight(dir, `\`)
	return len(path) >= len(dir) && strings.EqualFold(path[:len(dir)], dir) && (len(path) == len(dir) || path[len(dir)] == '\\')
}

func (m mapping) application(name string) string { return m.host(name) }

func (m mapping) directory(dir string) string {
	if dir == "" || dir == `\` {
		dir = `C:\`
	}
	if h := m.host(dir); h != dir || m.files == "" {
		return h
	}
	if _, err := os.Stat(dir); err != nil {
		return dir // CreateProcess says what is wrong
	}
	return dir
}

// commandLine turns each word that is a full path, with or without quotes, into the host's.
func (m mapping) commandLine(line string) string {
	var out strings.Builder
	for i := 0; i < len(line); {
		start := i == 0 || strings.ContainsRune(" \"=<>|&(,;", rune(line[i-1]))
		if !start || len(line)-i < 3 || line[i+1:i+3] != `:\` {
			out.WriteByte(line[i])
			i++
			continue
		}
		end := strings.IndexAny(line[i:], " \"<>|&),;\t")
		if i > 0 && line[i-1] == '"' {
			end = strings.IndexByte(line[i:], '"')
		}
		if end < 0 {
			end = len(line) - i
		}
		out.WriteString(m.host(line[i : i+end]))
		i += end
	}
	return out.String()
}

// environment is the simulator's own, changed by vars, as CreateProcess wants it.
func (m mapping) environment(vars map[string]string) []uint16 {
	var block []uint16
	add := func(kv string) { block = append(append(block, utf16.Encode([]rune(kv))...), 0) }
	given := map[string]bool{}
	for k, v := range vars {
		given[strings.ToUpper(k)] = true
		add(k + "=" + v)
	}
	for _, k := range []string{"SystemRoot", "SystemDrive", "PATH", "PATHEXT", "ComSpec", "TEMP", "TMP", "USERNAME", "USERPROFILE", "OS", "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE"} {
		if v, ok := os.LookupEnv(k); ok && !given[strings.ToUpper(k)] {
			add(k + "=" + v)
		}
	}
	return append(block, 0)
}

func image(application, command string) string {
	if application == "" {
		application, _, _ = strings.Cut(strings.TrimPrefix(command, `"`), " ")
	}
	name := strings.TrimSuffix(filepath.Base(application), `"`)
	if filepath.Ext(name) == "" {
		name += ".exe"
	}
	return name
}
