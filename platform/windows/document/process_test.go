package document_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/slipwayd/slipway/platform/windows/document"
	"github.com/slipwayd/slipway/platform/windows/hcs"
)

func TestProcess(t *testing.T) {
	p, err := document.Process(&specs.Process{
		Args: []string{"app.exe"}, CommandLine: `cmd /c "echo hi"`, Cwd: "/app", User: specs.User{Username: "ContainerUser"},
		Env: []string{"Path=1", "A=b=c", "PATH=2", "EMPTY="},
	})
	want := map[string]string{"PATH": "2", "A": "b=c", "EMPTY": ""}
	if err != nil || p.CommandLine != `cmd /c "echo hi"` || p.WorkingDirectory != `C:\app` || p.User != "ContainerUser" || !maps.Equal(p.Environment, want) {
		t.Errorf("%+v, %v", p, err)
	}
	for line, args := range map[string][]string{
		`a b c`:                         {"a", "b", "c"},
		`"C:\Program Files\a.exe" ""`:   {`C:\Program Files\a.exe`, ""},
		`a "b c" d\e f\`:                {"a", "b c", `d\e`, `f\`},
		`a "b\\\"c" "d e\\"`:            {"a", `b\"c`, `d e\`},
		`C:\x\a.exe "say \"hi\"" "a	b"`: {`C:\x\a.exe`, `say "hi"`, "a	b"},
	} {
		if p, err := document.Process(&specs.Process{Args: args}); err != nil || p.CommandLine != line {
			t.Errorf("%q: %s, %v; want %s", args, p.CommandLine, err, line)
		}
	}
}

// split is how C's start-up code takes a command line apart (Microsoft: "Parsing C command-line arguments").
func split(line string) []string {
	var args []string
	rest := line
	if strings.HasPrefix(rest, `"`) {
		name, after, _ := strings.Cut(rest[1:], `"`)
		args, rest = append(args, name), after
	} else {
		i := strings.IndexAny(rest+" ", " \t")
		args, rest = append(args, rest[:i]), rest[i:]
	}
	for {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			return args
		}
		var arg string
		arg, rest = one(rest)
		args = append(args, arg)
	}
}

func one(s string) (arg, rest string) {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		slashes := 0
		for i < len(s) && s[i] == '\\' {
			slashes++
			i++
		}
		if i < len(s) && s[i] == '"' {
			b.WriteString(strings.Repeat(`\`, slashes/2))
			if slashes%2 == 1 {
				b.WriteByte('"')
			} else {
				quoted = !quoted
			}
			continue
		}
		b.WriteString(strings.Repeat(`\`, slashes))
		if i == len(s) {
			break
		}
		if (s[i] == ' ' || s[i] == '\t') && !quoted {
			return b.String(), s[i:]
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

// FuzzCommandLine: what a program gets is what was asked for.
func FuzzCommandLine(f *testing.F) {
	f.Add("a", "b c", `d"e\`)
	f.Add(`C:\Program Files\x`, `\\"`, "")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		args := []string{a, b, c}
		p, err := document.Process(&specs.Process{Args: args})
		if err != nil {
			return
		}
		if got := split(p.CommandLine); !slices.Equal(got, args) {
			t.Errorf("%q became %s, which is %q", args, p.CommandLine, got)
		}
	})
}

// FuzzNew: no document of a client's panics, and what is taken makes a document.
func FuzzNew(f *testing.F) {
	for _, test := range golden {
		s := base()
		test.spec(s)
		data, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, test.build)
	}
	f.Fuzz(func(t *testing.T, data []byte, build uint16) {
		c, err := document.New(host{build}, data, hcs.Layers{})
		if err != nil {
			return
		}
		if _, err := c.Document("id", document.Made{Volume: "v", LayerIDs: make([]string, len(c.Layers.Parents))}); err != nil {
			t.Error(err)
		}
	})
}
