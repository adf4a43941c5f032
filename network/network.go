// Package network attaches pods to networks, by CNI plugins (github.com/containernetworking/cni, SPEC.md).
//
// It owns the reading of CNI configuration and the calls of plugins, and imports nothing of the daemon. It keeps no state of its own: libcni keeps
// the result of each attachment in a file below the cache directory, which Detach works from.
//
// What a crash leaves: an attachment that its caller never heard of. Detach for the same pod undoes it, whole or half.
package network

import (
	"context"
)

// Pod is what a network needs to know.
type Pod struct {
	ID, Name, Namespace, UID string
	NetNS                    string // path of its network namespace, on Windows its GUID; it may be gone for Detach
	ConfigDir                string // instead of Config.ConfigDir, for its runtime class
	Ports                    []Port
	Annotations              map[string]string
	CgroupParent             string
	DNS                      DNS
}

// Port is a port of the host that leads into the pod.
type Port struct {
	Protocol        string // tcp, udp or sctp
	Container, Host int32
	HostIP          string
}

// DNS is what plugins are told of the pod's resolver.
type DNS struct{ Servers, Searches, Options []string }

// Attachment is what a pod got.
type Attachment struct {
	IPs    []string // the primary one first
	Result []byte   // JSON: the plugins' result (CNI SPEC.md, section 5)
}

// Config of CNI.
type Config struct {
	ConfigDir  string   // of *.conflist, *.conf; the first by name is used
	PluginDirs []string // of binaries
	CacheDir   string   // of results
}

// CNI attaches pods by plugins. Make it with New.
type CNI struct{ cni }

// New reads nothing yet: configuration may come later, and is read again when it has changed.
func New(c Config) *CNI { return newCNI(c) }

// Attach gives a pod the interface eth0. FailedPrecondition when there is no network configuration. After an error it may be attached in
// part: Detach it.
func (c *CNI) Attach(ctx context.Context, p Pod) (Attachment, error) { return c.attach(ctx, p) }

// Detach takes a pod off its network. It may be repeated, and for a pod that never was attached it does nothing.
func (c *CNI) Detach(ctx context.Context, p Pod) error { return c.detach(ctx, p) }

// Collect has plugins free what they hold for pods that are not among those with the ids live: what a crash of a plugin or a lost disk left, also
// of others that use the same networks (CNI SPEC.md, GC; plugins before 1.1 know of none).
func (c *CNI) Collect(ctx context.Context, live []string) error { return c.collect(ctx, live) }

// Status is nil when there is a configuration, its plugins are there and say that they are ready.
func (c *CNI) Status(ctx context.Context) error { return c.status(ctx) }
