package spec

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// maxResolv bounds what a pod's resolver is told, in bytes.
const maxResolv = 64 << 10

// File is the resolv.conf(5) of a pod.
func (d *DNS) File() ([]byte, error) {
	var b bytes.Buffer
	if len(d.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
	}
	for _, s := range d.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	for _, word := range slices.Concat(d.Servers, d.Searches, d.Options) {
		if strings.ContainsAny(word, "\n\r\x00") {
			return nil, fmt.Errorf("DNS configuration %.100q is more than a word: %w", word, errdefs.ErrInvalidArgument)
		}
	}
	if b.Len() > maxResolv {
		return nil, fmt.Errorf("DNS configuration takes %d bytes, more than %d: %w", b.Len(), maxResolv, errdefs.ErrInvalidArgument)
	}
	return b.Bytes(), nil
}
