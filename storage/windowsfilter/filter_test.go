package windowsfilter

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// admins is the security descriptor O:BAG:SYD:P(A;;GA;;;SY).
const admins = "AQAEkBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgAcAAEAAAAAABQAAAAAEAEBAAAAAAAFEgAAAA=="

func dir(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeDir, Name: name, PAXRecords: map[string]string{recordAttributes: "16"}}
}
func reg(name, data string, records ...string) *tar.Header {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Uname: data, PAXRecords: map[string]string{}}
	for i := 0; i < len(records); i += 2 {
		h.PAXRecords[records[i]] = records[i+1]
	}
	return h
}
func link(name, to string, records ...string) *tar.Header {
	h := reg(name, "", records...)
	h.Typeflag, h.Linkname = tar.TypeSymlink, to
	return h
}
func hard(name, to string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
}

// pack answers a tar; a file's content is its Uname.
func pack(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		c := *h
		c.Uname, c.Size, c.Format = "", int64(len(h.Uname)), tar.FormatPAX
		if c.ModTime.IsZero() {
			c.ModTime = time.Unix(1_700_000_000, 123456700)
		}
		if err := w.WriteHeader(&c); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, h.Uname); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// describe answers a line for each entry of a tar.
func describe(t testing.TB, data []byte) string {
	t.Helper()
	var b strings.Builder
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%c %s", h.Typeflag, h.Name)
		if h.Linkname != "" {
			fmt.Fprintf(&b, " -> %s", h.Linkname)
		}
		fmt.Fprintf(&b, " %s", h.ModTime.UTC().Format("2006-01-02T15:04:05.999999999"))
		for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if strings.HasPrefix(k, "MSWINDOWS") || strings.HasPrefix(k, "LIBARCHIVE") || strings.HasPrefix(k, "SCHILY") {
				fmt.Fprintf(&b, " %s=%s", k, h.PAXRecords[k])
			}
		}
		fmt.Fprintf(&b, " %q\n", body)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.ReplaceAll(string(want), "\r\n", "\n"); got != want {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// layers are tars of a base and of a layer on it, with everything that layers of Windows have.
func layers(t testing.TB) (base, child []byte) {
	base = pack(t,
		dir("./Files/"), dir("Files/Windows"), dir("Files/Windows/System32"), dir("Files/Windows/System32/config"),
		reg("Files/Windows/System32/config/SYSTEM", "regf", recordAttributes, "32", recordRawSD, admins, recordCreated, "1600000000.1234567"),
		reg("Files/a.exe", "MZ", recordAttributes, "33", recordSDDL, "O:BAG:SYD:P(A;;GA;;;SY)", "SCHILY.xattr.user.x", "dropped", recordEA+"EA.NAME", "AQI="),
		reg("Files/a.exe:Zone.Identifier", "[ZoneTransfer]"), reg("Files/a.exe:b:$DATA", ""),
		hard("Files/b.exe", "Files/a.exe"),
		link("Files/Documents and Settings", `C:\Users`, recordAttributes, "1040", recordMountPoint, "1"), link("Files/l", "a.exe", recordAttributes, "1056"),
		dir("UtilityVM"), dir("UtilityVM/Files"), reg("UtilityVM/Files/bootmgr", "x"), hard("UtilityVM/Files/bootmgr2", "UtilityVM/Files/bootmgr"))
	child = pack(t,
		dir("Files"), reg("Files/.wh.b.exe", ""), dir("Files/Windows"), reg("Files/Windows/.wh.old", ""), reg("Files/new", "new"), hard("Files/c.exe", "Files/a.exe"),
		dir("Hives"), reg("Hives/System_Delta", "regf"))
	return base, child
}

func filtered(t testing.TB, data []byte, parents ...string) ([]byte, error) {
	var b bytes.Buffer
	err := copyLayer(t.Context(), &b, bytes.NewReader(data), parents)
	return b.Bytes(), err
}

func TestLayersPass(t *testing.T) {
	base, child := layers(t)
	parent := t.TempDir()
	if err := os.Mkdir(filepath.Join(parent, "Files"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(parent, "Files", "a.exe"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := filtered(t, base)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "base.golden", describe(t, out))
	if out, err = filtered(t, child, parent); err != nil {
		t.Fatal(err)
	}
	golden(t, "child.golden", describe(t, out))
}

func sd(change func(b []byte)) string {
	b, _ := base64.StdEncoding.DecodeString(admins)
	change(b)
	return base64.StdEncoding.EncodeToString(b)
}

// badLayers are entries behind a good directory Files that must be refused.
func badLayers() map[string][]*tar.Header {
	return map[string][]*tar.Header{
		"device":                       {{Typeflag: tar.TypeChar, Name: "Files/null", Devmajor: 1, Devminor: 3}},
		"fifo":                         {{Typeflag: tar.TypeFifo, Name: "Files/fifo"}},
		"twice":                        {reg("Files/a", ""), reg("Files/a", "")},
		"twice in capitals":            {reg("Files/ä", ""), reg("Files/Ä", "")},
		"directory twice":              {dir("Files/d"), dir("Files/D")},
		"no directory":                 {reg("Files/d/f", "")},
		"below a file":                 {reg("Files/d", ""), reg("Files/d/f", "")},
		"below a link":                 {link("Files/d", `C:\Windows`), reg("Files/d/f", "")},
		"below a junction":             {link("Files/d", `\??\C:\`, recordMountPoint, "1", recordAttributes, "1040"), dir("Files/d/f")},
		"link replaced":                {link("Files/d", `..\..\..`), dir("Files/d"), reg("Files/d/f", "")},
		"hidden and there":             {reg("Files/a", ""), reg("Files/.wh.a", "")},
		"there and hidden":             {reg("Files/.wh.a", ""), reg("Files/A", "")},
		"hides the root":               {reg(".wh.Files", "")},
		"hides a hive":                 {reg("Hives/.wh.System_Delta", "")},
		"hides itself":                 {reg("Files/.wh.", "")},
		"hides its directory":          {reg("Files/.wh..", "")},
		"hides in what it has not":     {reg("Files/Windows/.wh.old", "")},
		"hides above":                  {reg("Files/.wh...", "")},
		"hides a device":               {reg("Files/.wh.NUL", "")},
		"hides a stream":               {reg("Files/.wh.a:s", "")},
		"hides with a line break":      {reg("Files/.wh.a\r\n\\Windows", "")},
		"hard link out":                {hard("Files/a", "../../x")},
		"hard link to a drive":         {hard("Files/a", "C:/Windows/x")},
		"hard link to nothing":         {hard("Files/a", "Files/b")},
		"hard link to a directory":     {dir("Files/d"), hard("Files/a", "Files/d")},
		"hard link to a stream":        {reg("Files/a", ""), hard("Files/b", "Files/a:s")},
		"hard link across":             {reg("Files/a", ""), dir("UtilityVM"), dir("UtilityVM/Files"), hard("UtilityVM/Files/b", "Files/a")},
		"hard link of a hive":          {reg("Files/a", ""), dir("Hives"), hard("Hives/b", "Files/a")},
		"stream of nothing":            {reg("Files/a:s", "")},
		"stream of another":            {reg("Files/a", ""), reg("Files/b", ""), reg("Files/a:s", "")},
		"stream of a hard link":        {reg("Files/a", ""), hard("Files/b", "Files/a"), reg("Files/b:s", "")},
		"stream is a directory":        {reg("Files/a", ""), dir("Files/a:s")},
		"directory stream":             {dir("Files/d"), reg("Files/d::$INDEX_ALLOCATION", "")},
		"link without end":             {link("Files/l", strings.Repeat("x", 5000))},
		"link with a zero":             {link("Files/l", "a\xff")},
		"attributes are no number":     {reg("Files/a", "", recordAttributes, "x")},
		"attributes of a directory":    {reg("Files/a", "x", recordAttributes, "16")},
		"attributes of a file":         {{Typeflag: tar.TypeDir, Name: "Files/d", PAXRecords: map[string]string{recordAttributes: "32"}}},
		"attributes are too large":     {reg("Files/a", "", recordAttributes, "4294967296")},
		"descriptor is not base64":     {reg("Files/a", "", recordRawSD, "%")},
		"descriptor is cut":            {reg("Files/a", "", recordRawSD, "AQAEgA==")},
		"descriptor is absolute":       {reg("Files/a", "", recordRawSD, sd(func(b []byte) { b[3] = 0 }))},
		"owner is outside":             {reg("Files/a", "", recordRawSD, sd(func(b []byte) { b[5] = 0xff }))},
		"owner is in the header":       {reg("Files/a", "", recordRawSD, sd(func(b []byte) { b[4] = 4 }))},
		"owner is too long":            {reg("Files/a", "", recordRawSD, sd(func(b []byte) { b[0x14+1] = 200 }))},
		"access list is too long":      {reg("Files/a", "", recordRawSD, sd(func(b []byte) { b[0x30+3] = 0xff }))},
		"access list is too short":     {reg("Files/a", "", recordRawSD, sd(func(b []byte) { b[0x30+2] = 2 }))},
		"descriptor is too long":       {reg("Files/a", "", recordRawSD, base64.StdEncoding.EncodeToString(make([]byte, 70_000)))},
		"text descriptor is too long":  {reg("Files/a", "", recordSDDL, strings.Repeat("x", 70_000))},
		"mount point that is no link":  {reg("Files/a", "", recordMountPoint, "1")},
		"creation time is no time":     {reg("Files/a", "", recordCreated, "yesterday")},
		"extended attribute":           {reg("Files/a", "", recordEA, "AQI=")},
		"extended attribute's content": {reg("Files/a", "", recordEA+"x", "?")},
		"too many extended attributes": {reg("Files/a", "", recordEA+"x", base64.StdEncoding.EncodeToString(make([]byte, 30_000)), recordEA+"y", base64.StdEncoding.EncodeToString(make([]byte, 30_000)))},
	}
}

func TestBadLayersAreRefused(t *testing.T) {
	parent := t.TempDir()
	for name, headers := range badLayers() {
		for _, parents := range [][]string{nil, {parent}} {
			if _, err := filtered(t, pack(t, append([]*tar.Header{dir("Files")}, headers...)...), parents...); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s, with %d parents: %v", name, len(parents), err)
			}
		}
	}
	for _, name := range refusedNames() {
		if strings.ContainsRune(name, 0) || name == "" || strings.HasSuffix(name, "/") {
			continue // tars cannot have them
		}
		if _, err := filtered(t, pack(t, dir("Files"), reg(name, ""))); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.100q: %v", name, err)
		}
	}
	if _, err := filtered(t, pack(t, dir("Files"), reg("Files/.wh.a", ""))); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a base that hides: %v", err)
	}
	if _, err := filtered(t, pack(t, dir("Files"), dir("Files/d"), reg("Files/d/.wh..wh..opq", "")), parent); !errdefs.IsNotImplemented(err) {
		t.Errorf("an opaque directory: %v", err)
	}
}

func FuzzLayer(f *testing.F) {
	base, child := layers(f)
	f.Add(base)
	f.Add(child)
	for _, headers := range badLayers() {
		f.Add(pack(f, append([]*tar.Header{dir("Files")}, headers...)...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := filtered(t, data)
		if err != nil {
			return
		}
		// What passes is in order, so it passes again and stays what it is; and it can be unpacked.
		again, err := filtered(t, out)
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("what passed is not the same the second time: %v", err)
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	headers := []*tar.Header{dir("Files")}
	body := strings.Repeat("x", 10_000)
	for i := range 5000 {
		headers = append(headers, reg(fmt.Sprintf("Files/file%d.dll", i), body, recordAttributes, "32", recordRawSD, admins))
	}
	data := pack(b, headers...)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := copyLayer(b.Context(), io.Discard, bytes.NewReader(data), nil); err != nil {
			b.Fatal(err)
		}
	}
}

// endless is a tar whose file, or stream, or hidden file, is sparse and a terabyte long.
func endless(name string) []byte {
	records := ""
	for _, kv := range []string{"GNU.sparse.major=0", "GNU.sparse.minor=1", "GNU.sparse.name=" + name, "GNU.sparse.size=1099511627776", "GNU.sparse.numblocks=0", "GNU.sparse.map="} {
		n := len(kv) + 3
		for n != len(fmt.Sprintf("%d %s\n", n, kv)) {
			n++
		}
		records += fmt.Sprintf("%d %s\n", n, kv)
	}
	block := func(name string, typeflag byte, size int) []byte {
		b := make([]byte, 512)
		copy(b, name)
		copy(b[100:], "0000644\x000000000\x000000000\x00")
		copy(b[124:], fmt.Sprintf("%011o\x00", size))
		copy(b[136:], "00000000000\x00        ")
		b[156] = typeflag
		copy(b[257:], "ustar\x0000")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}
	out := block("Files", tar.TypeDir, 0)
	out = append(out, block("Files/a", tar.TypeReg, 0)...)
	out = append(out, block("pax", tar.TypeXHeader, len(records))...)
	out = append(out, records...)
	out = append(out, make([]byte, (512-len(records)%512)%512)...)
	out = append(out, block("x", tar.TypeReg, 0)...)
	return append(out, make([]byte, 1024)...)
}

func TestSparseFilesAreRefused(t *testing.T) {
	for _, name := range []string{"Files/b", "Files/a:stream", "Files/.wh.b"} {
		data := endless(name)
		r := tar.NewReader(bytes.NewReader(data))
		var last *tar.Header
		for h, err := r.Next(); err == nil; h, err = r.Next() {
			last = h
		}
		if last == nil || last.Name != name || last.Size != 1<<40 {
			t.Fatalf("the test's tar has %+v", last)
		}
		if _, err := filtered(t, data, t.TempDir()); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "sparse") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
