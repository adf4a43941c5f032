package testsuite

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// Tarball answers the tar of these headers. A file's content is its Uname, and its Size follows from that.
func Tarball(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		c := *h
		data := c.Uname
		c.Uname = ""
		c.Size = int64(len(data))
		if c.ModTime.IsZero() && c.Typeflag != tar.TypeXGlobalHeader {
			c.ModTime = time.Unix(1_700_000_000, 0)
		}
		if err := w.WriteHeader(&c); err != nil {
			t.Fatalf("%q: %v", h.Name, err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, data string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Uname: data}
}

func folder(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}
}

func hard(name, target string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

func soft(name, target string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
}

func gone(name string) *tar.Header { return file(name, "") }

func xattrs(h *tar.Header, kv ...string) *tar.Header {
	h.PAXRecords = map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		h.PAXRecords["SCHILY.xattr."+kv[i]] = kv[i+1]
	}
	h.Format = tar.FormatPAX
	return h
}

func with(h *tar.Header, change func(*tar.Header)) *tar.Header {
	change(h)
	return h
}

// capNetRaw is a security.capability value (linux/capability.h, struct vfs_cap_data, revision 2): cap_net_raw=ep.
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

var nanos = time.Unix(1_600_000_000, 123_456_789)

// driverCases are stacks of layers, base first. Every driver must show for each what Tree.Apply makes of them. (No variable:
// programs that import this package are executed anew as the init of containers.)
func driverCases() map[string][][]*tar.Header {
	cases := fileCases()
	maps.Copy(cases, layerCases())
	return cases
}

// fileCases are about what single archives may hold.
func fileCases() map[string][][]*tar.Header {
	return map[string][][]*tar.Header{
		"AllTypes": {{
			folder("d"),
			with(folder("d/sticky"), func(h *tar.Header) { h.Mode = 0o1777; h.ModTime = nanos; h.Format = tar.FormatPAX }),
			with(file("d/suid", "x"), func(h *tar.Header) { h.Mode = 0o6755; h.Uid, h.Gid = 7, 8 }),
			with(file("d/suidroot", "x"), func(h *tar.Header) { h.Mode = 0o4711 }),
			file("d/empty", ""),
			with(file("d/world", "x"), func(h *tar.Header) { h.Mode = 0o666 }),
			with(file("d/closed", "x"), func(h *tar.Header) { h.Mode = 0 }),
			with(file("d/nanos", "x"), func(h *tar.Header) { h.ModTime = nanos; h.Format = tar.FormatPAX }),
			with(file("d/before1970", "x"), func(h *tar.Header) { h.ModTime = time.Unix(-1000, 0); h.Format = tar.FormatPAX }),
			with(soft("d/link", "/nowhere/at all"), func(h *tar.Header) { h.Uid, h.Gid = 5, 6 }),
			{Typeflag: tar.TypeFifo, Name: "d/fifo", Mode: 0o622},
			{Typeflag: tar.TypeChar, Name: "d/null", Mode: 0o666, Devmajor: 1, Devminor: 3},
			{Typeflag: tar.TypeBlock, Name: "d/disk", Mode: 0o660, Gid: 6, Devmajor: 259, Devminor: 70000},
			with(file("d/bigids", "x"), func(h *tar.Header) { h.Uid, h.Gid = 1<<31+7, 1<<32-2; h.Format = tar.FormatPAX }),
			with(file("d/gnuids", "x"), func(h *tar.Header) { h.Uid, h.Gid = 1<<22, 1<<23; h.Format = tar.FormatGNU }),
		}},
		"LongNames": {{
			file(strings.Repeat("directory-with-a-long-name/", 30)+strings.Repeat("f", 255), "pax"),
			with(file(strings.Repeat("gnu/", 60)+strings.Repeat("g", 200), "gnu"), func(h *tar.Header) { h.Format = tar.FormatGNU }),
			soft("l", strings.Repeat("/far/away", 100)),
			with(hard("h", strings.Repeat("gnu/", 60)+strings.Repeat("g", 200)), func(h *tar.Header) { h.Format = tar.FormatGNU }),
			file("näme with ümlauts and\nnewline", "x"),
		}},
		"Xattrs": {{
			xattrs(file("ping", "x"), "security.capability", capNetRaw),
			with(xattrs(file("owned", "x"), "security.capability", capNetRaw), func(h *tar.Header) { h.Uid = 9 }),
			xattrs(folder("dir"), "user.a", "1", "user.b", "any\x01byte", "trusted.c", "3"),
			xattrs(file("big", "x"), "user.big", strings.Repeat("v", 1500)),
		}},
		"OverlayXattrsAreDropped": {
			{folder("d"), file("d/f", "x"), file("keep", "x")},
			{xattrs(folder("d"), "trusted.overlay.opaque", "y", "user.overlay.opaque", "y", "trusted.overlay.redirect", "/etc"),
				xattrs(file("keep", "y"), "trusted.overlay.metacopy", "", "trusted.overlay.whiteout", "y")},
		},
		"GlobalHeader": {{
			{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}},
			file("f", "x"),
		}},
		"RootDirectory": {
			{with(folder("./"), func(h *tar.Header) { h.Mode = 0o711; h.Uid = 3 }), file("./f", "x"), file("/abs/g", "x")},
			{file("more", "x")},
		},
	}
}

// layerCases are about what layers make of those below them, and entries of those before them.
func layerCases() map[string][][]*tar.Header {
	return map[string][][]*tar.Header{
		"Whiteouts": {
			{folder("d"), file("d/a", "a"), file("d/b", "b"), folder("e"), file("e/f/g", "g"), soft("s", "d"), file("top", "x")},
			{folder("d"), gone("d/.wh.a"), gone(".wh.e"), gone(".wh.s"), gone(".wh.absent"), gone("new/.wh.absent")},
			{file("d/a", "again"), folder("e"), file("e/h", "h")},
		},
		"WhiteoutAsDevice": {
			{file("d/a", "a"), file("d/b", "b")},
			{{Typeflag: tar.TypeChar, Name: "d/.wh.a"}, gone("d/.wh.b"), file("d/c", "c")},
		},
		"WhiteoutAndSameName": {
			{folder("d"), file("d/old", "x"), file("f", "old"), folder("e"), file("e/old", "x"), file("g", "old")},
			{gone(".wh.d"), folder("d"), file("d/new", "y"), gone(".wh.f"), file("f", "new"),
				folder("e"), file("e/new", "y"), gone(".wh.e"), file("g", "new"), gone(".wh.g")},
		},
		"Opaque": {
			{folder("d"), file("d/old", "x"), file("d/sub/old", "x"), file("d/deep/er/old", "x"), folder("e"), file("e/old", "x")},
			{folder("d"), gone("d/.wh..wh..opq"), file("d/new", "y"), folder("e"), file("e/new", "y"), gone("e/.wh..wh..opq")},
			{file("d/sub/new", "z")},
		},
		"OpaqueRoot": {
			{folder("d"), file("d/old", "x"), file("f", "x")},
			{gone(".wh..wh..opq"), file("new", "y")},
		},
		"AufsNames": {{file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", "x"), file("f", "x")}},
		"TypesChange": {
			{folder("d"), file("d/x", "x"), file("f", "f"), soft("l", "d"), folder("e"), file("e/y", "y")},
			{file("d", "now a file"), folder("f"), file("f/x", "x"), folder("l"), file("l/x", "x"), soft("e", "f")},
			{folder("d"), file("d/z", "z"), soft("f", "d"), file("l", "file"), folder("e")},
		},
		"TypesChangeWithin": {
			{folder("d"), file("d/below", "x")},
			{file("a", "1"), file("a", "2"), folder("a"), file("a/x", "x"), file("b/c/d", "x"), file("b", "file"), folder("b"), file("b/e", "x"),
				soft("l", "a"), file("l/through", "x"), folder("l"), file("l/own", "x"), folder("d"), soft("d", "a"), folder("d"), file("d/new", "y")},
		},
		"Duplicates": {{
			file("f", strings.Repeat("long", 300_000)), file("f", "short"), folder("d"), with(folder("d"), func(h *tar.Header) { h.Mode = 0o700 }),
			hard("h", "f"), file("f", "third"), hard("f", "f"),
		}},
		"HardLinks": {
			{folder("d"), file("d/a", "shared"), hard("d/b", "d/a"), hard("c", "./d/b"), hard("/e", "/d/a"), soft("s", "d"), hard("s2", "s"),
				with(file("v", "x"), func(h *tar.Header) { h.Mode = 0o4755 }), hard("w", "v")},
			{file("x/y/n1", "other"), hard("x/z/n2", "x/y/n1"), file("c", "own now")},
		},
		"ImpliedDirectories": {
			{with(folder("d"), func(h *tar.Header) {
				h.Mode = 0o750
				h.Uid, h.Gid = 11, 12
				h.ModTime = nanos
				h.Format = tar.FormatPAX
			}),
				xattrs(folder("d/e"), "user.k", "v"), file("d/e/f", "x")},
			{file("d/e/g", "y"), file("d/n/e/w", "z")},
			{gone("d/.wh.e"), file("d/e/h", "fresh")},
		},
		"ThroughLinksOfTheLayer": {{
			folder("usr"), folder("usr/lib"), soft("lib", "usr/lib"), file("lib/a", "x"), folder("lib/sub"), file("lib/sub/b", "x"),
			soft("abs", "/usr"), file("abs/c", "x"), soft("up", "../../../usr"), file("up/d", "x"), hard("e", "lib/a"),
			soft("dangling", "made/later"), file("dangling/f", "x"),
		}},
		"BigFiles": {{
			file("big", strings.Repeat("0123456789abcdef", 200_000)), file("zeros", strings.Repeat("\x00", 3<<20)), hard("big2", "big"),
		}},
		"ManyFiles": {many(300)},
	}
}

func many(each int) (hs []*tar.Header) {
	for _, d := range []string{"a", "b", "c"} {
		for i := range each {
			dir := strings.Repeat(d, 1+i%7)
			hs = append(hs, file(dir+"/"+string(rune('a'+i%26))+strings.Repeat("n", i%50), strings.Repeat("data", i)))
		}
	}
	return hs
}

// hostile are archives that want out. Each must fail or stay inside; OUT stands for a directory outside.
func hostile() map[string][]*tar.Header {
	return map[string][]*tar.Header{
		"DotDot":               {file("../../../../../../../../OUT/f", "evil")},
		"DotDotInside":         {folder("d"), file("d/../../../../../../OUT/f", "evil")},
		"Absolute":             {file("/OUT/f", "evil")},
		"LinkThenFile":         {soft("l", "/OUT"), file("l/f", "evil")},
		"RelativeLink":         {soft("l", "../../../../../../../../../../OUT"), file("l/f", "evil"), folder("l/d")},
		"LinkChain":            {soft("a", "b"), soft("b", "c"), soft("c", "/OUT"), file("a/f", "evil")},
		"LinkLoop":             {soft("a", "b"), soft("b", "a"), file("a/f", "evil")},
		"LinkToSelf":           {soft("a", "a/a"), file("a/f", "evil")},
		"FileOverLink":         {soft("f", "/OUT/sentinel"), file("f", "evil")},
		"DirOverLink":          {soft("d", "/OUT"), with(folder("d"), func(h *tar.Header) { h.Mode = 0o777; h.Uid = 1 })},
		"HardLinkOut":          {hard("f", "/OUT/sentinel"), file("f", "evil")},
		"HardLinkDotDot":       {hard("f", "../../../../../../../../OUT/sentinel"), file("f", "evil")},
		"HardLinkThroughLink":  {soft("l", "/OUT"), hard("f", "l/sentinel"), file("f", "evil")},
		"HardLinkToLink":       {soft("l", "/OUT/sentinel"), hard("f", "l"), file("f", "evil"), file("l", "evil")},
		"ChmodThroughHardLink": {soft("l", "/OUT/sentinel"), hard("f", "l"), with(hard("g", "f"), func(h *tar.Header) { h.Mode = 0o777 })},
		"WhiteoutOut":          {soft("l", "/OUT"), gone("l/.wh.sentinel")},
		"WhiteoutDotDot":       {folder("d"), gone("d/.wh...")},
		"WhiteoutDot":          {folder("d"), gone("d/.wh..")},
		"WhiteoutNothing":      {folder("d"), gone("d/.wh.")},
		"WhiteoutIsDirectory":  {file(".wh.d/f", "x")},
		"OpaqueOut":            {soft("l", "/OUT"), gone("l/.wh..wh..opq")},
		"OpaqueIsLink":         {soft("l", "/OUT"), folder("l/.wh..wh..opq")},
		"SwappedMidway":        {folder("d"), file("d/a", "x"), soft("d", "/OUT"), file("d/f", "evil")},
		"SwappedDeep":          {file("d/e/a", "x"), soft("d/e", "/OUT"), file("d/e/f", "evil"), gone("d/e/.wh.sentinel"), folder("d/e/g")},
		"SwappedBack":          {folder("d"), soft("d", "/OUT"), folder("d"), file("d/f", "x"), soft("d", "/OUT"), gone("d/.wh.sentinel")},
		"LinkAsRoot":           {soft(".", "/OUT"), file("f", "evil")},
		"FileAsRoot":           {file(".", "evil")},
		"XattrThroughLink":     {xattrs(soft("l", "/OUT/sentinel"), "trusted.evil", "1")},
		"NodeThroughLink":      {soft("l", "/OUT"), {Typeflag: tar.TypeChar, Name: "l/null", Devmajor: 1, Devminor: 3}, {Typeflag: tar.TypeFifo, Name: "l/fifo"}},
		"ProcFd":               {soft("p", "/proc/self/root"), file("p/OUT/f", "evil"), soft("q", "/proc/self/cwd"), file("q/f", "evil")},
		"ReplaceRootWhiteout":  {gone(".wh..wh..opq"), gone("./.wh..wh..opq"), soft("..", "/OUT")},
	}
}

func owned(h *tar.Header, uid, gid int) *tar.Header {
	h.Uid, h.Gid = uid, gid
	return h
}

// readTar answers the headers of an archive, each with its content as Uname: the opposite of Tarball.
func readTar(r io.Reader) (headers []*tar.Header, err error) {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return headers, nil
		}
		if err != nil {
			return headers, err
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return headers, err
		}
		h.Uname = string(data)
		headers = append(headers, h)
	}
}

// HostileTars answers archives that try to write outside of where they are unpacked, and ordinary ones: seeds for fuzzers.
func HostileTars(t testing.TB) (tars [][]byte) {
	hostile, ordinary := hostile(), driverCases()
	for _, name := range slices.Sorted(maps.Keys(hostile)) {
		tars = append(tars, Tarball(t, hostile[name]...))
	}
	for _, name := range slices.Sorted(maps.Keys(ordinary)) {
		for _, layer := range ordinary[name] {
			if data := Tarball(t, layer...); len(data) < 64<<10 {
				tars = append(tars, data)
			}
		}
	}
	return tars
}
