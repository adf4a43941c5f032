package windowsfilter

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestEntryName(t *testing.T) {
	long := strings.Repeat("x", 255)
	for name, want := range map[string]string{
		"Files":                                    "Files",
		"./Files":                                  "Files",
		"Files/":                                   "Files",
		"Files/Program Files (x86)/a.b.c":          "Files/Program Files (x86)/a.b.c",
		"Files/Ünïcödé 漢字 😀":                       "Files/Ünïcödé 漢字 😀",
		"Files/" + long:                            "Files/" + long,
		"Files/conhost.exe":                        "Files/conhost.exe",
		"Files/COM/COM10/com/lpt/nul_/xCON":        "Files/COM/COM10/com/lpt/nul_/xCON",
		"Files/.config/..x/x..y":                   "Files/.config/..x/x..y",
		"Files/ leading space":                     "Files/ leading space",
		"Hives/System_Delta":                       "Hives/System_Delta",
		"UtilityVM":                                "UtilityVM",
		"UtilityVM/Files/EFI/Microsoft/Boot/BCD":   "UtilityVM/Files/EFI/Microsoft/Boot/BCD",
		"Files/a:stream":                           "Files/a|stream",
		"Files/a:Zone.Identifier:$DATA":            "Files/a|Zone.Identifier",
		"Files/a:CON. ":                            "Files/a|CON. ",
		"Files/Windows/System32/config/RegBack/DE": "Files/Windows/System32/config/RegBack/DE",
	} {
		clean, stream, err := entryName(name)
		if stream != "" {
			clean += "|" + stream
		}
		if err != nil || clean != want {
			t.Errorf("entryName(%q) = %q, %v; want %q", name, clean, err, want)
		}
	}
}

func TestRefusedNames(t *testing.T) {
	for _, name := range refusedNames() {
		if clean, stream, err := entryName(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("entryName(%.100q) = %q, %q, %v", name, clean, stream, err)
		} else if text := err.Error(); len(text) > 10*len(name)+300 {
			t.Errorf("%.100q: the error has %d characters", name, len(text))
		}
	}
}

// refusedNames are names that Windows takes for something else than a file there.
func refusedNames() []string {
	names := []string{
		"", ".", "./", "/", "..", "../Files/x", "Files/..", "Files/../x", "Files/./x", "Files//x", "/Files/x", "//server/share/x",
		`C:\Windows\x`, "C:/Windows/x", "C:x", "c:", `Files\x`, `Files/a\..\..\x`, `\\?\C:\x`, "Files/C:/x", "Files/a:b/c", `\??\C:\x`,
		"Files/a.", "Files/a..", "Files/a ", "Files/a. .", "Files/dir./x", "Files/dir /x", "Files/...",
		"Files/a:", "Files/a::$DATA", "Files/a:b:c", "Files/a:b:$INDEX_ALLOCATION", "Files/:b", "Files/a::$INDEX_ALLOCATION", "Files/a:b\x01", "Files/a:" + strings.Repeat("s", 256),
		"Files/x\x00", "Files/x\n", "Files/\x1f", `Files/"`, "Files/<", "Files/>", "Files/|", "Files/?", "Files/*", "Files/\xff\xfe", "Files/\xed\xa0\x80",
		"Files/dir.$wcidirs$", "Files/DIR.$WCIDIRS$", "Files/x/y.$wcidirs$/z",
		"bin", "bin/sh", "files/x", "FILES", "Filesx/y", "tombstones.txt", "blank.vhdx", "sandbox.vhdx", "Hives/a/b", "UtilityVM/SystemTemplate.vhdx", "UtilityVM/x/y", "layout",
		"Files/" + strings.Repeat("x", 256), "Files/" + strings.Repeat("😀", 128), "Files" + strings.Repeat("/x", 20_000), "Files/" + strings.Repeat("x", 200_000),
	}
	for _, device := range []string{"CON", "con", "Prn", "AUX", "NUL", "COM0", "COM1", "com9", "LPT1", "lpt9", "COM¹", "LPT³", "CONIN$", "conout$"} {
		names = append(names, "Files/"+device, "Files/"+device+".txt", "Files/"+device+" .tar.gz", "Files/"+device+"/x", "Files/"+device+":stream")
	}
	return names
}

func FuzzEntryName(f *testing.F) {
	for _, name := range append(refusedNames(), "Files/a:b", "UtilityVM/Files/x", "./Hives/x") {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		clean, stream, err := entryName(name)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v", name, err)
			}
			return
		}
		if strings.ContainsAny(clean, "\\:\x00*?") || strings.HasPrefix(clean, "/") || strings.Contains("/"+clean+"/", "/../") || strings.ContainsAny(stream, `\/:`) {
			t.Errorf("%q passed as %q, %q", name, clean, stream)
		}
		if again, _, err := entryName(clean); err != nil || again != clean {
			t.Errorf("%q passed as %q, which is %q, %v", name, clean, again, err)
		}
	})
}

func TestFold(t *testing.T) {
	for a, b := range map[string]string{"Files/ABC": "files/abc", "ÄÖ": "äö", "Ж": "ж", "I": "i", "straße": "STRAßE"} {
		if fold(a) != fold(b) {
			t.Errorf("%q and %q are not the same", a, b)
		}
	}
	if fold("𐐨") != "𐐨" { // outside of what NTFS's table has
		t.Error("a character of two units was folded")
	}
}
