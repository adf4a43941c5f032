package index

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

func entries(list ...string) string {
	return `{"version":1,"entries":[` + strings.Join(list, ",") + `]}`
}

func regEntry(name, more string) string {
	sum := digest.FromString("x")
	return fmt.Sprintf(`{"type":"reg","name":%q,"mode":420,"digest":"%s","chunkDigest":"%s"%s}`, name, sum, sum, more)
}

// TestHostileTables refuses each, with a kind that says why.
func TestHostileTables(t *testing.T) {
	const file = `,"size":100,"offset":10`
	deep := strings.Repeat("d/", 2000) + strings.Repeat("n", 200)
	for name, text := range map[string]string{
		"parent":              entries(regEntry("../a", file)),
		"parent inside":       entries(regEntry("a/../../b", file)),
		"absolute":            entries(regEntry("/etc/passwd", file)),
		"zero byte":           entries(regEntry("a", file), `{"type":"dir","name":"b\u0000c"}`),
		"long name":           entries(regEntry(strings.Repeat("n", 256), file)),
		"long path":           entries(regEntry(deep, file)),
		"duplicate":           entries(regEntry("a", file), regEntry("./a", `,"size":100,"offset":500`)),
		"duplicate directory": entries(`{"type":"dir","name":"a"}`, `{"type":"dir","name":"a/"}`),
		"below a file":        entries(regEntry("a", file), regEntry("a/b", `,"size":1,"offset":500`)),
		"below a link":        entries(`{"type":"symlink","name":"a","linkName":"/"}`, regEntry("a/b", file)),
		"root is a file":      entries(regEntry(".", file)),
		"link loop":           entries(`{"type":"hardlink","name":"a","linkName":"b"}`, `{"type":"hardlink","name":"b","linkName":"a"}`),
		"link to itself":      entries(`{"type":"hardlink","name":"a","linkName":"a"}`),
		"dangling link":       entries(`{"type":"hardlink","name":"a","linkName":"nothing"}`),
		"link to a directory": entries(`{"type":"dir","name":"d"}`, `{"type":"hardlink","name":"a","linkName":"d"}`),
		"link outside":        entries(`{"type":"hardlink","name":"a","linkName":"../../etc/shadow"}`),
		"negative size":       entries(regEntry("a", `,"size":-1,"offset":10`)),
		"huge size":           entries(regEntry("a", `,"size":4611686018427387904,"offset":10`)),
		"sum of sizes":        entries(regEntry("a", `,"size":4611686018427387903,"offset":10`), regEntry("b", `,"size":4611686018427387903,"offset":20`)),
		"too large a number":  entries(regEntry("a", `,"size":99999999999999999999,"offset":10`)),
		"no whole number":     entries(regEntry("a", `,"size":1.5,"offset":10`)),
		"outside":             entries(regEntry("a", `,"size":100,"offset":1073741824`)),
		"negative offset":     entries(regEntry("a", `,"size":100,"offset":-5`)),
		"negative chunk":      entries(regEntry("a", `,"size":100,"offset":10,"chunkSize":-4`)),
		"huge chunk":          entries(regEntry("a", `,"size":100,"offset":10,"chunkSize":4611686018427387904`)),
		"overlapping chunks":  entries(regEntry("a", `,"size":100,"offset":10,"chunkSize":60`), `{"type":"chunk","name":"a","offset":90,"chunkOffset":50,"chunkSize":50,"chunkDigest":"`+digest.FromString("y").String()+`"}`),
		"gap between chunks":  entries(regEntry("a", `,"size":100,"offset":10,"chunkSize":40`), `{"type":"chunk","name":"a","offset":90,"chunkOffset":50,"chunkSize":50,"chunkDigest":"`+digest.FromString("y").String()+`"}`),
		"chunk of nothing":    entries(`{"type":"chunk","name":"a","offset":90,"chunkSize":50}`),
		"chunk of another":    entries(regEntry("a", `,"size":100,"offset":10,"chunkSize":60`), `{"type":"chunk","name":"b","offset":90,"chunkOffset":60,"chunkSize":40}`),
		"chunks too short":    entries(regEntry("a", `,"size":100,"offset":10,"chunkSize":60`)),
		"same place":          entries(regEntry("a", file), regEntry("b", file)),
		"bomb":                entries(regEntry("a", `,"size":60000000,"offset":10`), regEntry("b", `,"size":1,"offset":20`)),
		"two digests":         entries(`{"type":"reg","name":"a","size":100,"offset":10,"digest":"` + digest.FromString("x").String() + `","chunkDigest":"` + digest.FromString("y").String() + `"}`),
		"no digest":           entries(`{"type":"reg","name":"a","size":100,"offset":10}`),
		"wrong digest":        entries(`{"type":"reg","name":"a","size":100,"offset":10,"digest":"sha256:zz"}`),
		"other digest":        entries(`{"type":"reg","name":"a","size":100,"offset":10,"digest":"md5:d41d8cd98f00b204e9800998ecf8427e"}`),
		"unknown type":        entries(`{"type":"door","name":"a"}`),
		"owner":               entries(`{"type":"dir","name":"a","uid":-1}`),
		"device":              entries(`{"type":"char","name":"a","devMajor":-1,"devMinor":1}`),
		"time":                entries(`{"type":"dir","name":"a","modtime":"yesterday"}`),
		"attribute":           entries(`{"type":"dir","name":"a","xattrs":{"user.x":"%"}}`),
		"empty attribute":     entries(`{"type":"dir","name":"a","xattrs":{"":"YQ=="}}`),
		"link without target": entries(`{"type":"symlink","name":"a"}`),
		"whiteout above":      entries(regEntry(".wh.a/b", file)),
		"whiteout of nothing": entries(regEntry(".wh.", "")),
		"whiteout of parent":  entries(regEntry("a/.wh...", "")),
		"version":             `{"version":2,"entries":[]}`,
		"no version":          `{"entries":[]}`,
		"depth":               `{"version":1,"x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `,"entries":[]}`,
		"cut":                 `{"version":1,"entries":[{"type":"dir"`,
		"more":                entries() + `{}`,
		"no JSON":             `<toc/>`,
		"half a pair":         entries(`{"type":"dir","name":"\ud800"}`),
		"control":             entries("{\"type\":\"dir\",\"name\":\"a\nb\"}"),
	} {
		t.Run(name, func(t *testing.T) {
			x, err := jsonTable(t, text).parse(Limits{})
			if err == nil {
				t.Fatalf("was taken, %d nodes", x.Len())
			}
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
				t.Errorf("refused with %v", err)
			}
		})
	}
}

// TestLimits refuses what is legal and too much.
func TestLimits(t *testing.T) {
	text := entries(`{"type":"dir","name":"a"}`, regEntry("b", `,"size":100,"offset":10`), regEntry("c", `,"size":100,"offset":50`))
	table := jsonTable(t, text)
	for _, l := range []Limits{{Nodes: 3}, {Units: 1}, {Bytes: int64(len(text) - 1)}, {UnitSize: 99}} {
		if _, err := table.parse(l); !errdefs.IsOutOfRange(err) && !errdefs.IsNotImplemented(err) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	x, err := table.parse(Limits{Nodes: 4, Units: 2, Bytes: int64(len(text)), UnitSize: 100})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(x.Marshal(), Limits{Nodes: 3}); err == nil {
		t.Error("parsed beyond the limit")
	}
	plain := tarOf(t, allTypes(severalSpans))
	for _, l := range []Limits{{Nodes: 10}, {Units: 1}, {UnitSize: 1000}} {
		if _, err := tryRecord(plain, l); !errdefs.IsOutOfRange(err) && !errdefs.IsNotImplemented(err) {
			t.Errorf("recorded with %+v: %v", l, err)
		}
	}
	if _, err := tryRecord(zstandard(plain), Limits{UnitSize: 1 << 20}); !errdefs.IsNotImplemented(err) {
		t.Errorf("one zstd frame of %d bytes: %v", len(plain), err)
	}
}

// TestMemory adds up what an index of 100,000 files holds; a tenth of them has to do for the race detector, which takes a minute for all.
func TestMemory(t *testing.T) {
	files, most := 100_000, 16<<20
	if raceDetector() {
		files, most = files/10, most/10
	}
	x, err := tocOf(t, files).parse(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	sum := len(x.text) + cap(x.digests) +
		cap(x.nodes)*int(unsafe.Sizeof(node{})) + cap(x.entries)*int(unsafe.Sizeof(entry{})) +
		cap(x.extents)*int(unsafe.Sizeof(extent{})) + cap(x.units)*int(unsafe.Sizeof(unit{})) + 4*cap(x.skips)
	if t.Logf("%d nodes, %d bytes", x.Len(), sum); sum > most {
		t.Errorf("%d bytes", sum)
	}
}

// hugeTables write documents that are refused for what they would cost.
var hugeTables = map[string]func(*bufio.Writer){
	"entries": func(w *bufio.Writer) {
		for range 10_000_000 {
			_, _ = w.WriteString("{},")
		}
	},
	"few braces": func(w *bufio.Writer) { // a name each, and directories on the way
		for i := range 200_000 {
			fmt.Fprintf(w, `{"type":"dir","name":"%d/a/b/c/d/e/f/g"},`, i)
		}
	},
	"long targets": func(w *bufio.Writer) {
		target := strings.Repeat("t", 4000)
		for i := range 30_000 {
			fmt.Fprintf(w, `{"type":"symlink","name":"%d","linkName":"%s"},`, i, target)
		}
	},
	"attributes": func(w *bufio.Writer) {
		value := strings.Repeat("QUFB", 10_000)
		for i := range 3_000 {
			fmt.Fprintf(w, `{"type":"dir","name":"%d","xattrs":{"user.%d":"%s"}},`, i, i, value)
		}
	},
	"spaces": func(w *bufio.Writer) {
		space := strings.Repeat(" ", 1<<20)
		for range 140 {
			_, _ = w.WriteString(space)
		}
	},
	"chunks": func(w *bufio.Writer) {
		sum := digest.FromString("x").String()
		fmt.Fprintf(w, `{"type":"reg","name":"a","size":1000000000,"offset":1,"chunkSize":1,"chunkDigest":"%s"},`, sum)
		for i := 1; i < 700_000; i++ {
			fmt.Fprintf(w, `{"type":"chunk","name":"a","offset":%d,"chunkOffset":%d,"chunkSize":1,"chunkDigest":"%s"},`, i+1, i, sum)
		}
	},
}

// TestHugeTables parses each in a process of its own, which says how much memory it came to need.
func TestHugeTables(t *testing.T) {
	if which := os.Getenv("SLIPWAY_HUGE_TABLE"); which != "" {
		parseHuge(t, which)
		return
	}
	if raceDetector() {
		t.Skip("the race detector needs several times the memory")
	}
	for name, write := range hugeTables {
		t.Run(name, func(t *testing.T) {
			size := counted(write)
			table := tableOf(t, size, 1<<40, func(w io.Writer) error { return writeTable(w, write) })
			file := t.TempDir() + "/table"
			if err := os.WriteFile(file, table.packed, 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0], "-test.run=^TestHugeTables$", "-test.v")
			cmd.Env = append(os.Environ(), "SLIPWAY_HUGE_TABLE="+file+" "+table.sum.String())
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%d bytes of JSON in %d: %s", size, len(table.packed), out)
		})
	}
}

func writeTable(w io.Writer, write func(*bufio.Writer)) error {
	b := bufio.NewWriter(w)
	_, _ = b.WriteString(`{"version":1,"entries":[`)
	write(b)
	_, _ = b.WriteString(`{"type":"dir","name":"last"}]}`)
	return b.Flush()
}

type countWriter int64

func (c *countWriter) Write(p []byte) (int, error) {
	*c += countWriter(len(p))
	return len(p), nil
}

func counted(write func(*bufio.Writer)) int64 {
	var c countWriter
	_ = writeTable(&c, write)
	return int64(c)
}

func parseHuge(t *testing.T, which string) {
	file, sum, _ := strings.Cut(which, " ")
	packed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before := peak(t)
	start := time.Now()
	_, err = FromEStargz(packed, 1<<40, 1<<39, digest.Digest(sum), Limits{})
	if err == nil {
		t.Fatal("was taken")
	}
	need := peak(t) - before
	t.Logf("%v, %d MiB: %.200v", time.Since(start).Round(time.Millisecond), need>>20, err)
	if need > 64<<20 {
		t.Errorf("needed %d MiB", need>>20)
	}
}

// raceDetector says whether the test runs with it.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// peak is the most memory that the process has had.
func peak(t *testing.T) int64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("only Linux tells how much memory was needed")
	}
	_, rest, _ := bytes.Cut(data, []byte("VmHWM:"))
	n, _ := strconv.ParseInt(strings.Fields(string(rest))[0], 10, 64)
	return n << 10
}
