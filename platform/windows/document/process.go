package document

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform/windows/hcs"
)

// Process answers the program of a runtime-spec process object. Whether it has pipes, a console, and of what size, is the caller's to add.
//
// The command line is process.commandLine when there is one (for images with ArgsEscaped it was made of Entrypoint and Cmd), or else
// process.args, quoted so that programs that split it as CommandLineToArgvW does get them back.
func Process(p *specs.Process) (hcs.ProcessParameters, error) {
	var none hcs.ProcessParameters
	if field := linuxOnly(p); field != "" {
		return none, invalid("process.%s: means nothing on Windows", field)
	}
	line := p.CommandLine
	if line == "" {
		if len(p.Args) == 0 || p.Args[0] == "" {
			return none, invalid("process has neither args nor a commandLine")
		}
		if strings.Contains(p.Args[0], `"`) {
			return none, invalid("process.args: the name of a program cannot have a quotation mark: %#.80q", p.Args[0])
		}
		line = commandLine(p.Args)
	}
	if len(line) > maxText || strings.IndexByte(line, 0) >= 0 {
		return none, invalid("the command line is longer than %d or has a zero byte", maxText)
	}
	env, err := environment(p.Env)
	if err != nil {
		return none, err
	}
	cwd, err := workingDirectory(p.Cwd)
	if err != nil {
		return none, err
	}
	if strings.IndexByte(p.User.Username, 0) >= 0 || len(p.User.Username) > 512 {
		return none, invalid("process.user.username %#.80q is none", p.User.Username)
	}
	return hcs.ProcessParameters{CommandLine: line, User: p.User.Username, WorkingDirectory: cwd, Environment: env}, nil
}

// environment makes a map. Names differ on Windows by more than case only, and the last of a name counts.
func environment(list []string) (map[string]string, error) {
	env, names := map[string]string{}, map[string]string{}
	for _, e := range list {
		name, value, ok := strings.Cut(e, "=")
		if !ok || name == "" || strings.IndexByte(e, 0) >= 0 {
			return nil, invalid("process.env: %#.80q is not NAME=VALUE", e)
		}
		if old, ok := names[strings.ToUpper(name)]; ok {
			delete(env, old)
		}
		names[strings.ToUpper(name)] = name
		env[name] = value
	}
	return env, nil
}

func workingDirectory(cwd string) (string, error) {
	dir := strings.ReplaceAll(cwd, "/", `\`)
	if strings.HasPrefix(dir, `\`) && !strings.HasPrefix(dir, `\\`) {
		dir = "C:" + dir
	}
	if dir != "" && !strings.HasPrefix(dir, `\\`) && (len(dir) < 3 || !isDrive(dir) || dir[2] != '\\') || strings.IndexByte(dir, 0) >= 0 || len(dir) > maxText {
		return "", invalid(`process.cwd %#.80q is not absolute: it must begin as C:\ does`, cwd)
	}
	return dir, nil
}

// commandLine joins arguments by the rules that C's start-up code on Windows splits by: arguments with blanks are quoted, and of
// backslashes those before a quotation mark, and only they, are doubled.
func commandLine(args []string) string {
	var b strings.Builder
	for i, a := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		switch {
		case i == 0: // split by other rules: quotation marks only, no backslashes
			if a == "" || strings.ContainsAny(a, " \t") {
				a = `"` + a + `"`
			}
			b.WriteString(a)
		case a != "" && !strings.ContainsAny(a, " \t\n\v\""):
			b.WriteString(a)
		default:
			quote(&b, a)
		}
	}
	return b.String()
}

func quote(b *strings.Builder, arg string) {
	b.WriteByte('"')
	slashes := 0
	for _, c := range []byte(arg) {
		switch c {
		case '\\':
			slashes++
		case '"':
			b.WriteString(strings.Repeat(`\`, slashes+1)) // those before it once more, and one for itself
			slashes = 0
		default:
			slashes = 0
		}
		b.WriteByte(c)
	}
	b.WriteString(strings.Repeat(`\`, slashes))
	b.WriteByte('"')
}
