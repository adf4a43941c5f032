package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// config is the daemon's configuration file. defaultConfigText documents each field.
type config struct {
	Root     string         `toml:"root"`
	State    string         `toml:"state"`
	Address  string         `toml:"address"`
	Log      logConfig      `toml:"log"`
	Shim     shimConfig     `toml:"shim"`
	Storage  storageConfig  `toml:"storage"`
	Registry registryConfig `toml:"registry"`
	Lazy     lazyConfig     `toml:"lazy"`
	GC       gcConfig       `toml:"gc"`
	CRI      criConfig      `toml:"cri"`
	Metrics  metricsConfig  `toml:"metrics"`
}

type logConfig struct {
	Level  level  `toml:"level"`
	Format string `toml:"format"`
}

type shimConfig struct {
	Group    string            `toml:"group"`
	Path     string            `toml:"path"`
	Runtimes map[string]string `toml:"runtimes"`
}

type storageConfig struct {
	Driver string `toml:"driver"`
}

type registryConfig struct {
	ConfigPath string           `toml:"config_path"`
	Providers  []providerConfig `toml:"credential_providers"`
}

// providerConfig is a program with credentials, as kubelet's plugins are.
type providerConfig struct {
	Program  string   `toml:"program"`
	Args     []string `toml:"args"`
	Env      []string `toml:"env"`
	Match    []string `toml:"match"`
	CacheFor duration `toml:"cache"`
}

type lazyConfig struct {
	Mode          string            `toml:"mode"`
	Images        map[string]string `toml:"images"`
	Path          string            `toml:"path"`
	Cache         size              `toml:"cache"`
	Keep          size              `toml:"keep"`
	Deadline      duration          `toml:"deadline"`
	Background    bool              `toml:"background"`
	Delay         duration          `toml:"delay"`
	Rate          size              `toml:"rate"`
	Passthrough   bool              `toml:"passthrough"`
	TrustKeys     []string          `toml:"trust_keys"`
	TrustRegistry bool              `toml:"trust_registry"`
	Stream        bool              `toml:"stream"`
}

type metricsConfig struct {
	Address string `toml:"address"`
}

type gcConfig struct {
	Delay    duration `toml:"delay"`
	Interval duration `toml:"interval"`
}

// duration, level and size are structs so that a bare number is not taken for nanoseconds, for slog's scale or for bytes.
type (
	duration struct{ time.Duration }
	level    struct{ slog.Level }
	size     struct{ Bytes int64 }
)

// UnmarshalText reads a number with a unit, KiB to TiB, or 0.
func (s *size) UnmarshalText(text []byte) error {
	number, unit := string(text), int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = strings.TrimSpace(n), 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit || unit == 1 && n != 0 {
		return fmt.Errorf("size %q must be like 512MiB or 20GiB, or 0", text)
	}
	s.Bytes = n * unit
	return nil
}

// UnmarshalText reads the form of time.ParseDuration.
func (d *duration) UnmarshalText(text []byte) (err error) {
	if d.Duration, err = time.ParseDuration(string(text)); err == nil && d.Duration <= 0 {
		err = fmt.Errorf("duration %q must be above zero", text)
	}
	return err
}

// UnmarshalText reads one of the four names.
func (l *level) UnmarshalText(text []byte) error {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, strings.ToLower(string(text))) {
		return fmt.Errorf("log level must be one of debug, info, warn, error, not %q", text)
	}
	return l.Level.UnmarshalText(text)
}

func defaultConfig() config {
	return config{
		Root: defaultRoot, State: defaultState, Address: defaultAddress,
		Log:      logConfig{Level: level{slog.LevelInfo}, Format: "text"},
		Shim:     shimConfig{Group: "host"},
		Storage:  storageConfig{Driver: "auto"},
		Registry: registryConfig{ConfigPath: defaultRegistryConfig},
		Lazy: lazyConfig{Mode: "auto", Keep: size{1 << 30}, Deadline: duration{5 * time.Minute}, Background: true, Delay: duration{10 * time.Second},
			Passthrough: true, TrustKeys: []string{}},
		GC:  gcConfig{Delay: duration{time.Second}, Interval: duration{time.Hour}},
		CRI: defaultCRI(),
	}
}

// defaultConfigText is what `slipwayd config default` prints: each field with its default and what it means. A test decodes
// it and compares it with defaultConfig.
func defaultConfigText() string {
	return fmt.Sprintf(`# Configuration of slipwayd. Every field is optional; these are the defaults.
# The flags --root, --state, --address and --log-level win over this file.

# Persistent files: content, layers, metadata. One daemon at a time.
root = %q
# Files that end with a reboot: shims, bundles, sockets.
state = %q
# The socket of the gRPC API; ttrpc is beside it with the suffix .ttrpc.
address = %q

[log]
# debug, info, warn or error. Read again on SIGHUP.
level = "info"
# text or json, to standard error.
format = "text"

[shim]
# How containers share a shim: "host" is one for all, "pod" one for each pod, "container" one for each container.
group = "host"
# The executor's binary. Empty: slipway-shim beside slipwayd, then in PATH.
path = ""

# Runtime names that clients ask for and the shim binaries that serve them, where the name alone does not find one:
# [shim.runtimes]
# "io.containerd.runsc.v1" = "/usr/local/bin/containerd-shim-runsc-v1"

[storage]
%s
driver = "auto"

[registry]
# Directory of HOST/hosts.toml files: mirrors, certificates, headers. Read again on SIGHUP.
config_path = %q
# Credentials come from docker's config.json with its helpers, and before that from programs in the way of kubelet's credential provider plugins:
# [[registry.credential_providers]]
# program = "/usr/local/bin/ecr-credential-provider"
# args = ["get-credentials"]
# env = ["AWS_PROFILE=node"]
# match = ["*.dkr.ecr.*.amazonaws.com"]   # registries it is asked for
# cache = "10m"                           # how long an answer is good that does not say it

[lazy]
# Whether layers are used before they are here: auto (those that can be and are large enough), always (all that can be), never.
# What is said of an image wins over it: slipway pull --lazy, the annotation slipway.io/lazy of CRI's image or pod, that label on the image's
# record, [lazy.images] below; and then the label of the namespace.
mode = "auto"
# The FUSE server's binary. Empty: slipway-fuse beside slipwayd, then in PATH.
path = ""
# How much the cache of lazily pulled files may take, such as "20GiB"; "0" for as much as leaves 256 MiB of the disk free.
cache = "0"
# How much of it stays when no layer needs it any more, for images that have the same files; "0" for all.
keep = "1GiB"
# How long a read waits for a registry that does not answer.
deadline = "5m"
# Bring lazily pulled layers here in the background, beginning so long after the pull, and with at most so many bytes a second
# ("0" for no bound; it pauses while a container waits for a registry).
background = true
delay = "10s"
rate = "0"
# Let the kernel read complete files by itself. Without it overlays may be stacked one higher above a lazy layer.
passthrough = true
# Files with public keys (PEM, Ed25519) whose owners' published indexes of layers are believed.
trust_keys = []
# Believe all indexes that a registry lists beside an image. Whoever may push there then decides what lazy layers hold.
trust_registry = false
# Serve layers of which nothing is known while they come for the first time, so that a start need not wait for their end. Until then what is
# read of them is not verified, and names that are not there are waited for: only programs that look for none, such as static ones, start
# earlier, and others may start somewhat later.
stream = false

# Modes of images by their names without tag. * stands for anything but a slash; the longest pattern that matches counts:
# [lazy.images]
# "registry.example/team/*" = "always"

[gc]
# How long after the last deletion unreferenced content and layers are collected.
delay = "1s"
# How often expired leases and ingests are looked for when nothing is deleted.
interval = "1h"

[metrics]
# Where Prometheus is answered, such as "127.0.0.1:1338" for http://127.0.0.1:1338/metrics; nowhere when empty. Whoever can connect
# sees the names of namespaces, and how many containers and images they have.
address = ""
`, defaultRoot, defaultState, defaultAddress, storageText, defaultRegistryConfig) + defaultCRIText()
}

// loadConfig reads path over the defaults. A file that is not there is an error only when mustExist, that is when the user
// named it. Each of several faults in the file is one line of the error.
func loadConfig(path string, mustExist bool) (config, error) {
	c := defaultConfig()
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !mustExist {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("cannot read config: %w", err)
	}
	d := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, explainTOML(path, err)
	}
	if err := c.check(); err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// explainTOML gives the place of each fault as file:line:column, one to a line.
func explainTOML(path string, err error) error {
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) {
		var lines []string
		for _, m := range missing.Errors {
			row, col := m.Position()
			lines = append(lines, fmt.Sprintf("%s:%d:%d: unknown key %q", path, row, col, strings.Join(m.Key(), ".")))
		}
		return errors.New(strings.Join(lines, "\n"))
	}
	var syntax *toml.DecodeError
	if errors.As(err, &syntax) {
		row, col := syntax.Position()
		if strings.Contains(syntax.Error(), "cannot decode TOML") { // and then names of Go types
			return fmt.Errorf("%s:%d:%d: the value of key %q has the wrong type; `slipwayd config default` shows the right one", path, row, col, strings.Join(syntax.Key(), "."))
		}
		if key := strings.Join(syntax.Key(), "."); key != "" {
			return fmt.Errorf("%s:%d:%d: key %q: %s", path, row, col, key, strings.TrimPrefix(syntax.Error(), "toml: "))
		}
		return fmt.Errorf("%s:%d:%d: %s", path, row, col, strings.TrimPrefix(syntax.Error(), "toml: "))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// check refuses values that no part of the daemon could use.
func (c config) check() error {
	for key, path := range map[string]string{"root": c.Root, "state": c.State} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%s must be an absolute path, not %q", key, path)
		}
	}
	if c.Address == "" {
		return errors.New("address must not be empty")
	}
	if !filepath.IsAbs(cleanAddress(c.Address)) { // shims look for it from another directory
		return fmt.Errorf("address must be an absolute path, not %q", c.Address)
	}
	for _, choice := range []struct {
		key, value string
		allowed    []string
	}{
		{"log.format", c.Log.Format, []string{"text", "json"}},
		{"shim.group", c.Shim.Group, []string{"host", "pod", "container"}},
		{"storage.driver", c.Storage.Driver, storageDrivers},
		{"lazy.mode", c.Lazy.Mode, []string{"auto", "always", "never"}},
	} {
		if !slices.Contains(choice.allowed, choice.value) {
			return fmt.Errorf("%s must be one of %s, not %q", choice.key, strings.Join(choice.allowed, ", "), choice.value)
		}
	}
	for _, p := range c.Registry.Providers {
		if !filepath.IsAbs(p.Program) || len(p.Match) == 0 {
			return fmt.Errorf("registry.credential_providers needs program, an absolute path, and match: not %q and %q", p.Program, p.Match)
		}
	}
	return c.CRI.check()
}
