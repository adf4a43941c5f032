// Package ci holds what CI and developers run; this test keeps the architecture what ARCHITECTURE.md says it is.
package ci

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/slipwayd/slipway"

// allowed is the import table of ARCHITECTURE.md: a folder (with everything below it, unless a longer one is listed) and
// the folders of this module that it may import. Importing from its own folder is always allowed.
var allowed = map[string][]string{
	"internal":              {"storage"},
	"content":               {"internal"},
	"storage":               {"content"},
	"storage/overlay":       {"storage", "content", "internal"},
	"storage/native":        {"storage", "content", "internal"},
	"storage/lazyfuse":      {"storage", "storage/overlay", "content", "internal"},
	"storage/windowsfilter": {"storage", "content", "internal"},
	"platform":              {"storage"},
	"platform/linux":        {"platform", "storage", "internal"},
	"platform/windows":      {"platform", "storage", "internal"},
	"shim":                  {"platform", "storage", "internal"},
	"metadata":              {"storage", "content", "internal"},
	"image":                 {"image/reference", "content", "storage", "metadata", "internal"},
	"image/reference":       {},
	"image/lazyindex":       {"image", "image/reference", "content", "storage", "storage/lazyfuse", "internal"},
	"network":               {"internal"},
	"nri":                   {"internal"},
	"spec":                  {"internal"},
	"engine":                {"content", "storage", "platform", "shim", "metadata", "image", "image/reference", "image/lazyindex", "network", "nri", "internal", "spec"},
	"api":                   {"engine", "metadata", "shim", "storage", "content", "image", "internal", "spec"},
	"client":                {"api", "spec", "image/reference", "storage", "internal"},
	"cmd":                   {"*"},
	"testsuite":             {"content", "storage", "storage/lazyfuse", "platform", "internal", "metadata"},
	"testsuite/bench":       {"client", "spec", "testsuite"},
	"ci":                    {},
}

// onlyIn names third-party modules that a single place may import directly.
var onlyIn = map[string][]string{
	"github.com/opencontainers/runc/":        {"platform/linux", "cmd/slipway-shim"},
	"google.golang.org/grpc":                 {"api", "client", "cmd", "shim", "testsuite"},
	"google.golang.org/protobuf":             {"api", "client", "cmd", "shim", "platform/linux", "platform/windows", "testsuite"},
	"github.com/containerd/containerd/api":   {"api", "client", "cmd", "shim", "platform/linux", "testsuite"},
	"go.etcd.io/bbolt":                       {"metadata"},
	"oras.land/":                             {"image"},
	"k8s.io/":                                {"api/cri"},
	"github.com/containerd/containerd/v2":    {},
	"github.com/containerd/nri":              {"nri"},
	"github.com/google/go-containerregistry": {"testsuite", "cmd/demo", "ci"},
}

// never names what a program must not link, however it comes.
var never = map[string][]string{
	"cmd/slipway-shim": {"google.golang.org/grpc", "k8s.io/", "github.com/prometheus/", "go.etcd.io/bbolt", "oras.land/", "github.com/spf13/cobra", module + "/engine", module + "/metadata"},
	"cmd/slipwayd":     {"github.com/containerd/containerd/v2", "github.com/opencontainers/runc"},
	"cmd/slipway":      {"github.com/containerd/containerd/v2", "github.com/opencontainers/runc", "go.etcd.io/bbolt", module + "/engine"},
}

// mayLink are exceptions from never: small packages that a library of ours cannot do without.
var mayLink = []string{"google.golang.org/grpc/codes", "google.golang.org/grpc/status", "google.golang.org/grpc/internal", "google.golang.org/grpc/internal/status", "google.golang.org/grpc/connectivity", "google.golang.org/grpc/serviceconfig", "google.golang.org/grpc/grpclog", "google.golang.org/grpc/grpclog/internal"}

type pkg struct {
	ImportPath, Dir string
	Imports, Deps   []string
	Standard        bool
	Module          *struct{ Path string }
}

func list(t *testing.T, goos string) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,Deps,Standard,Module", "./...")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "GOOS="+goos)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list for %s: %v", goos, err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// row finds the line of the table that a folder falls under: the longest prefix.
func row(folder string) (string, []string, bool) {
	for f := folder; f != "."; f = filepath.Dir(f) {
		if a, ok := allowed[f]; ok {
			return f, a, true
		}
	}
	return "", nil, false
}

func within(folder, parent string) bool {
	return folder == parent || strings.HasPrefix(folder, parent+"/")
}

func TestImports(t *testing.T) {
	for _, goos := range []string{"linux", "windows"} {
		for _, p := range list(t, goos) {
			folder := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
			own, may, ok := row(folder)
			if !ok {
				t.Errorf("%s: folder %q is not in the import table: add it there and to ARCHITECTURE.md", goos, folder)
				continue
			}
			for _, imp := range p.Imports {
				if err := mayImport(folder, own, may, imp); err != nil {
					t.Errorf("%s: %s: %v", goos, folder, err)
				}
			}
			for _, bad := range never[folder] {
				for _, d := range p.Deps {
					if (d == bad || strings.HasPrefix(d, strings.TrimSuffix(bad, "/")+"/")) && !slices.Contains(mayLink, d) {
						t.Errorf("%s: %s links %s, which it must not", goos, folder, d)
					}
				}
			}
		}
	}
}

func mayImport(folder, own string, may []string, imp string) error {
	if rel, ours := strings.CutPrefix(imp, module+"/"); ours {
		// The row's own folder may be imported by its children and siblings, a longer row (a driver) may not.
		target, _, _ := row(rel)
		if target == own || slices.Contains(may, "*") || slices.Contains(may, target) || slices.ContainsFunc(may, func(m string) bool { return m == rel }) {
			return nil
		}
		return fmt.Errorf("must not import %s", rel)
	}
	for prefix, places := range onlyIn {
		if imp != prefix && !strings.HasPrefix(imp, strings.TrimSuffix(prefix, "/")+"/") {
			continue
		}
		if !slices.ContainsFunc(places, func(pl string) bool { return within(folder, pl) }) {
			return fmt.Errorf("must not import %s (only %v may)", imp, places)
		}
	}
	return nil
}

// mayInit are the files whose init function runs before main on purpose; each says why.
var mayInit = []string{"platform/linux/reexec"}

func TestSources(t *testing.T) {
	comments := map[string]bool{} // folder -> has a package comment
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel("..", path)
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != ".." || d.Name() == "testdata" || rel == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go") {
			return nil
		}
		checkFile(t, path, rel, comments)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for folder, ok := range comments {
		if !ok {
			t.Errorf("%s: no package comment: say what it owns, what it never imports, what a crash leaves", folder)
		}
	}
}

const (
	maxFile     = 450 // lines; 300 is the aim
	maxFunction = 90  // lines; 60 is the aim
)

func checkFile(t *testing.T, path, rel string, comments map[string]bool) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(rel)
	if strings.HasSuffix(path, "_test.go") {
		return
	}
	comments[folder] = comments[folder] || f.Doc != nil
	if ast.IsGenerated(f) {
		return
	}
	if n := fset.File(f.Pos()).LineCount(); n > maxFile {
		t.Errorf("%s: %d lines; split it (at most %d)", rel, n, maxFile)
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if fn.Recv == nil && fn.Name.Name == "init" && !slices.Contains(mayInit, folder) {
			t.Errorf("%s: init function: wire it in cmd", fset.Position(fn.Pos()))
		}
		if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line; n > maxFunction {
			t.Errorf("%s: %s has %d lines; split it (at most %d)", fset.Position(fn.Pos()), fn.Name.Name, n, maxFunction)
		}
	}
}
