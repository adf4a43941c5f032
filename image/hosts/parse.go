package hosts

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
	"golang.org/x/net/http/httpguts"
)

// maxHosts bounds the hosts of one registry.
const maxHosts = 64

// entry is one table of hosts.toml (containerd docs/hosts.md). Fields that are a string or a list are read as any.
type entry struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // path or paths
	Client       any            `toml:"client"` // path, paths, or pairs of certificate and key
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // value or values
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

type file struct {
	entry
	Server string           `toml:"server"`
	Host   map[string]entry `toml:"host"`
}

// parse reads hosts.toml. Keys it does not know are left alone, as containerd's own later ones are to be tolerated.
func parse(data []byte, registry string, d Default) ([]Host, error) {
	var f file
	if err := toml.Unmarshal(data, &f); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, column := at.Position()
			return nil, fmt.Errorf("line %d, column %d: %w: %w", line, column, err, errdefs.ErrInvalidArgument)
		}
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(f.Host) > maxHosts {
		return nil, fmt.Errorf("more than %d hosts: %w", maxHosts, errdefs.ErrInvalidArgument)
	}
	var hosts []Host
	for _, name := range order(data, f.Host) {
		h, err := f.Host[name].host(name)
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", name, err)
		}
		hosts = append(hosts, h)
	}
	server, err := f.upstream(registry, d)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	return append(hosts, server), nil
}

func (f file) upstream(registry string, d Default) (Host, error) {
	if f.Server != "" {
		return f.host(f.Server)
	}
	up, err := upstream(registry, d)
	if err != nil {
		return Host{}, err
	}
	h, err := f.host(up.URL.String())
	if f.SkipVerify == nil {
		h.TLS.SkipVerify = d.SkipVerify
	}
	return h, err
}

// order answers the names of the host tables as they stand in the file: it is the order to try them in, and a map has none.
func order(data []byte, hosts map[string]entry) []string {
	var names []string
	var p unstable.Parser
	p.Reset(data)
	table := "" // the host table we are in: "[host]" itself
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table && e.Kind != unstable.KeyValue {
			table = ""
			continue
		}
		var key []string
		for it := e.Key(); it.Next(); {
			key = append(key, string(it.Node().Data))
		}
		if e.Kind == unstable.Table {
			table = ""
			if len(key) == 1 {
				table = key[0]
			}
		} else if table == "host" {
			key = append([]string{"host"}, key...)
		}
		if len(key) > 1 && key[0] == "host" && !slices.Contains(names, key[1]) {
			if _, ok := hosts[key[1]]; ok {
				names = append(names, key[1])
			}
		}
	}
	// What was written inline (host = {…}) has no order of its own.
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (e entry) host(address string) (Host, error) {
	u, err := parseURL(address, e.OverridePath)
	if err != nil {
		return Host{}, err
	}
	h := Host{URL: u}
	if h.Capabilities, err = capabilities(e.Capabilities); err != nil {
		return Host{}, err
	}
	if h.Header, err = headers(e.Header); err != nil {
		return Host{}, err
	}
	if e.SkipVerify != nil {
		h.TLS.SkipVerify = *e.SkipVerify
	}
	if h.TLS.caFiles, err = stringOrList(e.CA); err != nil {
		return Host{}, fmt.Errorf("ca: %w", err)
	}
	if h.TLS.clientFiles, err = pairs(e.Client); err != nil {
		return Host{}, fmt.Errorf("client: %w", err)
	}
	if e.DialTimeout != "" {
		if h.DialTimeout, err = time.ParseDuration(e.DialTimeout); err != nil || h.DialTimeout < 0 {
			return Host{}, fmt.Errorf("dial_timeout %q must be a duration such as 5s: %w", e.DialTimeout, errdefs.ErrInvalidArgument)
		}
	}
	return h, nil
}

func capabilities(names []string) (Capability, error) {
	if len(names) == 0 {
		return All, nil
	}
	var c Capability
	for _, n := range names {
		switch n {
		case "pull":
			c |= Pull
		case "resolve":
			c |= Resolve
		case "push":
			c |= Push
		default:
			return 0, fmt.Errorf("capability %q must be pull, resolve or push: %w", n, errdefs.ErrInvalidArgument)
		}
	}
	return c, nil
}

func headers(m map[string]any) (http.Header, error) {
	if len(m) == 0 {
		return nil, nil
	}
	h := http.Header{}
	for k, v := range m {
		values, err := stringOrList(v)
		if err != nil {
			return nil, fmt.Errorf("header %q: %w", k, err)
		}
		if !httpguts.ValidHeaderFieldName(k) {
			return nil, fmt.Errorf("header name %q is not valid: %w", k, errdefs.ErrInvalidArgument)
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return nil, fmt.Errorf("value of header %q is not valid: %w", k, errdefs.ErrInvalidArgument)
			}
			h.Add(k, value)
		}
	}
	return h, nil
}

func stringOrList(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var all []string
		for _, x := range v {
			s, ok := x.(string)
			if !ok {
				return nil, fmt.Errorf("must be strings, not %T: %w", x, errdefs.ErrInvalidArgument)
			}
			all = append(all, s)
		}
		return all, nil
	}
	return nil, fmt.Errorf("must be a string or a list of strings, not %T: %w", v, errdefs.ErrInvalidArgument)
}

// pairs reads the forms of client: "file", ["file", …], or [["certificate", "key"], …].
func pairs(v any) ([][2]string, error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
		if v == nil {
			return nil, nil
		}
	}
	var all [][2]string
	for _, x := range list {
		s, err := stringOrList(x)
		switch {
		case err != nil:
			return nil, err
		case len(s) == 1 || len(s) == 2 && s[1] == "":
			all = append(all, [2]string{s[0], s[0]})
		case len(s) == 2:
			all = append(all, [2]string{s[0], s[1]})
		default:
			return nil, fmt.Errorf("must be pairs of certificate and key: %w", errdefs.ErrInvalidArgument)
		}
	}
	return all, nil
}
