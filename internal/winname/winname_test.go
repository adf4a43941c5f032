package winname_test

import (
	"testing"

	"github.com/slipwayd/slipway/internal/winname"
)

func TestReserved(t *testing.T) {
	for name, want := range map[string]bool{
		"con": true, "NUL.tar.gz": true, "aux ": true, "prn .txt": true, "COM0": true, "lpt9.x": true, "com¹": true, "conin$": true,
		"": false, "console": false, "com": false, "com10": false, "a.con": false, "nul-1": false, "lptx": false,
	} {
		if got := winname.Reserved(name); got != want {
			t.Errorf("Reserved(%q) = %v", name, got)
		}
	}
}
