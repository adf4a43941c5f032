// Package winname knows which file names Windows keeps for devices. It needs no Windows, imports nothing of ours and has no state.
package winname

import (
	"strings"
	"unicode/utf8"
)

// Reserved says whether Windows opens a device under that name, whatever its extension and case (Win32, "Naming Files, Paths, and
// Namespaces").
func Reserved(name string) bool {
	base, _, _ := strings.Cut(name, ".")
	base = strings.ToUpper(strings.TrimRight(base, " "))
	switch base {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return true
	}
	for _, device := range []string{"COM", "LPT"} {
		if digit, ok := strings.CutPrefix(base, device); ok && utf8.RuneCountInString(digit) == 1 && strings.ContainsAny(digit, "0123456789¹²³") {
			return true
		}
	}
	return false
}
