package stdio

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipwayd/slipway/internal/oneshot"
)

// TestInputOfManyClients: who writes comes and goes, also to the next shim, and the input ends when it is closed.
func TestInputOfManyClients(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stdin")
	c := windowsConfig(t, Streams{Stdin: "inlet:///" + filepath.ToSlash(path)})
	say := func(text string) {
		t.Helper()
		in, err := oneshot.OpenInput(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := in.Copy(strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	first, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	hear := func(s *Set, want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(s.IO().Stdin, got); err != nil || string(got) != want {
			t.Errorf("heard %q, %v; want %q", got, err, want)
		}
	}
	say("one")
	hear(first, "one")
	say("two")
	hear(first, "two")
	first.Finish()
	if _, err := first.IO().Stdin.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after its end: %v", err)
	}
	second := Attach(c, false)
	defer second.Finish()
	say("three")
	hear(second, "three")
	second.CloseStdin()
	if rest, err := io.ReadAll(second.IO().Stdin); err != nil || len(rest) > 0 {
		t.Errorf("after it was closed: %q, %v", rest, err)
	}
	if in, err := oneshot.OpenInput(t.Context(), path); err == nil {
		in.Close()
		t.Error("somebody listens after the end")
	}
}
