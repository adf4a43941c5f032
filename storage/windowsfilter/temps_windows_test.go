package windowsfilter

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/windows"
)

func notes(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(text))
	}
	return all
}

// While a layer is imported there is a note of its temporary directory; what a crash would leave is deleted by the next start, and nothing else.
func TestTemporaryDirectoriesAreNoted(t *testing.T) {
	dir := t.TempDir()
	host, err := openTemps(dir)
	if err != nil {
		t.Fatal(err)
	}
	var temp string
	boom := errors.New("boom")
	err = host.during(strings.NewReader("tar"), func(tar io.Reader) error {
		if temp, err = os.MkdirTemp("", "hcs"); err != nil {
			t.Fatal(err)
		}
		if all := notes(t, dir); len(all) > 0 {
			t.Errorf("noted before it was read: %v", all)
		}
		if _, err := io.ReadAll(tar); err != nil {
			t.Error(err)
		}
		if all := notes(t, dir); len(all) != 1 || all[0] != temp {
			t.Errorf("noted %v, want %s", all, temp)
		}
		// A crash now: another process opens the same directory.
		if _, err := openTemps(dir); err != nil {
			t.Error(err)
		}
		if exists(temp) {
			t.Errorf("%s is still there", temp)
		}
		return boom
	})
	if !errors.Is(err, boom) || len(notes(t, dir)) > 0 {
		t.Errorf("in the end: %v, noted %v", err, notes(t, dir))
	}
	precious := t.TempDir()
	for i, text := range []string{precious, "", `C:\`, filepath.Join(os.TempDir(), "hcs"), filepath.Join(os.TempDir(), "hcs1", "..", ".."), os.TempDir() + `\..\hcs12`} {
		if err := os.WriteFile(filepath.Join(dir, string(rune('a'+i))), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openTemps(dir); err != nil || !exists(precious) || len(notes(t, dir)) > 0 {
		t.Errorf("bad notes: %v, %v", err, notes(t, dir))
	}
}

// What a dying process has open still is left to the next start.
func TestTemporaryDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	temp, err := os.MkdirTemp("", "hcs")
	if err != nil {
		t.Fatal(err)
	}
	name, err := windows.UTF16PtrFromString(filepath.Join(temp, "f"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := windows.CreateFile(name, windows.GENERIC_WRITE, 0, nil, windows.CREATE_NEW, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "note"), []byte(temp), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openTemps(dir); err != nil || !exists(temp) || len(notes(t, dir)) != 1 {
		t.Errorf("in use: %v, noted %v", err, notes(t, dir))
	}
	if err := windows.CloseHandle(h); err != nil {
		t.Fatal(err)
	}
	if _, err := openTemps(dir); err != nil || exists(temp) || len(notes(t, dir)) > 0 {
		t.Errorf("not in use any more: %v, noted %v", err, notes(t, dir))
	}
}

func TestTwoDirectoriesAreNotNoted(t *testing.T) {
	dir := t.TempDir()
	host, err := openTemps(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = host.during(strings.NewReader("tar"), func(tar io.Reader) error {
		for range 2 {
			temp, err := os.MkdirTemp("", "hcs")
			if err != nil {
				t.Fatal(err)
			}
			defer os.Remove(temp)
		}
		_, err := io.ReadAll(tar)
		if all := notes(t, dir); len(all) > 0 {
			t.Errorf("noted %v", all)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
