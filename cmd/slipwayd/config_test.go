package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultConfigTextIsTheDefault(t *testing.T) {
	got, err := loadConfig(writeConfig(t, defaultConfigText()), true)
	if err != nil {
		t.Fatal(err)
	}
	if want := defaultConfig(); !reflect.DeepEqual(got, want) {
		t.Errorf("`config default` decodes to %+v, want %+v", got, want)
	}
	// Every field is shown, but for the table that has none to show.
	for _, key := range []string{"root", "state", "address", "level", "format", "group", "path", "[shim.runtimes]", "driver", "config_path", "delay", "interval"} {
		if !strings.Contains(defaultConfigText(), key) {
			t.Errorf("%s is not shown", key)
		}
	}
}

func TestConfigErrorsNamePlaceAndKey(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"unknown key":       {"root = \"/x\"\nsnapshotter = \"zfs\"\n", `:2:1: unknown key "snapshotter"`},
		"unknown in table":  {"[log]\n\ncolour = true\n", `:3:1: unknown key "log.colour"`},
		"two unknown":       {"a = 1\nb = 2\n", `unknown key "b"`},
		"syntax":            {"root = \n", ":1:"},
		"wrong type":        {"[log]\nlevel = 7\n", "log level must be one of"},
		"number for text":   {"root = 7\n", `:1:8: the value of key "root" has the wrong type`},
		"bad level":         {"[log]\nlevel = \"loud\"\n", "loud"},
		"bad format":        {"[log]\nformat = \"xml\"\n", `log.format must be one of text, json, not "xml"`},
		"bad group":         {"[shim]\ngroup = \"node\"\n", "shim.group must be one of host, pod, container"},
		"bad driver":        {"[storage]\ndriver = \"zfs\"\n", "storage.driver must be one of"},
		"relative root":     {"root = \"data\"\n", "root must be an absolute path"},
		"relative address":  {"address = \"s.sock\"\n", "address must be an absolute path"},
		"no address":        {"address = \"\"\n", "address must not be empty"},
		"bad duration":      {"[gc]\ndelay = \"soon\"\n", "soon"},
		"bare number":       {"[gc]\ndelay = 5\n", `duration "5"`},
		"negative duration": {"[gc]\ndelay = \"-1s\"\n", "above zero"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeConfig(t, test.text)
			_, err := loadConfig(path, true)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want the path and %q", err, test.want)
			}
		})
	}
}

func TestConfigFileMayBeMissingUnlessItIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.toml")
	if c, err := loadConfig(path, false); err != nil || !reflect.DeepEqual(c, defaultConfig()) {
		t.Errorf("got %v, %v", c, err)
	}
	if _, err := loadConfig(path, true); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestFlagsWinOverTheFile(t *testing.T) {
	dir := t.TempDir()
	file, flag, sock := filepath.Join(dir, "file"), filepath.Join(dir, "flag"), filepath.Join(dir, "a.sock")
	f := flags{
		config: writeConfig(t, fmt.Sprintf("root = %q\nstate = %[1]q\n[gc]\ndelay = \"3s\"\n[log]\nlevel = \"warn\"\n", file)),
		root:   flag, logLevel: "debug", address: sock,
	}
	given := map[string]bool{"config": true, "root": true, "log-level": true, "address": true}
	c, err := f.load(func(flag string) bool { return given[flag] })
	if err != nil {
		t.Fatal(err)
	}
	if c.Root != flag || c.State != file || c.Address != sock || c.Log.Level.Level != slog.LevelDebug || c.GC.Delay.Duration != 3*time.Second {
		t.Errorf("got %+v", c)
	}
	f.root = file + string(filepath.Separator)
	if _, err := f.load(func(flag string) bool { return given[flag] }); err == nil || !strings.Contains(err.Error(), "two directories") {
		t.Errorf("one directory for root and state gives %v", err)
	}
	f.root, f.logLevel = flag, "loud"
	if _, err := f.load(func(flag string) bool { return given[flag] }); err == nil || !strings.Contains(err.Error(), "--log-level") {
		t.Errorf("a bad level gives %v", err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(defaultConfigText())
	f.Add("[shim.runtimes]\nx = \"/y\"\n")
	f.Add("root = [[[")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "c")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := loadConfig(path, true); err == nil && c.check() != nil {
			t.Errorf("loaded a config that check refuses: %+v", c)
		}
	})
}
