package document

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// OtherShim is what to do about a container that we cannot run but runhcs can.
const OtherShim = "use runtime io.containerd.runhcs.v1 with hcsshim's containerd-shim-runhcs-v1.exe on PATH"

// annotations of a spec that are obeyed.
const (
	hostProcess = "microsoft.com/hostprocess-container"
	osVersion   = "org.opencontainers.image.os.version" // runtime-spec config.md, annotations: the version that the image was built for
)

// checkSpec refuses what is not a Windows container, before anything is looked at on the host.
func checkSpec(s *specs.Spec) error {
	switch {
	case s.Linux != nil && s.Windows != nil:
		return unimplemented("this is a Linux container on Windows, which the built-in executor does not run: %s", OtherShim)
	case s.Linux != nil:
		return invalid(`the spec has a "linux" section and none for "windows": it is for a Linux host`)
	case s.Solaris != nil, s.VM != nil, s.ZOS != nil, s.FreeBSD != nil:
		return invalid("the spec is for another system than Windows")
	case s.Windows == nil:
		return invalid(`the spec has no "windows" section`)
	case strings.EqualFold(s.Annotations[hostProcess], "true"):
		return unimplemented("this is a HostProcess container, which the built-in executor does not run: %s", OtherShim)
	case s.Process == nil:
		return invalid(`the spec has no "process"`)
	case s.Root != nil && s.Root.Readonly:
		return invalid("root.readonly: Windows has no read-only containers")
	case s.Domainname != "":
		return invalid("domainname: Windows containers have a hostname only")
	case s.Hooks != nil && hasHooks(s.Hooks):
		return invalid("hooks: Windows containers have none")
	case s.Windows.Resources != nil && s.Windows.Resources.CPU != nil && len(s.Windows.Resources.CPU.Affinity) > 0:
		return unimplemented("windows.resources.cpu.affinity: %s", OtherShim)
	}
	return checkHostname(s.Hostname)
}

func hasHooks(h *specs.Hooks) bool {
	//lint:ignore SA1019 clients still set Prestart
	prestart := h.Prestart
	return len(slices.Concat(prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop)) > 0
}

func checkHostname(name string) error {
	if len(name) > 253 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || strings.ContainsRune(`\/:*?"<>|`, r) }) {
		return invalid("hostname %#.80q is none", name)
	}
	return nil
}

// linuxOnly names a field of a process that means nothing on Windows, which the client must not take for obeyed; "" when there is none.
func linuxOnly(p *specs.Process) string {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"user.uid, gid, additionalGids, umask", p.User.UID != 0 || p.User.GID != 0 || len(p.User.AdditionalGids) > 0 || p.User.Umask != nil},
		{"capabilities", p.Capabilities != nil},
		{"rlimits", len(p.Rlimits) > 0},
		{"noNewPrivileges", p.NoNewPrivileges},
		{"apparmorProfile", p.ApparmorProfile != ""},
		{"selinuxLabel", p.SelinuxLabel != ""},
		{"oomScoreAdj", p.OOMScoreAdj != nil},
		{"scheduler", p.Scheduler != nil},
		{"ioPriority", p.IOPriority != nil},
		{"execCPUAffinity", p.ExecCPUAffinity != nil},
	} {
		if f.set {
			return f.name
		}
	}
	return ""
}

func checkNetwork(n *specs.WindowsNetwork) error {
	if n.NetworkNamespace != "" && !isGUID(n.NetworkNamespace) {
		return invalid("windows.network.networkNamespace %#.80q is no GUID", n.NetworkNamespace)
	}
	if n.NetworkNamespace != "" && (len(n.EndpointList) > 0 || n.NetworkSharedContainerName != "") {
		return invalid("windows.network has a networkNamespace, and an endpointList or networkSharedContainerName too: only one can be")
	}
	if len(n.EndpointList) > maxEntries || len(n.DNSSearchList) > maxEntries {
		return invalid("windows.network has more than %d entries in a list", maxEntries)
	}
	for _, e := range n.EndpointList {
		if !isGUID(e) {
			return invalid("windows.network.endpointList: %#.80q is no GUID", e)
		}
	}
	for _, d := range n.DNSSearchList {
		if d == "" || len(d) > 255 || strings.ContainsAny(d, ", \x00") {
			return invalid("windows.network.DNSSearchList: %#.80q is no name", d)
		}
	}
	return nil
}

// maxCredentials bounds a gMSA credential spec; they have about 1 KB.
const maxCredentials = 1 << 20

// credentials answers a gMSA credential spec as the service takes it: JSON in a string. Clients send either that or an object.
func credentials(v any) (string, error) {
	var text string
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		text = v
	default:
		data, err := json.Marshal(v)
		if err != nil {
			return "", invalid("windows.credentialSpec: %w", err)
		}
		text = string(data)
	}
	var object map[string]json.RawMessage
	switch err := json.Unmarshal([]byte(text), &object); {
	case len(text) > maxCredentials:
		return "", invalid("windows.credentialSpec is longer than %d bytes", maxCredentials)
	case err != nil:
		return "", invalid("windows.credentialSpec is no JSON object: %w", err)
	case object["CmsPlugins"] == nil:
		return "", invalid(`windows.credentialSpec has no "CmsPlugins": it is no credential spec`)
	}
	return text, nil
}

// newDevices translates windows.devices. A device of CRI or a command line, class://GUID, comes as idType class and id GUID.
func newDevices(list []specs.WindowsDevice, schema int, hyperV bool) ([]device2, error) {
	if len(list) > maxEntries {
		return nil, invalid("windows.devices has more than %d entries", maxEntries)
	}
	var devices []device2
	for _, d := range list {
		kind, id := d.IDType, d.ID
		if k, rest, ok := strings.Cut(id, "://"); kind == "" && ok {
			kind, id = k, rest
		}
		switch {
		case hyperV:
			return nil, unimplemented("device %#q: a container with Hyper-V isolation has none here: %s", d.ID, OtherShim)
		case kind == "class" || kind == "vpci-class-guid":
			if id = strings.Trim(id, "{}"); !isGUID(id) {
				return nil, invalid("device %#.80q is no class of devices: that is a GUID, as in class://5B45201D-F2F2-4F3B-85BB-30FF1F953599", d.ID)
			}
			devices = append(devices, device2{Type: "ClassGuid", InterfaceClassGuid: id})
		case kind == "vpci-location-path" && schema == 2 && id != "" && len(id) < 1024:
			devices = append(devices, device2{Type: "DeviceInstance", LocationPath: id})
		default:
			return nil, invalid("device %#.80q has the type %#.80q: only class, vpci-class-guid and (in schema 2) vpci-location-path are known", d.ID, d.IDType)
		}
	}
	return devices, nil
}
